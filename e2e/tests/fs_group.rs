//! The pod's `fsGroup` (CSI VOLUME_MOUNT_GROUP): the volume's files get it once, and a server that refuses it stops no
//! pod.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use csi_nfs::service::proto::csi::VolumeHealthErrorType as Kind;
use csi_nfs::service::proto::csi::volume_capability::{AccessType, MountVolume};
use rstest::rstest;
use tonic::Request;

use crate::support::{Code, Driver, Lab, Place, csi, requests};

/// NodePublishVolume for a pod with this `fsGroup`.
pub fn for_group(volume: &csi::Volume, target: &Path, group: u32) -> csi::NodePublishVolumeRequest {
    let mut request = requests::publish(volume, target);
    let mount = MountVolume { volume_mount_group: group.to_string(), ..Default::default() };
    request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount));
    request
}

fn state(path: &Path) -> (u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.gid(), metadata.mode() & 0o7777)
}

#[rstest]
#[case(Place::Xfs)]
#[case(Place::Tmpfs)]
#[case(Place::Ganesha)]
#[tokio::test]
async fn files_of_another_group_are_given_to_the_pod_s_group_once(#[case] place: Place) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let at = |name: &str| share.path.join("v").join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    for n in 0..700 {
        fs::write(at(&format!("a/b/{n}")), "").unwrap();
        fs::set_permissions(at(&format!("a/b/{n}")), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(at("a/b/0"), fs::Permissions::from_mode(0o600)).unwrap();
    let outside = driver.path("outside");
    fs::write(&outside, "").unwrap();
    symlink(&outside, at("a/link")).unwrap();
    let kept = state(&outside);

    let target = driver.target("pod");
    driver.node().node_publish_volume(for_group(&volume, &target, 2345)).await.unwrap();
    assert_eq!(state(&at("a/b/0")), (2345, 0o660));
    assert!((1..700).all(|n| state(&at(&format!("a/b/{n}"))) == (2345, 0o664)));
    assert_eq!((state(&at("a/b")).0, state(&at("a/b")).1 & 0o2070), (2345, 0o2070));
    assert_eq!((state(&at("")).0, state(&at("")).1 & 0o2070), (2345, 0o2070));
    assert_eq!(state(&at("a/link")).0, 2345);
    assert_eq!(state(&outside), kept, "a symbolic link is not followed");

    // The root agrees, so nothing is looked at.
    std::os::unix::fs::lchown(at("a/b/0"), None, Some(7)).unwrap();
    let other = driver.target("other");
    driver.node().node_publish_volume(for_group(&volume, &other, 2345)).await.unwrap();
    assert_eq!(state(&at("a/b/0")).0, 7);
}

#[tokio::test]
async fn a_server_that_refuses_the_group_stops_no_pod_and_health_says_so() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Squashed);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..200 {
        fs::write(share.path.join("v").join(n.to_string()), "").unwrap();
    }
    let target = driver.target("pod");
    let before = state(&share.path.join("v"));
    driver.node().node_publish_volume(for_group(&volume, &target, 2345)).await.unwrap();
    assert!(target.join("0").exists());
    assert_eq!(state(&share.path.join("v")), before, "the group that stays gets no more rights");
    assert!(driver.log().contains("refuses"), "the log says it");
    let request = csi::NodeGetVolumeHealthRequest {
        volume_id: volume.volume_id.clone(),
        volume_publish_path: target.to_str().unwrap().to_owned(),
        ..Default::default()
    };
    let health = driver.node().node_get_volume_health(request).await.unwrap().into_inner().volume_health.unwrap();
    let said: Vec<_> = health.health_statuses.iter().map(|entry| (entry.status(), entry.reason.as_str())).collect();
    assert_eq!(said, [(Kind::Degraded, "GroupRefused")]);
}

#[tokio::test]
async fn a_call_for_a_volume_with_many_files_says_how_many_have_the_group_and_the_retry_gets_the_volume() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..20_000 {
        fs::write(share.path.join(format!("v/{n}")), "").unwrap();
    }
    let target = driver.target("pod");
    let mut told = Vec::new();
    loop {
        let mut call = Request::new(for_group(&volume, &target, 2345));
        call.set_timeout(Duration::from_millis(400));
        match driver.node().node_publish_volume(call).await {
            Ok(_) => break,
            Err(status) => {
                assert_eq!(status.code(), Code::Aborted, "{status}");
                told.push(status.message().to_owned());
            }
        }
    }
    let begin =
        format!("the files of {}:{}/v are being given to the pod's group (fsGroup): ", share.server, share.share);
    let far = |message: &String| -> u64 {
        let far = message.strip_prefix(&begin).unwrap_or_else(|| panic!("{message}"));
        far.split(' ').next().unwrap().parse().unwrap()
    };
    let far: Vec<u64> = told.iter().map(far).collect();
    assert!(!far.is_empty() && far.is_sorted(), "{told:#?}");
    assert!((0..20_000).step_by(1000).all(|n| state(&share.path.join(format!("v/{n}"))).0 == 2345));
}
