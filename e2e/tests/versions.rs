//! A server that lacks a version of NFS. The driver uses a lower version and reports that.

use std::time::Duration;

use csi_nfs::service::proto::csi::VolumeHealthErrorType as Kind;

use crate::support::wait::until;
use crate::support::{Driver, Lab, Place, csi, http, mounts, requests};

#[tokio::test]
async fn a_server_without_version_4_for_a_moment_is_used_with_version_3_and_everybody_is_told() {
    let lab = Lab::alone().await;
    let address = "127.0.0.1:9190";
    let mut driver = Driver::with(&[&format!("--http-endpoint={address}")]).await;
    let share = lab.share(Place::Tmpfs);
    let [one, other] = ["one", "other"].map(|pod| driver.target(pod));
    let mounts_of = async |version: &str, fallback: &str| {
        let kind = format!(r#"version="{version}",sec="sys",xprtsec="none",fallback="{fallback}""#);
        let reading = format!(r#"csi_nfs_mounts{{server="127.0.0.1",{kind}}} 1"#);
        let told = || http::get(address, "/metrics").contains(&reading).then_some(());
        until(&reading, Duration::from_secs(30), told).await;
    };

    let without = lab.without_version_4();
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    driver.publish(&volume, &one).await.unwrap();
    assert!(mounts::at(&one)[0].has("vers=3") && mounts::at(&one)[0].has("nolock"));
    let health = csi::NodeGetVolumeHealthRequest {
        volume_id: volume.volume_id.clone(),
        volume_publish_path: one.to_str().unwrap().to_owned(),
        ..Default::default()
    };
    let answer = driver.node().node_get_volume_health(health.clone()).await.unwrap().into_inner();
    let [told] = &answer.volume_health.unwrap().health_statuses[..] else { panic!("one thing is wrong") };
    assert_eq!((told.status(), told.reason.as_str()), (Kind::Degraded, "NFSVersionFallback"));
    assert!(told.message.contains("version 3") && told.message.contains("locks"), "{told:?}");
    mounts_of("3", "true").await;
    // The controller and the node both mounted the export, and the log reports the lower version once.
    assert_eq!(driver.log().matches("a lower version of NFS than was wanted").count(), 1, "{}", driver.log());
    drop(without);

    driver.kill();
    driver.start_again().await;
    mounts_of("3", "unknown").await;
    driver.publish(&volume, &one).await.unwrap();
    mounts_of("3", "true").await;
    driver.publish(&volume, &other).await.unwrap();
    assert!(mounts::at(&other)[0].has("vers=4.2"));
    mounts_of("4.2", "false").await;
}
