//! The release binary as a process: a static file that runs in an empty root, drains, and reports its work.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::driver::{connect, program};
use crate::support::requests;
use crate::support::wait::until;
use crate::support::{Driver, Lab, Place, csi, http};

#[tokio::test]
async fn the_program_is_one_file_that_needs_nothing_else() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let root = TempDir::with_prefix("root-").unwrap();
    fs::copy(program(), root.path().join("csi-nfs")).unwrap();
    // The root is like that of an image from scratch, without libc, shell or /etc.
    let mut process = Command::new("chroot")
        .arg(root.path())
        .args(["/csi-nfs", "--endpoint=unix:///csi.sock", "--nodeid=n"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let socket = root.path().join("csi.sock");
    until("its socket", Duration::from_secs(10), || socket.exists().then_some(())).await;
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    let mut controller = csi::controller_client::ControllerClient::new(connect(&socket));
    let created = controller.create_volume(requests::create(&share, "v")).await;
    let probed = Command::new("chroot")
        .arg(root.path())
        .args(["/csi-nfs", "probe", "--endpoint=unix:///csi.sock"])
        .status()
        .unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    created.unwrap();
    assert_eq!(share.names(), ["v"]);
    assert!(probed.success());
}

#[tokio::test]
async fn the_released_program_is_small_and_so_is_the_process() {
    let _lab = Lab::enter().await;
    if cfg!(debug_assertions) && std::env::var_os("CSI_NFS_DRIVER").is_none() {
        panic!("CSI_NFS_DRIVER does not name a release build: `make e2e` builds one and sets it");
    }
    let size = fs::metadata(program()).unwrap().len();
    assert!(size < 10_000_000, "{size} bytes");
    let driver = Driver::start().await;
    let resident = driver.proc_status("VmRSS");
    assert!(resident < 12 << 10, "{resident} KiB");
}

#[tokio::test]
async fn calls_in_flight_end_before_the_driver_does() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let (mut controller, request) = (driver.controller(), requests::create(&share, &format!("v{n}")));
            tokio::spawn(async move { controller.create_volume(request).await })
        })
        .collect();
    until("a first volume", Duration::from_secs(10), || (!share.names().is_empty()).then_some(())).await;
    let ended = driver.terminate().await;
    assert!(ended.success(), "{ended}");
    assert!(!driver.socket().exists());
    let mut done = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => done += 1,
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
    }
    // Each call either was executed and answered, or never started.
    assert_eq!(share.names().len(), done);
}

#[tokio::test]
async fn calls_and_mounts_are_counted_and_health_is_told_over_http() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let address = "127.0.0.1:29808";
    let driver = Driver::with(&[&format!("--http-endpoint={address}")]).await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    driver.publish(&volume, &driver.target("pod")).await.unwrap();
    driver.create(requests::create(&share, "..")).await.unwrap_err();
    let get = |path| http::get(address, path);
    assert!(get("/healthz").starts_with("HTTP/1.1 200 "));
    assert!(get("/readyz").starts_with("HTTP/1.1 200 "));
    let metrics = get("/metrics");
    for line in [
        r#"csi_nfs_rpc_duration_seconds_count{method="CreateVolume",code="OK"} 1"#,
        r#"csi_nfs_rpc_duration_seconds_count{method="CreateVolume",code="InvalidArgument"} 1"#,
        r#"csi_nfs_rpc_duration_seconds_count{method="NodePublishVolume",code="OK"} 1"#,
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in:\n{metrics}");
    }
    // Mounts and reachability by server, and the size of the trash.
    let (server, export) = (&share.server, format!("{}:{}", share.server, share.share));
    for line in [
        format!(r#"csi_nfs_server_reachable{{server="{server}",port="2049"}} 1.0"#),
        format!(r#"csi_nfs_trash_entries{{export="{export}"}} 0.0"#),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in:\n{metrics}");
    }
    let mounted = format!(r#"csi_nfs_mounts{{server="{server}",version="4.2",sec="sys",xprtsec="none",fallback="#);
    let counted = || get("/metrics").lines().any(|line| line.starts_with(&mounted)).then_some(());
    until("the mount among the metrics", Duration::from_secs(30), counted).await;
}
