//! What a call takes on an export that has many volumes, beside the same call on one that has few.

use futures_util::{StreamExt as _, stream};

use crate::run::Run;
use crate::support::{Driver, Lab, Place, csi, requests};
use crate::{Series, each, percentile};

/// How many volumes are there when it is measured.
const VOLUMES: [usize; 3] = [100, 1_000, 10_000];
const ROUNDS: usize = 5;
/// The number of sequential calls in each round.
const CALLS: usize = 50;
const IN_FLIGHT: usize = 64;
/// The entries in a page of a list.
const PAGE: i32 = 100;

const COLUMNS: [&str; 5] =
    ["CreateVolume", "CreateVolume, overcommit", "DeleteVolume", "CreateSnapshot", "ListVolumes, 100 of them"];

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["-v=0"]).await;
    let mut picture =
        Run::lines("volumes", "What a call takes, by the number of volumes on the export", "ms", "volumes", &COLUMNS);
    println!("\nCalls by the number of volumes on their export, XFS. p50 of {CALLS}, median of {ROUNDS} rounds.\n");
    println!("{:>8} {}", "volumes", COLUMNS.map(|column| format!("{column:>28}")).concat());
    let mut there = 0;
    for volumes in VOLUMES {
        let more = (there..volumes).map(|n| driver.create(requests::create(&share, &format!("volume-{n}"))));
        stream::iter(more).buffer_unordered(IN_FLIGHT).for_each(async |made| drop(made.unwrap())).await;
        there = volumes;
        let source = driver.create(requests::create(&share, "volume-0")).await.unwrap();
        // The first call with `overcommit` counts all volumes, once for the export.
        let counted = driver.create(requests::create_with(&share, "counted", "overcommit", "1000")).await.unwrap();
        driver.delete(&counted.volume_id).await.unwrap();
        let mut series = [(); COLUMNS.len()].map(|()| Series::default());
        for _ in 0..ROUNDS {
            let name = |n: usize| format!("measured-{n}");
            let create = |request: csi::CreateVolumeRequest| async { drop(driver.create(request).await.unwrap()) };
            let plain = each((0..CALLS).map(|n| create(requests::create(&share, &name(n))))).await;
            delete_all(&driver, (0..CALLS).map(|n| requests::create(&share, &name(n)))).await;
            let limited = |n| requests::create_with(&share, &name(n), "overcommit", "1000");
            let overcommit = each((0..CALLS).map(|n| create(limited(n)))).await;
            let deleted = delete_all(&driver, (0..CALLS).map(limited)).await;
            let (mut ids, mut snapshots) = (Vec::new(), Vec::new());
            for n in 0..CALLS {
                let request = requests::snapshot(&source.volume_id, &name(n));
                let take = async { ids.push(driver.take_whole(request).await.unwrap().snapshot_id) };
                snapshots.extend(each([take]).await);
            }
            for id in ids {
                driver.drop_snapshot(&id).await.unwrap();
            }
            let request = csi::ListVolumesRequest { max_entries: PAGE, ..Default::default() };
            let lists = each((0..CALLS).map(|_| async {
                let page = driver.controller().list_volumes(request.clone()).await.unwrap().into_inner();
                assert_eq!(page.entries.len(), PAGE as usize);
            }))
            .await;
            for (series, took) in series.iter_mut().zip([plain, overcommit, deleted, snapshots, lists]) {
                series.0.push(percentile(took, 50));
            }
            share.trash_is_empty().await;
        }
        let cell = |series: &Series| format!("{:>28}", format!("{:.1} ms ({})", series.median(), series.spread()));
        println!("{volumes:>8} {}", series.each_ref().map(cell).concat());
        picture.at(volumes, 1.0, &series.each_ref().map(Some));
    }
    picture.keep();
}

/// Deletes the volumes of these requests, which are there. Returns the durations in ms.
async fn delete_all(driver: &Driver, requests: impl Iterator<Item = csi::CreateVolumeRequest>) -> Vec<f64> {
    let mut took = Vec::new();
    for request in requests {
        let volume = driver.create(request).await.unwrap();
        took.extend(each([async { driver.delete(&volume.volume_id).await.unwrap() }]).await);
    }
    took
}
