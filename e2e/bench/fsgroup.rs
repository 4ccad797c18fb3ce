//! The pod's `fsGroup`: how long NodePublishVolume takes for a volume of many files, beside kubelet's own walk, which
//! changes one object after the other through the kernel's mount. On loopback, where the one processor is busy, and with
//! round trips of a network, where a walk waits for each answer.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;
use std::time::Instant;

use crate::ms;
use crate::support::requests;
use crate::support::{Driver, Lab, Place, Share, csi, mounts};
use csi_nfs::service::proto::csi::volume_capability::{AccessType, MountVolume};

/// The number of files, in directories of 100. `CSI_NFS_BENCH_FILES` gives another one.
const FILES: usize = 50_000;
const GROUP: u32 = 2345;

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::with(&["-v=0"]).await;
    let empty = driver.create(requests::create(&share, "empty")).await.unwrap();
    let full = driver.create(requests::create(&share, "full")).await.unwrap();
    let files = std::env::var("CSI_NFS_BENCH_FILES").map_or(FILES, |files| files.parse().unwrap());
    for n in 0..files {
        let dir = share.path.join("full").join((n / 100).to_string());
        if n % 100 == 0 {
            fs::create_dir(&dir).unwrap();
        }
        fs::File::create(dir.join(n.to_string())).unwrap();
    }
    println!("\nNodePublishVolume with fsGroup, XFS, NFS 4.2, one round.\n");
    println!("{:44} {:>10} {:>22} {:>22} {:>6}", "", "changed", "kubelet's walk", "agrees (empty agrees)", "ratio");
    for (delay, round_trip) in [("950us", "2 ms"), ("150us", "0.4 ms")] {
        let _slow = lab.with_delay(delay);
        // Without the delay, it is 0.1 ms.
        let what = format!("{files} files, with a round trip of {round_trip}");
        measure(&mut driver, &share, [&empty, &full], &what).await;
    }
    measure(&mut driver, &share, [&empty, &full], &format!("{files} files, loopback")).await;
}

async fn measure(driver: &mut Driver, share: &Share, [empty, full]: [&csi::Volume; 2], what: &str) {
    let (path, target) = (share.path.join("full"), driver.target("pod"));
    reset(&path);
    let changed = published(driver, full, &target, Some(GROUP)).await;
    assert_eq!(fs::metadata(path.join("0/0")).unwrap().gid(), GROUP);
    let agreeing = published(driver, full, &target, Some(GROUP)).await;
    published(driver, empty, &target, Some(GROUP)).await;
    let agreeing_empty = published(driver, empty, &target, Some(GROUP)).await;

    reset(&path);
    without_cache(driver).await;
    driver.publish(full, &target).await.unwrap();
    let start = Instant::now();
    kubelet(&target);
    let kubelet = ms(start.elapsed());
    driver.unpublish(&full.volume_id, &target).await.unwrap();
    let agrees = format!("{agreeing:.1} ms ({agreeing_empty:.1} ms)");
    println!("{:44} {:>8.1} s {:>20.1} s {agrees:>22} {:>6.1}", what, changed / 1e3, kubelet / 1e3, kubelet / changed);
}

/// The duration of NodePublishVolume in ms, with an empty cache.
async fn published(driver: &mut Driver, volume: &csi::Volume, target: &Path, group: Option<u32>) -> f64 {
    without_cache(driver).await;
    let mut request = requests::publish(volume, target);
    if let Some(group) = group {
        let mount = MountVolume { volume_mount_group: group.to_string(), ..Default::default() };
        request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount));
    }
    let start = Instant::now();
    // The call may outlive its caller; a repeated call waits for it.
    while let Err(status) = driver.node().node_publish_volume(request.clone()).await {
        assert_eq!(status.code(), tonic::Code::Cancelled, "{status}");
    }
    let took = ms(start.elapsed());
    driver.unpublish(&volume.volume_id, target).await.unwrap();
    took
}

/// Starts the driver again, so that the kernel forgets what it knows of the export.
async fn without_cache(driver: &mut Driver) {
    driver.kill();
    mounts::no_nfs_is_left().await;
    driver.start_again().await;
}

/// What kubelet does (SetVolumeOwnership): lchown and chmod of each object, the children first.
fn kubelet(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            kubelet(&entry.unwrap().path());
        }
    }
    lchown(path, None, Some(GROUP)).unwrap();
    let mask = if metadata.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o7777 | mask)).unwrap();
}

/// Gives the files back to root's group, on the server.
fn reset(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            reset(&entry.unwrap().path());
        }
    }
    lchown(path, None, Some(0)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(if metadata.is_dir() { 0o755 } else { 0o644 })).unwrap();
}
