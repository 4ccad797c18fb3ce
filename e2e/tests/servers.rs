//! Servers that do less than most, or otherwise than most (docs/servers.md): on each of them a volume lives, from its
//! creation to its deletion.

use std::fs;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;

use crate::support::servers::{Kind, Served};
use crate::support::{Driver, Lab, checked, csi, requests};

/// Creates a volume, writes to it, snapshots it, restores the snapshot, and deletes everything. Returns the driver.
async fn live(served: &Served, flags: &[&str]) -> Driver {
    let driver = Driver::start().await;
    let share = served.share();
    let volume = served.create(&driver, "v", flags).await;
    let target = driver.target("pod");
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, flags);
    let publish = requests::publish(&volume, &target);
    let publish = csi::NodePublishVolumeRequest { volume_capability: Some(capability), ..publish };
    driver.node().node_publish_volume(publish).await.unwrap();
    fs::create_dir(target.join("directory")).unwrap();
    fs::write(target.join("directory/file"), "content").unwrap();
    let snapshot = driver.take_whole(requests::snapshot(&volume.volume_id, "s")).await.unwrap();
    let restored = requests::from(share, "restored", requests::of_snapshot(&snapshot.snapshot_id));
    let restored = driver.create(restored).await.unwrap();
    assert_eq!(fs::read_to_string(share.path.join("restored/directory/file")).unwrap(), "content");
    assert!(!driver.stats(&volume.volume_id, &target).await.unwrap().is_empty());
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    for id in [&volume.volume_id, &restored.volume_id] {
        driver.delete(id).await.unwrap();
    }
    share.trash_is_empty().await;
    assert_eq!(share.names(), served.foreign());
    driver
}

#[rstest]
#[case::every_user_is_one(Kind::of("rw,insecure,no_subtree_check,all_squash,anonuid=1000,anongid=1000").owned_by(1000))]
#[case::privileged_ports_only(Kind::of("rw,secure,no_subtree_check,no_root_squash"))]
#[case::handles_with_their_path(Kind::of("rw,insecure,subtree_check,no_root_squash").on_xfs())]
#[case::no_access_control_lists(Kind::of("rw,insecure,no_subtree_check,no_root_squash,no_acl"))]
#[case::asynchronous(Kind::of("rw,insecure,no_subtree_check,no_root_squash,async"))]
#[case::no_count_of_inodes(Kind::of("rw,insecure,no_subtree_check,no_root_squash").mounted("nr_inodes=0"))]
#[case::shows_its_snapshots(Kind::of("rw,insecure,no_subtree_check,no_root_squash").with_snapshots())]
#[tokio::test]
async fn a_volume_lives_on_servers_of_many_kinds(#[case] kind: Kind, #[values("vers=4.2", "vers=3")] version: &str) {
    let lab = Lab::alone().await;
    let served = lab.serve(&kind);
    live(&served, &[version]).await;
    if kind.has_snapshots() {
        let output = checked::check(served.share(), &[]);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("directory .snapshot is on another file system of the server"), "{printed}");
        assert_eq!(printed.lines().count(), 2, "{printed}");
    } else {
        checked::agrees(served.share());
    }
}

#[tokio::test]
async fn a_volume_lives_on_a_server_with_version_4_1_alone() {
    let lab = Lab::alone().await;
    let served = lab.serve(&Kind::of("rw,insecure,no_subtree_check,no_root_squash"));
    let _away = lab.with_version_4_1_alone();
    let log = live(&served, &[]).await.log();
    assert_eq!(log.matches("a lower version of NFS than was wanted").count(), 1, "{log}");
    checked::agrees(served.share());
}

#[tokio::test]
async fn a_volume_lives_on_a_server_that_names_owners() {
    let lab = Lab::alone().await;
    let served = lab.serve(&Kind::of("rw,insecure,no_subtree_check,no_root_squash"));
    let _away = lab.with_names_of_owners();
    live(&served, &[]).await;
}
