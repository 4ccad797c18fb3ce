//! The clearing of a deleted volume with very many files, beside calls that create volumes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::copies::plant_empty;
use crate::load::creating;
use crate::support::{Driver, Lab, Place, Share, requests};
use crate::{clients, number};

const IN_FLIGHT: usize = 64;
/// How long volumes are created without anything beside it.
const ALONE: Duration = Duration::from_secs(20);
/// How often it says how far it is.
const TOLD: Duration = Duration::from_secs(10);
/// How long the trash is watched at most.
const MOST: Duration = Duration::from_secs(200);
const TRASH: &str = ".csi-nfs/trash";
/// How often it looks whether everything is cleared.
const LOOK: Duration = Duration::from_millis(50);

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let files = number("FILES", 1_000_000);
    println!(
        "\nA deleted volume of {files} empty files, XFS. The trash is watched for {} s at most while volumes are created, \n\
         {IN_FLIGHT} in flight, and then as long while nobody calls. `all` is how long all files take at the first rate.\n",
        MOST.as_secs()
    );
    println!("{:8} {:>14} {:>12} {:>14} {:>14} {:>6} {:>14}", "", "files removed", "all", "", "", "", "files removed");
    println!(
        "{:8} {:>14} {:>12} {:>14} {:>14} {:>6} {:>14}",
        "client", "beside calls", "", "creates alone", "beside it", "ratio", "without calls"
    );
    println!("{:8} {:>14} {:>12} {:>14} {:>14} {:>6}", "goal", "", "100 s", "", "", "70 %");
    for client in clients() {
        let share = lab.share(Place::Xfs);
        let driver = Driver::with(&["-v=0", &format!("--client={client}")]).await;
        let volume = driver.create(requests::create(&share, "large")).await.unwrap();
        plant_empty(&share.path.join("large"), files);
        let rest = tokio::time::sleep(ALONE);
        let ((), alone) = creating(&driver, &share, "alone", IN_FLIGHT, rest).await;
        driver.delete(&volume.volume_id).await.unwrap();
        let (took, beside) = creating(&driver, &share, "beside", IN_FLIGHT, watched(&share)).await;
        let left = files_in(&share.path.join(TRASH));
        let rate = (files - left) as f64 / took;
        let (alone, beside) = (alone as f64 / ALONE.as_secs_f64(), beside as f64 / took);
        let without = if left > 0 {
            let took = watched(&share).await;
            format!("{:.0}/s", (left - files_in(&share.path.join(TRASH))) as f64 / took)
        } else {
            String::new()
        };
        println!(
            "{client:8} {:>14} {:>12} {:>14} {:>14} {:>6} {without:>14}",
            format!("{rate:.0}/s"),
            format!("{:.0} s", files as f64 / rate),
            format!("{alone:.0}/s"),
            format!("{beside:.0}/s"),
            format!("{:.0} %", beside / alone * 100.0),
        );
        // The disk has no room for both clients' files.
        drop(driver);
        fs::remove_dir_all(&share.path).unwrap();
    }
}

/// Waits until the trash is empty, or for [`MOST`]. Returns how long that was, in seconds.
async fn watched(share: &Share) -> f64 {
    let (begun, mut told) = (Instant::now(), Instant::now());
    while begun.elapsed() < MOST {
        let entries = share.left_in("trash");
        if entries.is_empty() {
            break;
        }
        if told.elapsed() > TOLD {
            told = Instant::now();
            // An empty directory is removed, so this needs no look at the files.
            let below = |entry: &String| fs::read_dir(share.path.join(TRASH).join(entry)).map_or(0, Iterator::count);
            let left: usize = entries.iter().map(below).sum();
            eprintln!("after {:.0} s: {left} directories are left", begun.elapsed().as_secs_f64());
        }
        tokio::time::sleep(LOOK).await;
    }
    begun.elapsed().as_secs_f64()
}

/// How many files there are below a directory from which some are being removed.
fn files_in(directory: &Path) -> usize {
    let count = |entry: fs::DirEntry| {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory { files_in(&entry.path()) } else { 1 }
    };
    fs::read_dir(directory).map_or(0, |entries| entries.flatten().map(count).sum())
}
