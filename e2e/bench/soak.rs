//! Thousands of volumes' lives on one node: how long NodeUnpublishVolume takes the more is mounted, and how much memory
//! the driver takes.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};

use crate::support::{Driver, Lab, Place, Share, csi, requests};
use crate::{ms, percentile};

/// The number of volumes that are mounted at a time, and the number of rounds: 12,000 lives in all.
const MOUNTED: usize = 2000;
const ROUNDS: usize = 6;
const FEW: usize = 40;
const IN_FLIGHT: usize = 64;
/// So few calls of NodeUnpublishVolume are in flight where the numbers of mounts are compared, because 64 would wait
/// for each other with 2,000 volumes, and not with 40.
const COMPARED: usize = 16;

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["-v=0"]).await;
    println!("\nCreate, publish, unpublish, delete: {IN_FLIGHT} calls in flight, XFS, NFS 4.2.\n");
    let few = round(&driver, &share, FEW, COMPARED).await;
    println!("{FEW:>6} mounted: NodeUnpublishVolume p50 {few:.1} ms, resident {:.1} MiB", resident(&driver));
    for n in 1..=ROUNDS {
        let in_flight = if n == 1 { COMPARED } else { IN_FLIGHT };
        let many = round(&driver, &share, MOUNTED, in_flight).await;
        let ratio = if n == 1 { format!(", {:.2} times that at {FEW}", many / few) } else { String::new() };
        println!(
            "{MOUNTED:>6} mounted: NodeUnpublishVolume p50 {many:.1} ms with {in_flight} in flight{ratio}; resident \
             {:.1} MiB after {} lives",
            resident(&driver),
            n * MOUNTED
        );
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!("after 20 s of rest: {:.1} MiB", resident(&driver));
}

fn resident(driver: &Driver) -> f64 {
    driver.proc_status("VmRSS") as f64 / 1024.0
}

/// The lives of this many volumes, mounted at the same time. Returns the median duration of NodeUnpublishVolume in ms,
/// with `in_flight` calls at a time.
async fn round(driver: &Driver, share: &Share, count: usize, in_flight: usize) -> f64 {
    let name = |n: usize| format!("v-{n}");
    let target = |n: usize| driver.target(&format!("pod-{n}"));
    let volumes: Vec<csi::Volume> = stream::iter(0..count)
        .map(|n| async move { driver.create(requests::create(share, &name(n))).await.unwrap() })
        .buffered(IN_FLIGHT)
        .collect()
        .await;
    let all = || stream::iter(volumes.iter().enumerate());
    all().for_each_concurrent(IN_FLIGHT, |(n, v)| async move { driver.publish(v, &target(n)).await.unwrap() }).await;
    let took: Vec<f64> = all()
        .map(|(n, volume)| async move {
            let start = Instant::now();
            driver.unpublish(&volume.volume_id, &target(n)).await.unwrap();
            ms(start.elapsed())
        })
        .buffered(in_flight)
        .collect()
        .await;
    all().for_each_concurrent(IN_FLIGHT, |(_, v)| async move { driver.delete(&v.volume_id).await.unwrap() }).await;
    share.trash_is_empty().await;
    percentile(took, 50)
}
