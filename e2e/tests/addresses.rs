//! Servers by name, when the name resolves to another server or to another address of the same server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rstest::rstest;

use crate::support::names::{Address, Names};
use crate::support::requests;
use crate::support::wait::within;
use crate::support::{Driver, Lab, Place, Share, csi, mounts};

const NAME: &str = "nas.test";
/// The longest time of a call, whatever happens to the addresses of the server.
const TOLD: Duration = Duration::from_secs(5);
/// The longest time until the driver notices that a name resolves to another address.
const NOTICED: Duration = Duration::from_secs(5);

/// Creates volumes until one is in `place`, and returns it.
async fn create_at(driver: &Driver, share: &Share, place: &Path, limit: Duration) -> csi::Volume {
    let start = std::time::Instant::now();
    let mut told = String::new();
    for n in 0.. {
        let name = format!("new{n}");
        match driver.create(requests::create(share, &name)).await {
            Ok(volume) if place.join(&name).is_dir() => return volume,
            Ok(_) => {}
            Err(status) => told = status.to_string(),
        }
        assert!(start.elapsed() < limit, "no volume in {} after {:?}; {told}", place.display(), start.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("there is always another name")
}

async fn health(driver: &Driver, volume: &csi::Volume, target: &Path) -> Vec<(i32, String)> {
    let request = csi::NodeGetVolumeHealthRequest {
        volume_id: volume.volume_id.clone(),
        volume_publish_path: target.to_str().unwrap().to_owned(),
        ..Default::default()
    };
    let answer = driver.node().node_get_volume_health(request).await.unwrap().into_inner();
    answer.volume_health.unwrap().health_statuses.into_iter().map(|entry| (entry.status, entry.reason)).collect()
}

fn address(target: &Path) -> Option<String> {
    let mount = mounts::at(target).pop()?;
    mount.options.iter().find_map(|option| Some(option.strip_prefix("addr=")?.to_owned()))
}

/// The directory on NFS-Ganesha with the same name as a share of the kernel's server.
fn other_side(share: &Share) -> PathBuf {
    let path = Path::new("/srv/ganesha/moved").join(share.path.file_name().unwrap());
    fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn a_name_that_leads_to_another_server_is_followed_and_health_tells_of_what_is_mounted_from_the_old_one() {
    let lab = Lab::alone().await;
    let names = Names::of(&lab);
    names.set(NAME, &["127.0.0.1"]);
    let share = lab.share(Place::Moved).by(NAME);
    let elsewhere = other_side(&share);
    let driver = Driver::start().await;
    let old = driver.create(requests::create(&share, "old")).await.unwrap();
    assert!(share.path.join("old").is_dir());
    let (before, after) = (driver.target("before"), driver.target("after"));
    driver.publish(&old, &before).await.unwrap();
    assert_eq!(health(&driver, &old, &before).await, []);

    names.set(NAME, &["10.90.0.2"]);
    let new = create_at(&driver, &share, &elsewhere, NOTICED).await;
    let at_the_old = share.names();
    driver.publish(&new, &after).await.unwrap();
    assert_eq!(address(&after).as_deref(), Some("10.90.0.2"));
    fs::write(after.join("file"), "x").unwrap();
    assert_eq!(health(&driver, &new, &after).await, []);
    let moved = (csi::VolumeHealthErrorType::Degraded.into(), "ServerMoved".to_owned());
    assert_eq!(health(&driver, &old, &before).await, [moved]);
    // The volume at the old address may be in use by a pod.
    driver.publish(&old, &before).await.unwrap();
    assert_eq!(address(&before).as_deref(), Some("127.0.0.1"));
    driver.unpublish(&old.volume_id, &before).await.unwrap();
    driver.unpublish(&new.volume_id, &after).await.unwrap();
    driver.delete(&new.volume_id).await.unwrap();
    assert_eq!(share.names(), at_the_old, "the driver makes no more changes on the old server");
}

#[tokio::test]
async fn a_server_that_loses_an_address_is_used_at_the_other_one_that_its_name_has() {
    let lab = Lab::alone().await;
    let names = Names::of(&lab);
    let (gone, _stays) = (Address::add("10.91.0.1"), Address::add("10.91.0.2"));
    names.set(NAME, &["10.91.0.1"]);
    let share = lab.share(Place::Xfs).by(NAME);
    let driver = Driver::with(&["--mode=controller"]).await;
    driver.create(requests::create(&share, "old")).await.unwrap();
    drop(gone);
    names.set(NAME, &["10.91.0.2"]);
    // The kernel keeps its connection to the former address while anything uses it, including attempts to mount.
    let new = create_at(&driver, &share, &share.path, Duration::from_secs(150)).await;
    driver.delete(&new.volume_id).await.unwrap();
}

#[rstest]
#[case::the_first(&["10.90.0.99", "127.0.0.1"])]
#[case::of_the_newer_family(&["fd00:90::99", "127.0.0.1"])]
#[case::of_the_older_family(&["10.90.0.99", "::1"])]
#[tokio::test]
async fn a_server_of_whose_addresses_one_is_dead_is_used_at_the_other(#[case] addresses: &[&str]) {
    let lab = Lab::alone().await;
    let names = Names::of(&lab);
    names.set(NAME, addresses);
    let share = lab.share(Place::Xfs).by(NAME);
    let driver = Driver::start().await;
    let target = driver.target("pod");
    let volume = within("CreateVolume", TOLD, driver.create(requests::create(&share, "v"))).await.unwrap();
    within("NodePublishVolume", TOLD, driver.publish(&volume, &target)).await.unwrap();
    assert_eq!(address(&target).as_deref(), Some(addresses[1]));
    assert_eq!(health(&driver, &volume, &target).await, []);
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    within("DeleteVolume", TOLD, driver.delete(&volume.volume_id)).await.unwrap();
}
