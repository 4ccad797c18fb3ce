//! The duration of clones, snapshots and restores through the socket until they are complete.

use std::fs;
use std::time::{Duration, Instant};

use crate::bare::Mounted;
use crate::copies::{plant_large, plant_small, plant_sparse};
use crate::support::requests::{self, from, of_snapshot, of_volume, snapshot};
use crate::support::{Driver, Lab, Place, Share, wait};
use crate::{Series, ms, nothing_is_mounted};

/// The number of rounds. Each round measures everything, with a driver that has not seen the volume.
const ROUNDS: usize = 5;

/// Measures and prints.
pub async fn run(lab: &Lab) {
    println!("\nThrough the socket, on the kernel's server, NFS 4.2. Median of {ROUNDS} rounds.");
    println!("`bare` is the kernel's part, as above for the copy engine.\n");
    println!("{:48} {:>9} {:>20} {:>9} {:>6}  goal", "", "median", "rounds", "bare", "ratio");
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
    let [mut bare, mut snapshots, mut restores, mut clones] = [(); 4].map(|()| Series::default());
    for _ in 0..ROUNDS {
        nothing_is_mounted().await;
        bare.0.push(Mounted::new(share).copy("v", "bare"));
        fs::remove_dir_all(share.path.join("bare")).unwrap();
        nothing_is_mounted().await;
        let driver = Driver::with(&["-v=0"]).await;
        // This call adopts a directory that was created by hand, and mounts the export.
        let v = driver.create(requests::create_with(share, "v-by-name", "subDir", "v")).await.unwrap();
        let start = Instant::now();
        let s = driver.take_whole(snapshot(&v.volume_id, "s")).await.unwrap();
        snapshots.0.push(ms(start.elapsed()));
        let start = Instant::now();
        let r = driver.create(from(share, "r", of_snapshot(&s.snapshot_id))).await.unwrap();
        restores.0.push(ms(start.elapsed()));
        let start = Instant::now();
        let c = driver.create(from(share, "c", of_volume(&v.volume_id))).await.unwrap();
        clones.0.push(ms(start.elapsed()));
        for volume in [r, c] {
            driver.delete(&volume.volume_id).await.unwrap();
        }
        driver.drop_snapshot(&s.snapshot_id).await.unwrap();
        wait::until("clearing the trash", Duration::from_secs(100), || share.left_in("trash").is_empty().then_some(()))
            .await;
    }
    let bare = bare.median();
    for (call, series) in [("snapshot", snapshots), ("restore", restores), ("clone", clones)] {
        let took = series.median();
        let (ratio, spread) = (format!("{:.1}", took / bare), series.spread());
        let (median, bare) = (format!("{took:.0} ms"), format!("{bare:.0} ms"));
        println!("{:48} {median:>9} {spread:>20} {bare:>9} {ratio:>6}  {goal}", format!("{call}: {what}"));
    }
}
