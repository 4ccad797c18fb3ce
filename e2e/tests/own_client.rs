//! The controller with the driver's own NFS client: without any privilege, and where it cannot serve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rstest::rstest;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;

use crate::support::driver::program;
use crate::support::kernel::{Kernel, NOBODY};
use crate::support::requests::{self, from, of_snapshot, of_volume};
use crate::support::{Code, Driver, Lab, Place, Share, csi, wait};

/// What the tests give their volumes.
const CONTENT: &str = "content";

/// A controller that may do nothing, with its own client.
async fn unprivileged() -> Driver {
    let driver = Driver::on(Kernel::Unprivileged, &["--mode=controller", "--client=own"]).await;
    let status = fs::read_to_string(format!("/proc/{}/status", driver.pid().as_raw_nonzero())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(field("Uid:").split_whitespace().all(|id| id == NOBODY.to_string()), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
    }
    driver
}

/// `csi-nfs SUBCOMMAND` by the same user, with the own client.
fn by_nobody(subcommand: &str, share: &Share) -> (Option<i32>, String) {
    let mut command = Command::new(program());
    command.args([subcommand, "--client=own", &format!("--export={}:{}", share.server, share.share)]);
    let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code(), text)
}

#[rstest]
#[case(Place::Xfs)]
#[case(Place::Tmpfs)]
#[case(Place::Ganesha)]
#[tokio::test]
async fn a_controller_without_any_privilege_makes_copies_lists_and_deletes(#[case] place: Place) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    let driver = unprivileged().await;
    let mut request = requests::create_with(&share, "v", "mountPermissions", "0750");
    request.parameters.extend([("uid".to_owned(), "1000".to_owned()), ("gid".to_owned(), "2000".to_owned())]);
    let v = driver.create(request).await.unwrap();
    let made = fs::metadata(share.path.join("v")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o750, 1000, 2000));
    fs::write(share.path.join("v/file"), CONTENT).unwrap();

    let s = driver.take_whole(requests::snapshot(&v.volume_id, "s")).await.unwrap();
    let restored = driver.create(from(&share, "restored", of_snapshot(&s.snapshot_id))).await.unwrap();
    let clone = driver.create(from(&share, "clone", of_volume(&v.volume_id))).await.unwrap();
    for copy in ["restored", "clone"] {
        assert_eq!(fs::read_to_string(share.path.join(copy).join("file")).unwrap(), CONTENT);
    }
    let listed = driver.controller().list_volumes(csi::ListVolumesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.entries.len(), 3);
    share.trash_is_empty().await;
    let (status, text) = by_nobody("check", &share);
    assert_eq!(status, Some(0), "{text}");
    for told in ["NFS 4.2 by the driver's own client: a lease of ", "does not squash root"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    for volume in [v, restored, clone] {
        driver.delete(&volume.volume_id).await.unwrap();
    }
    driver.drop_snapshot(&s.snapshot_id).await.unwrap();
    share.trash_is_empty().await;
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn an_export_that_is_well_is_found_so_without_any_privilege() {
    let lab = Lab::enter().await;
    let (status, text) = by_nobody("doctor", &lab.share(Place::Xfs));
    assert_eq!(status, Some(0), "{text}");
}

#[tokio::test]
async fn a_process_without_privilege_cannot_mount_and_says_so() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::on(Kernel::Unprivileged, &["--mode=controller", "--client=kernel"]).await;
    let refused = driver.create(requests::create(&share, "v")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("CAP_SYS_ADMIN") && refused.message().contains("own"), "{refused}");
}

#[rstest]
#[case::version_3("vers=3")]
#[case::version_4_0("vers=4.0")]
#[case::kerberos("sec=krb5p")]
#[tokio::test]
async fn what_the_own_client_lacks_is_refused_or_left_to_the_kernels(#[case] option: &str) {
    let lab = Lab::enter().await;
    let place = if option.starts_with("sec=") { Place::Kerberos } else { Place::Xfs };
    let share = lab.share(place);
    let mut request = requests::create(&share, "v");
    request.volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, &[option])];
    let own = Driver::with(&["--client=own"]).await;
    let refused = own.create(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(option) && refused.message().contains("--client kernel"), "{refused}");
    let auto = Driver::with(&["--client=auto"]).await;
    auto.create(request).await.unwrap();
    assert!(auto.log().contains("the kernel's client is used"), "{}", auto.log());
}

#[tokio::test]
async fn classes_with_other_mount_options_do_not_end_each_others_connections() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--client=own"]).await;
    for (n, flags) in [&["vers=4.2"][..], &[], &["vers=4.2"], &[]].into_iter().enumerate() {
        let mut request = requests::create(&share, &format!("v{n}"));
        request.volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, flags)];
        driver.create(request).await.unwrap();
    }
    assert!(!driver.log().contains("the session with the NFS server is over"), "{}", driver.log());
}

#[tokio::test]
async fn the_locks_of_a_killed_controller_are_its_successors_at_once() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = unprivileged().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..2000 {
        fs::write(share.path.join(format!("v/{n}")), CONTENT).unwrap();
    }
    let request = requests::snapshot(&v.volume_id, "s");
    let (mut controller, copied) = (driver.controller(), request.clone());
    let call = tokio::spawn(async move { controller.create_snapshot(copied).await });
    let copying = || (!share.left_in("staging").is_empty()).then_some(());
    wait::until("the start of the copy, which holds locks", Duration::from_secs(20), copying).await;
    driver.kill();
    call.await.unwrap().unwrap_err();
    driver.start_again().await;
    // The server keeps the locks of a client that it does not hear of for 10 s.
    let mut controller = driver.controller();
    let taken = controller.create_snapshot(request);
    wait::within("CreateSnapshot", Duration::from_secs(5), taken).await.unwrap();
}
