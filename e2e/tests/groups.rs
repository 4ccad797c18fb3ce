//! Groups of snapshots. A group is created and deleted as a whole.

use std::fs;
use std::time::Duration;

use tonic::Status;

use crate::snapshots::{content, fill, listed};
use crate::support::requests::{self, MIB, from, of_snapshot};
use crate::support::{Code, Driver, Lab, Place, Share, checked, csi, random};

fn group(name: &str, volumes: &[csi::Volume]) -> csi::CreateVolumeGroupSnapshotRequest {
    csi::CreateVolumeGroupSnapshotRequest {
        name: name.to_owned(),
        source_volume_ids: volumes.iter().map(|volume| volume.volume_id.clone()).collect(),
        ..Default::default()
    }
}

async fn take(
    driver: &Driver,
    request: csi::CreateVolumeGroupSnapshotRequest,
) -> Result<csi::VolumeGroupSnapshot, Status> {
    Ok(driver.groups().create_volume_group_snapshot(request).await?.into_inner().group_snapshot.unwrap())
}

/// Repeats the call until the whole group is ready, as Kubernetes does.
async fn taken(driver: &Driver, request: &csi::CreateVolumeGroupSnapshotRequest) -> csi::VolumeGroupSnapshot {
    loop {
        let group = take(driver, request.clone()).await.unwrap();
        if group.ready_to_use {
            return group;
        }
    }
}

fn deletion(group: &csi::VolumeGroupSnapshot) -> csi::DeleteVolumeGroupSnapshotRequest {
    csi::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: group.group_snapshot_id.clone(),
        snapshot_ids: ids(group),
        ..Default::default()
    }
}

fn ids(group: &csi::VolumeGroupSnapshot) -> Vec<String> {
    group.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect()
}

async fn volumes(driver: &Driver, share: &Share, names: &[&str]) -> Vec<csi::Volume> {
    let mut made = Vec::new();
    for name in names {
        made.push(driver.create(requests::create(share, name)).await.unwrap());
    }
    made
}

#[tokio::test]
async fn a_group_equals_its_volumes_is_restored_and_goes_as_one() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    for place in [Place::Xfs, Place::Tmpfs] {
        let share = lab.share(place);
        let made = volumes(&driver, &share, &["u", "v", "w"]).await;
        for name in ["u", "v", "w"] {
            fill(&share.path.join(name));
            fs::write(share.path.join(name).join("name"), name).unwrap();
        }
        let request = group("g", &made);
        let taken = taken(&driver, &request).await;
        assert_eq!(take(&driver, request).await.unwrap(), taken, "a repeated call returns the same answer");
        let of_share =
            |ids: Vec<String>| ids.into_iter().filter(|id| id.contains(&share.share[1..])).collect::<Vec<_>>();
        assert_eq!(of_share(listed(&driver, csi::ListSnapshotsRequest::default()).await), ids(&taken));
        for (snapshot, name) in taken.snapshots.iter().zip(["u", "v", "w"]) {
            assert_eq!(snapshot.group_snapshot_id, taken.group_snapshot_id);
            let restored = format!("r-{name}");
            driver.create(from(&share, &restored, of_snapshot(&snapshot.snapshot_id))).await.unwrap();
            assert_eq!(content(&share.path.join(restored)), content(&share.path.join(name)), "{place:?}");
            let status = driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        }
        let other = take(&driver, group("g", &made[..2])).await.unwrap_err();
        assert_eq!(other.code(), Code::AlreadyExists, "{other}");
        driver.groups().delete_volume_group_snapshot(deletion(&taken)).await.unwrap();
        driver.groups().delete_volume_group_snapshot(deletion(&taken)).await.unwrap();
        assert_eq!(of_share(listed(&driver, csi::ListSnapshotsRequest::default()).await), Vec::<String>::new());
        checked::at_rest(&share).await;
        assert!(share.left_in("snapshots").is_empty());
    }
}

#[tokio::test]
async fn a_group_that_a_kill_cuts_short_is_made_or_deleted_by_the_retry_and_never_seen_in_part() {
    let lab = Lab::enter().await;
    let mut random = random::seeded();
    let share = lab.share(Place::Tmpfs);
    let export = format!("--export={}:{}", share.server, share.share);
    let mut driver = Driver::with(&["--mode=controller", &export]).await;
    let made = volumes(&driver, &share, &["v", "w"]).await;
    for name in ["v", "w"] {
        for n in 0..300 {
            fs::write(share.path.join(format!("{name}/{n}")), n.to_string()).unwrap();
        }
    }
    for round in 0..12 {
        let request = group("g", &made);
        let (mut client, call) = (driver.groups(), request.clone());
        let call = tokio::spawn(async move { client.create_volume_group_snapshot(call).await });
        let early = Duration::from_millis(600).mul_f64(random.f64());
        let _ = tokio::time::timeout(early, call).await;
        driver.kill();
        driver.start_again().await;
        let seen = listed(&driver, csi::ListSnapshotsRequest::default()).await;
        assert!(seen.is_empty() || seen.len() == 2, "round {round}: {seen:?}");
        let taken = taken(&driver, &request).await;
        for (n, name) in ["v", "w"].into_iter().enumerate() {
            let tree = share.path.join(format!(".csi-nfs/snapshots/g-{n}.tree"));
            assert_eq!(content(&tree), content(&share.path.join(name)), "round {round}");
        }
        let (mut client, call) = (driver.groups(), deletion(&taken));
        let call = tokio::spawn(async move { client.delete_volume_group_snapshot(call).await });
        let _ = tokio::time::timeout(Duration::from_millis(20).mul_f64(random.f64()), call).await;
        driver.kill();
        driver.start_again().await;
        let seen = listed(&driver, csi::ListSnapshotsRequest::default()).await;
        assert!(seen.is_empty() || seen.len() == 2, "round {round}: {seen:?}");
        driver.groups().delete_volume_group_snapshot(deletion(&taken)).await.unwrap();
        assert_eq!(listed(&driver, csi::ListSnapshotsRequest::default()).await, Vec::<String>::new());
    }
    checked::at_rest(&share).await;
    assert!(share.left_in("snapshots").is_empty());
}

#[tokio::test]
async fn a_full_export_keeps_nothing_of_a_group_and_lets_one_go() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Small);
    let driver = Driver::start().await;
    let made = volumes(&driver, &share, &["v", "w"]).await;
    fs::write(share.path.join("v/small"), vec![1; MIB as usize]).unwrap();
    fs::write(share.path.join("w/large"), vec![1; 8 * MIB as usize]).unwrap();
    let status = take(&driver, group("g", &made)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(made.iter().any(|volume| status.message().contains(&volume.volume_id)), "{status}");
    checked::at_rest(&share).await;
    assert!(share.left_in("snapshots").is_empty());

    let taken = taken(&driver, &group("g", &made[..1])).await;
    let filled = share.path.join("v/rest");
    while fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&filled)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
        .is_ok()
    {}
    driver.groups().delete_volume_group_snapshot(deletion(&taken)).await.unwrap();
    share.trash_is_empty().await;
    assert!(share.left_in("snapshots").is_empty());
    fs::remove_dir_all(&share.path).unwrap();
}
