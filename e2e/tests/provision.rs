//! The main job: a volume is created, published, written, read, measured, expanded, unpublished and deleted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use csi_nfs::service::proto::csi::volume_usage::Unit;
use rstest::rstest;

use crate::support::requests::{self, MIB};
use crate::support::{Code, Driver, Lab, Place, checked, csi, mounts};

/// The life of one volume on a server, with mount options, and the mounts that the kernel then shows.
#[rstest]
#[case::xfs_v42(Place::Xfs, "127.0.0.1", "vers=4.2", "vers=4.2")]
#[case::tmpfs_v42(Place::Tmpfs, "127.0.0.1", "vers=4.2", "vers=4.2")]
#[case::ganesha_v42(Place::Ganesha, "10.90.0.2", "vers=4.2", "vers=4.2")]
#[case::xfs_v41(Place::Xfs, "127.0.0.1", "vers=4.1", "vers=4.1")]
#[case::tmpfs_v41(Place::Tmpfs, "127.0.0.1", "nfsvers=4.1", "vers=4.1")]
#[case::ganesha_v41(Place::Ganesha, "10.90.0.2", "vers=4.1", "vers=4.1")]
#[case::xfs_v40(Place::Xfs, "127.0.0.1", "vers=4.0", "vers=4.0")]
#[case::tmpfs_v40(Place::Tmpfs, "127.0.0.1", "vers=4.0", "vers=4.0")]
#[case::ganesha_v40(Place::Ganesha, "10.90.0.2", "vers=4.0", "vers=4.0")]
#[case::xfs_v3(Place::Xfs, "127.0.0.1", "vers=3", "vers=3")]
#[case::tmpfs_v3(Place::Tmpfs, "127.0.0.1", "vers=3", "vers=3")]
#[case::xfs_v42_by_ipv6(Place::Xfs, "::1", "vers=4.2", "vers=4.2")]
#[case::tmpfs_v41_by_ipv6_in_brackets(Place::Tmpfs, "[::1]", "vers=4.1", "vers=4.1")]
#[case::xfs_v3_by_ipv6(Place::Xfs, "::1", "vers=3", "vers=3")]
#[case::xfs_by_host_name(Place::Xfs, "localhost", "", "vers=4.2")]
#[case::ganesha_without_options(Place::Ganesha, "10.90.0.2", "", "vers=4.2")]
#[tokio::test]
async fn a_volume_lives_from_its_creation_to_its_deletion(
    #[case] place: Place,
    #[case] server: &str,
    #[case] option: &str,
    #[case] version: &str,
) {
    let lab = Lab::enter().await;
    let share = lab.share(place).by(server);
    let driver = Driver::with(&["--vol-stats-cache-expire-in-minutes=0"]).await;
    let flags: Vec<&str> = Some(option).into_iter().filter(|option| !option.is_empty()).collect();
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, &flags);

    let mut request = requests::create(&share, "life");
    request.volume_capabilities = vec![capability.clone()];
    request.parameters.insert("mountPermissions".into(), "0770".into());
    let volume = driver.create(request).await.unwrap();
    assert_eq!(volume.capacity_bytes, MIB);
    assert_eq!(volume.volume_id, format!("{server}#{}#life##", &share.share[1..]));
    let directory = share.path.join("life");
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o770);

    let publish = |pod: &str, readonly: bool| {
        let target = driver.target(pod);
        let mut request = requests::publish(&volume, &target);
        request.volume_capability = Some(capability.clone());
        request.readonly = readonly;
        let node = driver.node();
        async move {
            let mut node = node;
            node.node_publish_volume(request).await.map(|_| target)
        }
    };
    let one = publish("one", false).await.unwrap();
    let two = publish("two", false).await.unwrap();
    let reader = publish("reader", true).await.unwrap();

    for target in [&one, &two, &reader] {
        let [mount] = &mounts::at(target)[..] else { panic!("{:?}", mounts::at(target)) };
        // The kernel shows the host name of its first mount of this server. The option `addr` has the address.
        assert!(mount.source.ends_with(&format!(":{}/life", share.share)), "{mount:?}");
        for option in [version, "nosuid", "nodev"] {
            assert!(mount.has(option), "{option}: {mount:?}");
        }
        // The kernel may reuse its connection to the same NFSv4 server at another address.
        let addresses: &[&str] = match server {
            "::1" | "[::1]" if version == "vers=3" => &["addr=::1"],
            "::1" | "[::1]" => &["addr=::1", "addr=127.0.0.1"],
            "10.90.0.2" => &["addr=10.90.0.2"],
            _ => &["addr=127.0.0.1", "addr=::1"],
        };
        assert!(addresses.iter().any(|address| mount.has(address)), "{addresses:?}: {mount:?}");
        assert_eq!(mount.has("ro"), target == &reader, "{mount:?}");
    }

    fs::write(one.join("greeting"), "hello").unwrap();
    assert_eq!(fs::read_to_string(two.join("greeting")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(reader.join("greeting")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(directory.join("greeting")).unwrap(), "hello");
    let refused = fs::write(reader.join("greeting"), "no").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    // The client rounds to its block size, which is up to 1 MiB.
    fs::write(two.join("ballast"), vec![0; 4 * MIB as usize]).unwrap();
    let usage = driver.stats(&volume.volume_id, &one).await.unwrap();
    let of = |unit: Unit| *usage.iter().find(|usage| usage.unit == i32::from(unit)).unwrap();
    for usage in [of(Unit::Bytes), of(Unit::Inodes)] {
        assert!(usage.total > 0 && usage.used > 0 && usage.available > 0, "{usage:?}");
        assert!(usage.used + usage.available <= usage.total, "{usage:?}");
    }

    assert_eq!(driver.expand(&volume.volume_id, 8 * MIB).await.unwrap(), 8 * MIB);
    for target in [&one, &two, &reader] {
        driver.unpublish(&volume.volume_id, target).await.unwrap();
        assert!(!target.exists() && mounts::at(target).is_empty(), "{target:?}");
    }
    assert_eq!(fs::read_to_string(directory.join("greeting")).unwrap(), "hello");
    driver.delete(&volume.volume_id).await.unwrap();
    assert!(share.names().is_empty(), "{:?}", share.names());
    checked::at_rest(&share).await;
}

#[tokio::test]
async fn identity_says_who_the_driver_is_and_what_it_can() {
    let _lab = Lab::enter().await;
    let driver = Driver::start().await;
    let info = driver.identity().get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "csi-nfs.rs");
    assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
    let node = driver.node().node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(node.node_id, crate::support::driver::NODE);
    // All nodes have the same topology, since every node reaches every export.
    assert_eq!(node.accessible_topology.unwrap().segments.len(), 1);

    let request = csi::GetPluginCapabilitiesRequest {};
    let capabilities = driver.identity().get_plugin_capabilities(request).await.unwrap().into_inner().capabilities;
    use csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
    let types: Vec<_> = capabilities.into_iter().filter_map(|capability| capability.r#type).collect();
    let service = Service { r#type: service::Type::ControllerService.into() };
    let expansion = VolumeExpansion { r#type: volume_expansion::Type::Online.into() };
    assert!(types.contains(&Type::Service(service)), "{types:?}");
    assert!(types.contains(&Type::VolumeExpansion(expansion)), "{types:?}");
}

#[tokio::test]
async fn the_name_of_the_incumbent_can_be_taken() {
    let _lab = Lab::enter().await;
    let driver = Driver::with(&["--drivername=nfs.csi.k8s.io"]).await;
    let info = driver.identity().get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "nfs.csi.k8s.io");
}

#[tokio::test]
async fn a_subdir_takes_the_names_of_claim_namespace_and_volume() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let template = "${pvc.metadata.namespace}/${pvc.metadata.name}-${pv.metadata.name}";
    let mut request = requests::create_with(&share, "pvc-1", "SUBDIR", template);
    request.parameters.extend(requests::map([
        ("csi.storage.k8s.io/pvc/name", "claim"),
        ("csi.storage.k8s.io/pvc/namespace", "team"),
        ("csi.storage.k8s.io/pv/name", "pvc-1"),
    ]));
    let volume = driver.create(request).await.unwrap();
    assert_eq!(volume.volume_id, format!("127.0.0.1#{}#team/claim-pvc-1#pvc-1#", &share.share[1..]));
    assert!(share.path.join("team/claim-pvc-1").is_dir());
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    fs::write(target.join("file"), "x").unwrap();
    assert!(share.path.join("team/claim-pvc-1/file").is_file());
}

#[tokio::test]
async fn a_directory_has_the_mode_and_owner_that_were_asked_for() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--mount-permissions=0700"]).await;
    driver.create(requests::create(&share, "default")).await.unwrap();
    let mut request = requests::create_with(&share, "asked", "mountPermissions", "02775");
    request.parameters.extend(requests::map([("uid", "1000"), ("gid", "2000")]));
    driver.create(request).await.unwrap();
    let meta = |name: &str| fs::metadata(share.path.join(name)).unwrap();
    assert_eq!(meta("default").mode() & 0o7777, 0o700);
    let asked = meta("asked");
    assert_eq!((asked.mode() & 0o7777, asked.uid(), asked.gid()), (0o2775, 1000, 2000));
    // Only root may use the driver's private directory.
    assert_eq!(meta(".csi-nfs").mode() & 0o7777, 0o700);
}

