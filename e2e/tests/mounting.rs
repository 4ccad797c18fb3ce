//! Mounts of volumes on a node: options, replaced and stacked mounts, targets, groups.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use csi_nfs::service::proto::csi::volume_capability::{AccessType, MountVolume};
use futures_util::future::join_all;
use rstest::rstest;
use rustix::mount::{MountFlags, mount, mount_bind};

use crate::support::requests::{self, map};
use crate::support::{Code, Driver, Lab, Place, Share, csi, mounts};

async fn volume(lab: &Lab, driver: &Driver) -> (Share, csi::Volume) {
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    (share, volume)
}

#[tokio::test]
async fn mount_flags_reach_the_kernel() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (_share, volume) = volume(&lab, &driver).await;
    let flags = ["vers=4.1", "soft", "timeo=50", "noac", "noexec", "noatime"];
    let target = driver.target("pod");
    let mut request = requests::publish(&volume, &target);
    request.volume_capability = Some(requests::mounted(Mode::MultiNodeMultiWriter, &flags));
    driver.node().node_publish_volume(request).await.unwrap();
    let [mount] = &mounts::at(&target)[..] else { panic!("{:?}", mounts::at(&target)) };
    for flag in flags.iter().chain(&["nosuid", "nodev"]) {
        assert!(mount.has(flag), "{flag}: {mount:?}");
    }
}

#[rstest]
#[case("bind")]
#[case("rbind")]
#[case("move")]
#[case("remount")]
#[case("loop")]
#[case("X-mount.mkdir")]
#[case("x-systemd.automount")]
#[case("addr=10.0.0.1")]
#[case("mountaddr=10.0.0.1")]
#[case("clientaddr=10.0.0.1")]
#[case("dev")]
#[case("suid")]
#[case("made-up")]
#[case("vers=5")]
#[case("soft,bind")]
#[case("context=\"system_u\",suid")]
#[case("vers=4.2\nsuid")]
#[tokio::test]
async fn a_mount_option_that_is_not_of_nfs_is_refused(#[case] flag: &str) {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (share, volume) = volume(&lab, &driver).await;
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, &[flag]);
    let target = driver.target("pod");
    let mut request = requests::publish(&volume, &target);
    request.volume_capability = Some(capability.clone());
    let refused = driver.node().node_publish_volume(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(!target.exists() && mounts::at(&target).is_empty());
    let mut request = requests::create(&share, "w");
    request.volume_capabilities = vec![capability];
    assert_eq!(driver.create(request).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(share.names(), ["v"]);
}

#[rstest]
#[case("context")]
#[case("fscontext")]
#[case("defcontext")]
#[case("rootcontext")]
#[tokio::test]
async fn a_label_is_refused_where_selinux_does_not_have_it_and_the_error_says_so(#[case] option: &str) {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    let flag = format!("{option}=\"system_u:object_r:container_file_t:s0:c1,c2\"");
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, &[&flag]);
    // The controller does not mount with it.
    let request =
        csi::CreateVolumeRequest { volume_capabilities: vec![capability.clone()], ..requests::create(&share, "v") };
    let volume = driver.create(request).await.unwrap();
    let target = driver.target("pod");
    let mut request = requests::publish(&volume, &target);
    request.volume_capability = Some(capability);
    let refused = driver.node().node_publish_volume(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("Invalid argument") && refused.message().contains("SELinux"), "{refused}");
    assert!(mounts::at(&target).is_empty());
}

