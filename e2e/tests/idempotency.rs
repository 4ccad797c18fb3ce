//! Calls that are repeated, collide, arrive all at once, or lose their driver to a kill.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use futures_util::future::join_all;
use rstest::rstest;

use crate::support::requests::{self, MIB};
use crate::support::{Code, Driver, Lab, Place, checked, csi, mounts};

#[rstest]
#[case(Place::Xfs)]
#[case(Place::Tmpfs)]
#[case(Place::Ganesha)]
#[tokio::test]
async fn every_call_can_be_repeated_also_after_a_restart(#[case] place: Place) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    let mut driver = Driver::start().await;
    let request = requests::create(&share, "v");
    let volume = driver.create(request.clone()).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    fs::write(target.join("file"), "x").unwrap();
    let inode = fs::metadata(share.path.join("v")).unwrap().ino();
    for restart in [false, true] {
        if restart {
            driver.kill();
            driver.start_again().await;
        }
        assert_eq!(driver.create(request.clone()).await.unwrap(), volume);
        driver.publish(&volume, &target).await.unwrap();
        assert_eq!(mounts::at(&target).len(), 1);
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "x");
        assert_eq!(driver.expand(&volume.volume_id, MIB).await.unwrap(), MIB);
    }
    assert_eq!(fs::metadata(share.path.join("v")).unwrap().ino(), inode);
    for restart in [false, true] {
        if restart {
            driver.kill();
            driver.start_again().await;
        }
        for _ in 0..2 {
            driver.unpublish(&volume.volume_id, &target).await.unwrap();
            assert!(!target.exists() && mounts::at(&target).is_empty());
        }
    }
    for _ in 0..2 {
        driver.delete(&volume.volume_id).await.unwrap();
    }
    driver.kill();
    driver.start_again().await;
    driver.delete(&volume.volume_id).await.unwrap();
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn a_name_that_belongs_to_another_volume_is_taken() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    let request = requests::create_with(&share, "v", "onDelete", "retain");
    let volume = driver.create(request.clone()).await.unwrap();
    for restart in [false, true] {
        if restart {
            driver.kill();
            driver.start_again().await;
        }
        let larger = csi::CreateVolumeRequest { capacity_range: requests::bytes(2 * MIB), ..request.clone() };
        let other = requests::create_with(&share, "v", "onDelete", "archive");
        let elsewhere = requests::create_with(&share, "v", "subDir", "w");
        let owned = requests::create_with(&share, "v", "uid", "7");
        for conflict in [larger, other, elsewhere, owned] {
            let shown = format!("{conflict:?}", conflict = conflict.parameters);
            let status = driver.create(conflict).await.unwrap_err();
            assert_eq!(status.code(), Code::AlreadyExists, "{shown}: {status}");
            assert!(status.message().contains('v'), "{status}");
        }
        // A smaller size is compatible, since the volume is at least that large.
        let smaller = csi::CreateVolumeRequest { capacity_range: requests::bytes(MIB / 2), ..request.clone() };
        assert_eq!(driver.create(smaller).await.unwrap(), volume);
    }
    assert_eq!(share.names(), ["v"]);
}

#[tokio::test]
async fn a_target_that_is_published_otherwise_is_taken() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    let one = driver.create(requests::create(&share, "one")).await.unwrap();
    let two = driver.create(requests::create(&share, "two")).await.unwrap();
    let target = driver.target("pod");
    let request = requests::publish(&one, &target);
    driver.node().node_publish_volume(request.clone()).await.unwrap();

    let readonly = csi::NodePublishVolumeRequest { readonly: true, ..request.clone() };
    let options = csi::NodePublishVolumeRequest {
        volume_capability: Some(requests::mounted(Mode::MultiNodeMultiWriter, &["noac"])),
        ..request.clone()
    };
    let other = requests::publish(&two, &target);
    let by_mode = csi::NodePublishVolumeRequest {
        volume_capability: Some(requests::mounted(Mode::MultiNodeReaderOnly, &[])),
        ..request.clone()
    };
    std::os::unix::fs::symlink("one", share.path.join("link")).unwrap();
    let named = |sub_dir: &str| {
        let mut request = request.clone();
        request.volume_context.insert("subDir".to_owned(), sub_dir.to_owned());
        request
    };
    for restart in [false, true] {
        if restart {
            driver.kill();
            driver.start_again().await;
        }
        for (what, conflict) in [("readonly", readonly.clone()), ("volume", other.clone())] {
            let status = driver.node().node_publish_volume(conflict).await.unwrap_err();
            assert_eq!(status.code(), Code::AlreadyExists, "{what}: {status}");
        }
        // A running pod keeps its volume, whatever an upgrade has changed.
        for (what, same) in [("options", options.clone()), ("mode", by_mode.clone()), ("link", named("link"))] {
            let answer = driver.node().node_publish_volume(same).await;
            assert!(answer.is_ok(), "{what}, after a restart: {restart}: {answer:?}");
        }
        driver.node().node_publish_volume(request.clone()).await.unwrap();
        assert_eq!(mounts::at(&target).len(), 1);
    }
    for difference in ["`noac` was requested", "`ro` was requested", "/link"] {
        let log = driver.log();
        let warned = log.lines().any(|line| line.contains("WARN") && line.contains(difference));
        assert!(warned, "{difference}: {log}");
    }
}

