//! The duration of clones, snapshots and restores through the socket until they are complete.

use std::fs;
use std::time::{Duration, Instant};

use crate::bare::Mounted;
use crate::copies::{plant_large, plant_small, plant_sparse};
use crate::support::requests::{self, from, of_snapshot, of_volume, snapshot};
use crate::support::{Driver, Lab, Place, Share, mounts, wait};
use crate::{CLIENTS, Series, ms};

/// The number of rounds. Each round measures everything, with a driver that has not seen the volume.
const ROUNDS: usize = 5;

/// Measures and prints.
pub async fn run(lab: &Lab) {
    println!("\nThrough the socket, on the kernel's server, NFS 4.2. Median of {ROUNDS} rounds.");
    println!("`bare` is the kernel's part, as above for the copy engine.\n");
    println!("{:56} {:>26} {:>26} {:>9}  goal", "", "kernel client", "own client", "bare");
    for (place, goal) in [(Place::Xfs, "under 800 ms"), (Place::Tmpfs, "under 1500 ms")] {
        let share = lab.share(place);
        let volume = share.path.join("v");
        fs::create_dir(&volume).unwrap();
        plant_small(&volume, 1000);
        plant_large(&volume.join("large"), 100 << 20);
        measure(&share, &format!("{}, 1,000 files of 4 KiB and 100 MB", place.name()), goal).await;
        fs::remove_dir_all(&share.path).unwrap();
    }
    let share = lab.share(Place::Xfs);
    fs::create_dir(share.path.join("v")).unwrap();
    plant_sparse(&share.path.join("v/file"), 10 << 30);
    measure(&share, "xfs, a file of 10 GiB, an eighth of it data", "under 50 ms").await;
}

async fn measure(share: &Share, what: &str, goal: &str) {
    let mut bare = Series::default();
    // For each client: snapshots, restores, clones.
    let mut series = [(); CLIENTS.len()].map(|()| [(); 3].map(|()| Series::default()));
    for _ in 0..ROUNDS {
        mounts::no_nfs_is_left().await;
        bare.0.push(Mounted::new(share).copy("v", "bare"));
        fs::remove_dir_all(share.path.join("bare")).unwrap();
        for (client, series) in CLIENTS.iter().zip(&mut series) {
            mounts::no_nfs_is_left().await;
            for (series, took) in series.iter_mut().zip(round(share, client).await) {
                series.0.push(took);
            }
        }
    }
    let bare = bare.median();
    for (n, call) in ["snapshot", "restore", "clone"].iter().enumerate() {
        let cells = series.each_ref().map(|series| format!("{:.0} ms ({})", series[n].median(), series[n].spread()));
        println!("{:56} {:>26} {:>26} {bare:>6.0} ms  {goal}", format!("{call}: {what}"), cells[0], cells[1]);
    }
}

/// A snapshot of `v`, a restore and a clone by a driver that has not seen it. Returns the time of each in ms.
async fn round(share: &Share, client: &str) -> [f64; 3] {
    let driver = Driver::with(&["-v=0", &format!("--client={client}")]).await;
    // This call adopts a directory that was created by hand, and connects to the export.
    let v = driver.create(requests::create_with(share, "v-by-name", "subDir", "v")).await.unwrap();
    let start = Instant::now();
    let s = driver.take_whole(snapshot(&v.volume_id, "s")).await.unwrap();
    let snapshot = ms(start.elapsed());
    let start = Instant::now();
    let r = driver.create(from(share, "r", of_snapshot(&s.snapshot_id))).await.unwrap();
    let restore = ms(start.elapsed());
    let start = Instant::now();
    let c = driver.create(from(share, "c", of_volume(&v.volume_id))).await.unwrap();
    let clone = ms(start.elapsed());
    for volume in [r, c] {
        driver.delete(&volume.volume_id).await.unwrap();
    }
    driver.drop_snapshot(&s.snapshot_id).await.unwrap();
    wait::until("clearing the trash", Duration::from_secs(100), || share.left_in("trash").is_empty().then_some(()))
        .await;
    [snapshot, restore, clone]
}