#[tokio::test]
async fn a_capacity_is_what_was_asked_for_within_its_limits() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let with = |name: &str, required_bytes, limit_bytes| csi::CreateVolumeRequest {
        capacity_range: Some(csi::CapacityRange { required_bytes, limit_bytes }),
        ..requests::create(&share, name)
    };
    assert_eq!(driver.create(with("both", MIB, 2 * MIB)).await.unwrap().capacity_bytes, MIB);
    let limited = driver.create(with("limit", 0, 2 * MIB)).await.unwrap();
    assert!(limited.capacity_bytes <= 2 * MIB);
    let code = async |request| driver.create(request).await.unwrap_err().code();
    assert_eq!(code(with("turned", 2 * MIB, MIB)).await, Code::OutOfRange);
    assert_eq!(code(with("negative", -1, 0)).await, Code::InvalidArgument);
    let mut bounded = with("full", 1 << 50, 0);
    bounded.parameters.insert("overcommit".into(), "1000".into());
    let full = driver.create(bounded).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains(&share.share), "{full}");
    assert_eq!(share.names(), ["both", "limit"]);

    let volume = driver.create(with("both", MIB, 2 * MIB)).await.unwrap();
    // A volume never becomes smaller.
    assert_eq!(driver.expand(&volume.volume_id, MIB / 2).await.unwrap(), MIB);
    // Nothing enforces the size of a class without `overcommit`, so nothing refuses it.
    assert_eq!(driver.expand(&volume.volume_id, 1 << 50).await.unwrap(), 1 << 50);
    let request = csi::ControllerExpandVolumeRequest {
        volume_id: volume.volume_id,
        capacity_range: Some(csi::CapacityRange { required_bytes: 0, limit_bytes: MIB / 2 }),
        ..Default::default()
    };
    let shrunk = driver.controller().controller_expand_volume(request).await.unwrap_err();
    assert_eq!(shrunk.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_volume_of_the_incumbent_is_published_expanded_and_deleted() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    fs::create_dir_all(share.path.join("old")).unwrap();
    fs::write(share.path.join("old/data"), "kept").unwrap();
    let bare = &share.share[1..];
    for id in [format!("127.0.0.1#{bare}#old##"), format!("127.0.0.1/{bare}/old")] {
        let context = requests::map([("server", "127.0.0.1"), ("share", &share.share), ("subDir", "old")]);
        let volume = csi::Volume { volume_id: id, volume_context: context, ..Default::default() };
        let target = driver.target("pod");
        driver.publish(&volume, &target).await.unwrap();
        assert_eq!(fs::read_to_string(target.join("data")).unwrap(), "kept");
        driver.unpublish(&volume.volume_id, &target).await.unwrap();
        assert_eq!(driver.expand(&volume.volume_id, 4 * MIB).await.unwrap(), 4 * MIB);
    }
    driver.delete(&format!("127.0.0.1#{bare}#old##")).await.unwrap();
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn what_can_be_changed_of_a_volume_is_changed() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let modify = |key: &str, value: &str| {
        let request = csi::ControllerModifyVolumeRequest {
            volume_id: volume.volume_id.clone(),
            mutable_parameters: requests::map([(key, value)]),
            ..Default::default()
        };
        let mut controller = driver.controller();
        async move { controller.controller_modify_volume(request).await.map(drop) }
    };
    modify("mountPermissions", "0711").await.unwrap();
    modify("uid", "1234").await.unwrap();
    modify("gid", "4321").await.unwrap();
    modify("onDelete", "retain").await.unwrap();
    assert_eq!(modify("share", "/other").await.unwrap_err().code(), Code::InvalidArgument);
    let meta = fs::metadata(share.path.join("v")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o711, 1234, 4321));
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(share.names(), ["v"]);
}

#[tokio::test]
async fn an_export_itself_is_a_volume_that_outlives_its_claim() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--mount-permissions=0700"]).await;
    fs::create_dir(share.path.join("media")).unwrap();
    let mode = fs::metadata(&share.path).unwrap().mode();
    let mut request = requests::create_with(&share, "whole", "subDir", "/");
    assert_eq!(driver.create(request.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    request.parameters.insert("onDelete".into(), "retain".into());
    let volume = driver.create(request).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    fs::write(target.join("media/film"), "cut").unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    for _ in 0..2 {
        driver.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(fs::read_to_string(share.path.join("media/film")).unwrap(), "cut");
    assert_eq!((share.names(), fs::metadata(&share.path).unwrap().mode()), (vec!["media".to_owned()], mode));
    assert!(!share.path.join(".csi-nfs").exists(), "nothing is made");
}
