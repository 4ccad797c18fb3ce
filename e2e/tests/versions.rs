//! A server that lacks a version of NFS. The driver uses a lower version and reports that.

use csi_nfs::service::proto::csi::VolumeHealthErrorType as Kind;

use crate::support::{Driver, Lab, Place, csi, http, mounts, requests};

#[tokio::test]
async fn a_server_without_version_4_for_a_moment_is_used_with_version_3_and_everybody_is_told() {
    let lab = Lab::alone().await;
    let address = "127.0.0.1:9190";
    let mut driver = Driver::with(&[&format!("--http-endpoint={address}")]).await;
    let share = lab.share(Place::Tmpfs);
    let [one, other] = ["one", "other"].map(|pod| driver.target(pod));
    let mounts_of = |version: &str, fallback: &str| {
        let reading = format!(r#"csi_nfs_mounts{{server="127.0.0.1",version="{version}",fallback="{fallback}"}} 1"#);
        http::get(address, "/metrics").contains(&reading)
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
    assert!(mounts_of("3", "true"), "{}", http::get(address, "/metrics"));
    // The controller and the node both mounted the export, and the log reports the lower version once.
    assert_eq!(driver.log().matches("a lower version of NFS than was wanted").count(), 1, "{}", driver.log());
    drop(without);

    driver.kill();
    driver.start_again().await;
    assert!(mounts_of("3", "unknown"), "{}", http::get(address, "/metrics"));
    driver.publish(&volume, &one).await.unwrap();
    assert!(mounts_of("3", "true"), "{}", http::get(address, "/metrics"));
    driver.publish(&volume, &other).await.unwrap();
    assert!(mounts::at(&other)[0].has("vers=4.2"));
    assert!(mounts_of("4.2", "false"), "{}", http::get(address, "/metrics"));
}