#[tokio::test]
async fn a_static_volume_is_mounted_by_its_context_whatever_its_handle() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    fs::create_dir_all(share.path.join("data/deep")).unwrap();
    fs::write(share.path.join("data/deep/file"), "x").unwrap();
    let context = map([("server", "127.0.0.1"), ("share", &share.share)]);
    let whole = csi::Volume { volume_id: "whatever".into(), volume_context: context, ..Default::default() };
    let mut part = whole.clone();
    part.volume_context.insert("subDir".into(), "data/deep".into());
    for (volume, file) in [(&whole, "data/deep/file"), (&part, "file")] {
        let target = driver.target("pod");
        driver.publish(volume, &target).await.unwrap();
        assert_eq!(fs::read_to_string(target.join(file)).unwrap(), "x");
        driver.unpublish(&volume.volume_id, &target).await.unwrap();
    }
    // DeleteVolume of a volume that was not provisioned fails or does nothing. It never deletes the share.
    let _ = driver.delete("whatever").await;
    assert!(share.path.join("data/deep/file").is_file());
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_not_mounted() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (share, volume) = volume(&lab, &driver).await;
    fs::remove_dir(share.path.join("v")).unwrap();
    let target = driver.target("pod");
    let missing = driver.publish(&volume, &target).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    assert!(missing.message().contains(&share.share), "{missing}");
    assert!(mounts::at(&target).is_empty());
}

#[tokio::test]
async fn the_parent_of_a_target_is_not_made() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (_share, volume) = volume(&lab, &driver).await;
    let target = driver.path("nobody/made/this");
    driver.publish(&volume, &target).await.unwrap_err();
    assert!(!driver.path("nobody").exists());
}

#[tokio::test]
async fn a_target_that_is_a_symbolic_link_or_a_file_is_not_followed_or_removed() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (_share, volume) = volume(&lab, &driver).await;
    let elsewhere = driver.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let link = driver.target("link");
    symlink(&elsewhere, &link).unwrap();
    let file = driver.target("file");
    fs::write(&file, "mine").unwrap();
    for target in [&link, &file] {
        driver.publish(&volume, target).await.unwrap_err();
        let _ = driver.unpublish(&volume.volume_id, target).await;
    }
    assert!(mounts::at(&elsewhere).is_empty() && elsewhere.is_dir());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[tokio::test]
async fn a_target_with_content_is_not_emptied() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (_share, volume) = volume(&lab, &driver).await;
    let target = driver.target("pod");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("file"), "mine").unwrap();
    let _ = driver.unpublish(&volume.volume_id, &target).await;
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "mine");
}

#[tokio::test]
async fn all_mounts_that_are_stacked_on_a_target_go() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (_share, volume) = volume(&lab, &driver).await;
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    mount_bind(&target, &target).unwrap();
    mount_bind(&target, &target).unwrap();
    assert_eq!(mounts::at(&target).len(), 3);
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    assert!(mounts::at(&target).is_empty() && !target.exists());
}

#[tokio::test]
async fn a_stale_mount_on_the_target_is_replaced() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (share, volume) = volume(&lab, &driver).await;
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    // The volume's path now leads to another directory.
    fs::rename(share.path.join("v"), share.path.join("gone")).unwrap();
    fs::remove_dir(share.path.join("gone")).unwrap();
    fs::create_dir(share.path.join("v")).unwrap();
    fs::write(share.path.join("v/file"), "new").unwrap();
    driver.publish(&volume, &target).await.unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
    assert_eq!(mounts::at(&target).len(), 1);
}

#[tokio::test]
async fn a_foreign_mount_on_the_target_is_neither_taken_for_the_volume_nor_removed() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (_share, volume) = volume(&lab, &driver).await;
    let target = driver.target("pod");
    fs::create_dir(&target).unwrap();
    mount("none", &target, "tmpfs", MountFlags::empty(), None).unwrap();
    let table = mounts::all();
    let taken = driver.publish(&volume, &target).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    let kept = driver.unpublish(&volume.volume_id, &target).await.unwrap_err();
    assert_eq!(kept.code(), Code::FailedPrecondition, "{kept}");
    assert_eq!(mounts::all(), table);
}

