//! Classes that limit the total capacity of an export's volumes (`overcommit`).

use std::os::unix::fs::MetadataExt as _;

use futures_util::future::join_all;

use crate::support::requests::{self, MIB};
use crate::support::{Code, Driver, Lab, Place, Share, csi};

/// The export has 4 GiB minus the file system's own use. A thousandth of it is a little less than four volumes of
/// 1 MiB.
const RATIO: &str = "0.001";

fn bounded(share: &Share, name: &str) -> csi::CreateVolumeRequest {
    requests::create_with(share, name, "overcommit", RATIO)
}

fn id(share: &Share, name: &str) -> String {
    format!("{}#{}#{name}##", share.server, &share.share[1..])
}

/// The capacity that GetCapacity returns.
async fn left(driver: &Driver, share: &Share) -> i64 {
    let request = csi::GetCapacityRequest { parameters: bounded(share, "").parameters, ..Default::default() };
    driver.controller().get_capacity(request).await.unwrap().into_inner().maximum_volume_size.unwrap()
}

#[tokio::test]
async fn two_drivers_together_never_promise_more_than_the_class_allows() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let drivers = [Driver::start().await, Driver::start().await];
    let whole = left(&drivers[0], &share).await;
    assert!((3 * MIB..5 * MIB).contains(&whole), "{whole}");
    let fits = whole / MIB;
    for round in 0..5 {
        let name = |n: usize| format!("v{round}-{n}");
        let calls = (0..16).map(|n| drivers[n % 2].create(bounded(&share, &name(n))));
        let (made, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
        assert_eq!(made.len() as i64, fits, "{refused:?}");
        for refused in refused.into_iter().map(Result::unwrap_err) {
            assert_eq!(refused.code(), Code::ResourceExhausted);
            assert!(refused.message().contains("promised") && refused.message().contains(RATIO), "{refused}");
        }
        assert_eq!(left(&drivers[1], &share).await, whole - fits * MIB);
        // Volumes of a class without `overcommit` are never refused, but they count.
        let other = drivers[0].create(requests::create(&share, "other")).await.unwrap();
        assert_eq!(left(&drivers[1], &share).await, 0);
        // Expanding a volume counts, too.
        let first = made[0].as_ref().unwrap();
        let grown = drivers[1].expand(&first.volume_id, first.capacity_bytes + MIB).await.unwrap_err();
        assert_eq!(grown.code(), Code::ResourceExhausted);
        for volume in made.iter().map(|made| made.as_ref().unwrap()).chain([&other]) {
            drivers[round % 2].delete(&volume.volume_id).await.unwrap();
        }
        assert_eq!(left(&drivers[0], &share).await, whole);
    }
}

/// XFS reuses the inode number of a removed file. A record that is replaced twice may have its first number again.
#[tokio::test]
async fn what_became_larger_behind_a_driver_s_back_counts_in_full() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let (counting, other) = (Driver::start().await, Driver::start().await);
    let record = share.path.join(".csi-nfs/volumes/v.json");
    let number = || std::fs::metadata(&record).unwrap().ino();
    let whole = left(&counting, &share).await;
    other.create(requests::create(&share, "v")).await.unwrap();
    let mut numbers = Vec::new();
    for kib in (1..40).map(|n| 1024 + n * 16) {
        numbers.push(number());
        if kib % 48 == 0 {
            assert_eq!(left(&counting, &share).await, whole - (kib - 16) * 1024);
            // Without its index, the driver counts the records anew, and does not read those that it has counted.
            let _ = std::fs::remove_file(share.path.join(".csi-nfs/promised/index.json"));
            let probe = counting.create(bounded(&share, "probe")).await.unwrap();
            assert_eq!(left(&other, &share).await, whole - (kib - 16) * 1024 - MIB);
            other.delete(&probe.volume_id).await.unwrap();
        }
        other.expand(&id(&share, "v"), kib * 1024).await.unwrap();
    }
    assert_eq!(left(&counting, &share).await, whole - (1024 + 39 * 16) * 1024);
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() < 39, "no inode number was reused, so nothing was tested");
    other.delete(&id(&share, "v")).await.unwrap();
    other.create(requests::create(&share, "v")).await.unwrap();
    assert_eq!(left(&counting, &share).await, whole - MIB);
}