#[tokio::test]
async fn the_same_call_many_times_at_once_is_one_call() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let created = join_all((0..32).map(|_| driver.create(requests::create(&share, "v")))).await;
    let volume = created[0].clone().unwrap();
    for other in created {
        assert_eq!(other.unwrap(), volume);
    }
    assert_eq!(share.names(), ["v"]);

    let target = driver.target("pod");
    for published in join_all((0..32).map(|_| driver.publish(&volume, &target))).await {
        published.unwrap();
    }
    assert_eq!(mounts::at(&target).len(), 1);
    for unpublished in join_all((0..32).map(|_| driver.unpublish(&volume.volume_id, &target))).await {
        unpublished.unwrap();
    }
    assert!(mounts::at(&target).is_empty() && !target.exists());
    for deleted in join_all((0..32).map(|_| driver.delete(&volume.volume_id))).await {
        deleted.unwrap();
    }
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn two_controllers_share_an_export() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let (a, b) = (Driver::start().await, Driver::start().await);
    for round in 0..8 {
        let request = requests::create(&share, &format!("v{round}"));
        let both = (0..8).flat_map(|_| [a.create(request.clone()), b.create(request.clone())]);
        let created: Vec<_> = join_all(both).await.into_iter().map(Result::unwrap).collect();
        assert!(created.iter().all(|volume| volume == &created[0]));
    }
    assert_eq!(share.names().len(), 8);
    for name in share.names() {
        let id = format!("127.0.0.1#{}#{name}##", &share.share[1..]);
        for deleted in join_all([a.delete(&id), b.delete(&id), a.delete(&id), b.delete(&id)]).await {
            deleted.unwrap();
        }
    }
    assert!(share.names().is_empty());
    checked::at_rest(&share).await;
}

/// The driver is killed at any point. All retries succeed, and nothing incomplete is left.
#[tokio::test]
async fn a_driver_that_is_killed_in_the_middle_of_it_finishes_when_asked_again() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    for round in 0..5 {
        let request = |n: usize| {
            let mut request = requests::create_with(&share, &format!("v{n}"), "uid", "1000");
            request.parameters.insert("mountPermissions".into(), "02770".into());
            request
        };
        let calls: Vec<_> = (0..64)
            .map(|n| {
                let (mut controller, request) = (driver.controller(), request(n));
                tokio::spawn(async move { controller.create_volume(request).await.is_ok() })
            })
            .collect();
        // The driver is killed at different times after the first volume has become visible.
        crate::support::wait::until("a first volume", std::time::Duration::from_secs(10), || {
            (share.names().len() > round).then_some(())
        })
        .await;
        driver.kill();
        for name in share.names() {
            let meta = fs::metadata(share.path.join(&name)).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o2770, 1000), "{name} was visible before it was complete");
        }
        for call in calls {
            let _ = call.await.unwrap();
        }
        driver.start_again().await;
        let volumes = join_all((0..64).map(|n| driver.create(request(n)))).await;
        assert_eq!(share.names().len(), 64);

        let ids: Vec<String> = volumes.into_iter().map(|volume| volume.unwrap().volume_id).collect();
        let calls: Vec<_> = ids
            .iter()
            .map(|id| {
                let mut controller = driver.controller();
                let request = csi::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
                tokio::spawn(async move { controller.delete_volume(request).await.is_ok() })
            })
            .collect();
        crate::support::wait::until("a first deletion", std::time::Duration::from_secs(10), || {
            (share.names().len() < 64 - round).then_some(())
        })
        .await;
        driver.kill();
        for call in calls {
            let _ = call.await.unwrap();
        }
        driver.start_again().await;
        for deleted in join_all(ids.iter().map(|id| driver.delete(id))).await {
            deleted.unwrap();
        }
        assert!(share.names().is_empty(), "{:?}", share.names());
        checked::at_rest(&share).await;
    }
}
