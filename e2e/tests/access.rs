//! Access to a volume by its owner and mode, and servers that refuse an operation.

use std::fs;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;

use crate::support::requests;
use crate::support::{Code, Driver, Lab, Place, Tree, csi, mounts};

#[rstest]
#[case(Mode::SingleNodeWriter)]
#[case(Mode::SingleNodeReaderOnly)]
#[case(Mode::MultiNodeReaderOnly)]
#[case(Mode::MultiNodeSingleWriter)]
#[case(Mode::MultiNodeMultiWriter)]
#[case(Mode::SingleNodeSingleWriter)]
#[case(Mode::SingleNodeMultiWriter)]
#[tokio::test]
async fn every_access_mode_is_served(#[case] mode: Mode) {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let mut request = requests::create(&share, "v");
    request.volume_capabilities = vec![requests::mounted(mode, &[])];
    let volume = driver.create(request).await.unwrap();
    let target = driver.target("pod");
    let mut request = requests::publish(&volume, &target);
    request.volume_capability = Some(requests::mounted(mode, &[]));
    driver.node().node_publish_volume(request).await.unwrap();
    let reader = matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly);
    assert_eq!(fs::write(target.join("file"), "x").is_err(), reader);
}

#[tokio::test]
async fn a_block_volume_or_none_at_all_is_refused() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let unknown = requests::mounted(Mode::Unknown, &[]);
    let neither = csi::VolumeCapability { access_type: None, ..requests::shared() };
    let no_mode = csi::VolumeCapability { access_mode: None, ..requests::shared() };
    let target = driver.target("pod");
    for capability in [requests::block(), unknown, neither, no_mode] {
        let mut create = requests::create(&share, "w");
        create.volume_capabilities = vec![requests::shared(), capability.clone()];
        let status = driver.create(create).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{capability:?}: {status}");
        let mut publish = requests::publish(&volume, &target);
        publish.volume_capability = Some(capability.clone());
        let status = driver.node().node_publish_volume(publish).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{capability:?}: {status}");
    }
    let mut create = requests::create(&share, "w");
    create.volume_capabilities.clear();
    assert_eq!(driver.create(create).await.unwrap_err().code(), Code::InvalidArgument);
    let mut publish = requests::publish(&volume, &target);
    publish.volume_capability = None;
    assert_eq!(driver.node().node_publish_volume(publish).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(share.names(), ["v"]);
    assert!(!target.exists());
}

#[tokio::test]
async fn a_single_writer_has_one_target() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let other = driver.create(requests::create(&share, "w")).await.unwrap();
    let publish = |driver: &Driver, volume: &csi::Volume, pod: &str| {
        let mut request = requests::publish(volume, &driver.target(pod));
        request.volume_capability = Some(requests::mounted(Mode::SingleNodeSingleWriter, &[]));
        let mut node = driver.node();
        async move { node.node_publish_volume(request).await.map(drop) }
    };
    publish(&driver, &volume, "one").await.unwrap();
    publish(&driver, &volume, "one").await.unwrap();
    publish(&driver, &other, "other").await.unwrap();
    for restart in [false, true] {
        if restart {
            driver.kill();
            driver.start_again().await;
        }
        let second = publish(&driver, &volume, "two").await.unwrap_err();
        assert_eq!(second.code(), Code::FailedPrecondition, "{second}");
        assert!(mounts::at(&driver.target("two")).is_empty());
    }
    driver.unpublish(&volume.volume_id, &driver.target("one")).await.unwrap();
    publish(&driver, &volume, "two").await.unwrap();
}

#[tokio::test]
async fn a_server_that_forbids_it_is_told_of_with_what_to_do() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    // One export is read-only. The other squashes root and belongs to another user.
    let readonly = lab.share(Place::ReadOnly);
    let squashed = lab.share(Place::Squashed);
    fs::set_permissions(&squashed.path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (share, advice) in [(&readonly, "rw"), (&squashed, "no_root_squash")] {
        let before = Tree::of(&share.path);
        let status = driver.create(requests::create(share, "v")).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        for part in [&share.share, advice] {
            assert!(status.message().contains(part), "{part} is not in: {status}");
        }
        before.assert_unchanged("a volume that the server forbids");
    }
}

#[tokio::test]
async fn a_volume_of_a_read_only_export_can_be_read() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::ReadOnly);
    fs::create_dir(share.path.join("data")).unwrap();
    fs::write(share.path.join("data/file"), "x").unwrap();
    let context = requests::map([("server", "127.0.0.1"), ("share", &share.share), ("subDir", "data")]);
    let volume = csi::Volume { volume_id: "static".into(), volume_context: context, ..Default::default() };
    let target = driver.target("pod");
    let mut request = requests::publish(&volume, &target);
    request.readonly = true;
    driver.node().node_publish_volume(request).await.unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "x");
}

#[tokio::test]
async fn capabilities_are_confirmed_or_refused_with_a_reason() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let validate = |volume_id: &str, capability| {
        let request = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: volume_id.to_owned(),
            volume_capabilities: vec![capability],
            ..Default::default()
        };
        let mut controller = driver.controller();
        async move { controller.validate_volume_capabilities(request).await.map(tonic::Response::into_inner) }
    };
    let good = validate(&volume.volume_id, requests::shared()).await.unwrap();
    assert_eq!(good.confirmed.unwrap().volume_capabilities, [requests::shared()]);
    let bad = validate(&volume.volume_id, requests::block()).await.unwrap();
    assert!(bad.confirmed.is_none() && !bad.message.is_empty(), "{bad:?}");
    let missing = format!("127.0.0.1#{}#missing##", &share.share[1..]);
    assert_eq!(validate(&missing, requests::shared()).await.unwrap_err().code(), Code::NotFound);
    fs::remove_dir(share.path.join("v")).unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(validate(&volume.volume_id, requests::shared()).await.unwrap_err().code(), Code::NotFound);
}

/// Root is squashed, so modes bind the driver, as the owner of what it made. A Go module cache has such directories.
#[tokio::test]
async fn a_tree_that_keeps_its_owner_out_is_cloned_archived_and_deleted_where_root_is_squashed() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::enter().await;
    let share = lab.share(Place::Squashed);
    let driver = Driver::start().await;
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let fill = |name: &str| {
        let root = share.path.join(name);
        fs::create_dir_all(root.join("pkg/mod")).unwrap();
        fs::write(root.join("pkg/mod/go.mod"), "module x").unwrap();
        for (path, bits) in [("pkg/mod/go.mod", 0o444), ("pkg/mod", 0o555), ("pkg", 0o555), ("", 0o555)] {
            std::os::unix::fs::chown(root.join(path), Some(65534), Some(65534)).unwrap();
            mode(&root.join(path), bits);
        }
    };
    let deleted = driver.create(requests::create(&share, "deleted")).await.unwrap();
    fill("deleted");
    let source = requests::of_volume(&deleted.volume_id);
    let clone = driver.create(requests::from(&share, "clone", source)).await.unwrap();
    assert_eq!(fs::read_to_string(share.path.join("clone/pkg/mod/go.mod")).unwrap(), "module x");
    let request = requests::create_with(&share, "archived", "onDelete", "archive");
    let archived = driver.create(request).await.unwrap();
    fill("archived");
    for volume in [deleted, clone, archived] {
        driver.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(share.names(), ["archived-archived"]);
    let kept = fs::metadata(share.path.join("archived-archived")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o7777, 0o555, "the archive has the mode that the volume had");
    share.trash_is_empty().await;
}