#[tokio::test]
async fn a_server_by_one_name_is_the_same_by_another() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (share, by_address) = volume(&lab, &driver).await;
    let by_name = driver.create(requests::create(&share.by("localhost"), "w")).await.unwrap();
    let (one, two) = (driver.target("one"), driver.target("two"));
    for (volume, target) in [(&by_address, &one), (&by_name, &two), (&by_address, &one), (&by_name, &two)] {
        driver.publish(volume, target).await.unwrap();
        assert_eq!(mounts::at(target).len(), 1);
    }
    // A volume with a different directory is a different volume.
    assert_eq!(driver.publish(&by_name, &one).await.unwrap_err().code(), Code::AlreadyExists);
    for (volume, target) in [(&by_address, &one), (&by_name, &two)] {
        let health = csi::NodeGetVolumeHealthRequest {
            volume_id: volume.volume_id.clone(),
            volume_publish_path: target.to_str().unwrap().to_owned(),
            ..Default::default()
        };
        let health = driver.node().node_get_volume_health(health).await.unwrap().into_inner().volume_health.unwrap();
        assert_eq!(health.health_statuses, []);
        driver.unpublish(&volume.volume_id, target).await.unwrap();
    }
}

#[tokio::test]
async fn a_mount_group_owns_the_root_of_the_volume_and_what_is_made_in_it() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (share, volume) = volume(&lab, &driver).await;
    let target = driver.target("pod");
    let mut request = requests::publish(&volume, &target);
    let mount = MountVolume { volume_mount_group: "2345".into(), ..Default::default() };
    request.volume_capability =
        Some(csi::VolumeCapability { access_type: Some(AccessType::Mount(mount)), ..requests::shared() });
    driver.node().node_publish_volume(request).await.unwrap();
    let meta = fs::metadata(share.path.join("v")).unwrap();
    assert_eq!(meta.gid(), 2345);
    assert_eq!(meta.mode() & 0o2070, 0o2070, "{:o}", meta.mode());
    fs::write(target.join("file"), "x").unwrap();
    assert_eq!(fs::metadata(target.join("file")).unwrap().gid(), 2345);
}

#[tokio::test]
async fn an_inline_volume_is_published_only_where_a_flag_allows_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let context = map([("csi.storage.k8s.io/ephemeral", "true"), ("server", "127.0.0.1"), ("share", &share.share)]);
    let volume = csi::Volume { volume_id: "csi-inline-1".into(), volume_context: context, ..Default::default() };
    let driver = Driver::start().await;
    let target = driver.target("pod");
    let refused = driver.publish(&volume, &target).await.unwrap_err();
    assert!(matches!(refused.code(), Code::InvalidArgument | Code::FailedPrecondition), "{refused}");
    assert!(mounts::at(&target).is_empty());
    let driver = Driver::with(&["--enable-inline-volumes"]).await;
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    assert_eq!(mounts::at(&target).len(), 1);
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
}

#[tokio::test]
async fn the_options_of_the_driver_and_of_the_secret_are_used_where_the_capability_names_none() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--mount-options=vers=4.1"]).await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    assert!(mounts::at(&target)[0].has("vers=4.1"));
    // The volume is reachable only with the mount options in its secret. DeleteVolume needs no secret, because the
    // record has the options.
    let mut request = requests::create(&share, "secret");
    request.secrets = map([("mountOptions", "vers=3,noac")]);
    let volume = driver.create(request).await.unwrap();
    assert_eq!(share.names(), ["secret", "v"]);
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(share.names(), ["v"]);
}

#[tokio::test]
async fn many_volumes_are_published_at_once() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let work = (0..32).map(|n| {
        let (driver, share) = (&driver, &share);
        async move {
            let volume = driver.create(requests::create(share, &format!("v{n}"))).await.unwrap();
            let target = driver.target(&format!("pod{n}"));
            driver.publish(&volume, &target).await.unwrap();
            fs::write(target.join("n"), n.to_string()).unwrap();
            (volume, target)
        }
    });
    for (volume, target) in join_all(work).await {
        driver.unpublish(&volume.volume_id, &target).await.unwrap();
    }
    for n in 0..32 {
        assert_eq!(fs::read_to_string(share.path.join(format!("v{n}/n"))).unwrap(), n.to_string());
    }
}
