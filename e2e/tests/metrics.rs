//! What the metrics tell without any call, and that Prometheus takes them.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::agent::Agent;
use crate::support::driver::program;
use crate::support::wait::until;
use crate::support::{Driver, Lab, Outage, Place, Share, http, requests};

/// A look at an export begins every 30 s, at a server every 15 s, and a silent server is waited for.
const TOLD: Duration = Duration::from_secs(90);

/// The metrics of a driver or an agent, by the text of their names and labels.
struct Metrics(&'static str);

impl Metrics {
    fn value(&self, series: &str) -> Option<f64> {
        let answer = http::get(self.0, "/metrics");
        answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until a series has a value that is `wanted`, or until it has none.
    async fn until(&self, series: &str, wanted: impl Fn(Option<f64>) -> bool) -> Option<f64> {
        until(series, TOLD, || Some(self.value(series)).filter(|value| wanted(*value))).await
    }
}

fn of(share: &Share, name: &str) -> String {
    format!("csi_nfs_{name}{{export=\"{}:{}\"}}", share.server, share.share)
}

#[tokio::test]
async fn an_outage_and_a_lost_directory_are_told_without_any_call_and_end_by_themselves() {
    let lab = Lab::alone().await;
    let (share, steady) = (lab.share(Place::Ganesha), lab.share(Place::Xfs));
    let driver = Driver::with(&["--http-endpoint=127.0.0.1:9191"]).await;
    let metrics = Metrics("127.0.0.1:9191");
    let mut request = requests::create(&share, "v");
    for (name, value) in [("pvc/name", "data"), ("pvc/namespace", "team"), ("pv/name", "pvc-1")] {
        request.parameters.insert(format!("csi.storage.k8s.io/{name}"), value.to_owned());
    }
    let volume = driver.create(request).await.unwrap();
    driver.create(requests::create(&steady, "v")).await.unwrap();
    for share in [&share, &steady] {
        metrics.until(&of(share, "export_volumes"), |value| value == Some(1.0)).await;
        assert_eq!(metrics.value(&of(share, "export_reachable")), Some(1.0));
        assert_eq!(metrics.value(&of(share, "export_read_only")), Some(0.0));
        let [size, free] = ["export_size_bytes", "export_free_bytes"].map(|name| metrics.value(&of(share, name)));
        assert!(size > free && free > Some(0.0), "{size:?} {free:?}");
    }

    fs::rename(share.path.join("v"), share.path.join("elsewhere")).unwrap();
    let lost = format!(
        "csi_nfs_volume_health{{export=\"{}:{}\",volume=\"{}\",reason=\"DirectoryMissing\",severity=\"data_loss\",\
         persistentvolumeclaim=\"data\",namespace=\"team\",persistentvolume=\"pvc-1\"}}",
        share.server, share.share, volume.volume_id
    );
    metrics.until(&lost, |value| value == Some(1.0)).await;
    fs::rename(share.path.join("elsewhere"), share.path.join("v")).unwrap();
    metrics.until(&lost, |value| value.is_none()).await;

    let server = format!("csi_nfs_server_reachable{{server=\"{}\",port=\"2049\"}}", share.server);
    {
        let _away = lab.without_ganesha(Outage::Stopped);
        metrics.until(&server, |value| value == Some(0.0)).await;
        metrics.until(&of(&share, "export_reachable"), |value| value == Some(0.0)).await;
        assert_eq!(metrics.value(&of(&share, "export_size_bytes")), None);
        // The other export is looked at meanwhile.
        let checked = of(&steady, "export_checked_timestamp_seconds");
        let before = metrics.value(&checked);
        metrics.until(&checked, |value| value > before).await;
        assert_eq!(metrics.value(&of(&steady, "export_reachable")), Some(1.0));
    }
    metrics.until(&server, |value| value == Some(1.0)).await;
    metrics.until(&of(&share, "export_size_bytes"), |value| value > Some(0.0)).await;
}

/// The path of promtool, which `make promtool` builds.
fn promtool() -> PathBuf {
    let cache = std::env::var_os("CSI_NFS_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/csi-nfs")));
    cache.unwrap().join("prometheus/promtool")
}

#[tokio::test]
async fn promtool_has_no_complaint_about_the_metrics_of_controller_node_and_agent() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let _agent = Agent::by(Command::new(program()), &["--http-endpoint", "127.0.0.12:9189"], &[&share]);
    let driver = Driver::with(&["--http-endpoint=127.0.0.1:9192"]).await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    driver.publish(&volume, &driver.target("pod")).await.unwrap();
    driver.take_whole(requests::snapshot(&volume.volume_id, "s")).await.unwrap();
    let metrics = Metrics("127.0.0.1:9192");
    metrics.until(&of(&share, "export_snapshots"), |value| value == Some(1.0)).await;
    metrics.until("csi_nfs_mounts_weaker{server=\"127.0.0.1\"}", |value| value == Some(0.0)).await;
    assert!(metrics.value("csi_nfs_mount_oldest_timestamp_seconds{server=\"127.0.0.1\"}") > Some(0.0));
    assert!(metrics.value(&of(&share, "lock_wait_seconds_count")) > Some(0.0));
    for address in [metrics.0, "127.0.0.12:9189"] {
        let answer = http::get(address, "/metrics");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("text/plain; version=0.0.4"), "{head}");
        let mut check = Command::new(promtool());
        let check =
            check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut check = check.spawn().expect("promtool is missing; run `make promtool` to build it");
        check.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let said = check.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && complaints.is_empty(), "{complaints}\n{body}");
    }
}
