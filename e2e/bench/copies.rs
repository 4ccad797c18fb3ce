//! How long the copy engine takes, within an export, on the kernel's NFS server.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use csi_nfs::export::copy::{Options, Progress, copy_tree};
use csi_nfs::export::fs::{Fs as _, Name};
use csi_nfs::export::kernel::KernelFs;
use tokio_util::sync::CancellationToken;

use crate::support::client::client;
use crate::support::{Lab, Place, Share};
use crate::{Series, ms};

/// Rounds; each measures everything.
const ROUNDS: usize = 5;
/// Files of 4 KiB in a directory.
const A_DIRECTORY: usize = 50;

/// Measures and prints.
pub async fn run(lab: &Lab) {
    println!("\nThe copy engine, within an export of the kernel's server, NFS 4.2. Median of {ROUNDS} rounds.\n");
    println!("{:48} {:>12} {:>20}  goal", "", "median", "rounds");
    for (place, goal) in [(Place::Xfs, "under 800 ms"), (Place::Tmpfs, "under 1500 ms")] {
        let bench = Bench::new(lab, place).await;
        plant_small(&bench.share.path.join("volume"), 1000);
        plant_large(&bench.share.path.join("volume/large"), 100 << 20);
        row(&format!("{}: 1,000 files of 4 KiB and 100 MB", place.name()), &bench.copies("volume").await, goal);
        plant_small(&bench.share.path.join("small"), 1000);
        row(&format!("{}: 1,000 files of 4 KiB", place.name()), &bench.copies("small").await, "");
        plant_large(&bench.share.path.join("one/large"), 100 << 20);
        row(&format!("{}: one file of 100 MB", place.name()), &bench.copies("one").await, "");
    }
    let bench = Bench::new(lab, Place::Xfs).await;
    let large = bench.share.path.join("large");
    fs::create_dir(&large).unwrap();
    plant_sparse(&large.join("file"), 10 << 30);
    row("xfs: one file of 10 GiB, an eighth of it data", &bench.copies("large").await, "under 50 ms");
    many(lab).await;
}

/// Whether the rate holds, and the memory.
async fn many(lab: &Lab) {
    let bench = Bench::new(lab, Place::Xfs).await;
    for (name, files) in [("few", 1_000), ("many", 100_000)] {
        plant_small(&bench.share.path.join(name), files);
    }
    let few = bench.copies("few").await.median();
    let before = resident();
    let many = bench.copy("many").await;
    let (few, many) = (1_000.0 / few, 100_000.0 / many);
    println!(
        "xfs: 100,000 files of 4 KiB: {:.0} files a second, {:.0} % of the rate for 1,000 (goal: 80 %); \
         at most {:.1} MiB resident, {before:.1} MiB before (goal: 40 MiB)",
        many * 1e3,
        many / few * 100.0,
        status("VmHWM"),
    );
}

struct Bench {
    share: Share,
    fs: KernelFs,
}

impl Bench {
    async fn new(lab: &Lab, place: Place) -> Self {
        let share = lab.share(place);
        let fs = client(&share, "vers=4.2").await;
        Self { share, fs }
    }

    async fn copies(&self, directory: &str) -> Series {
        let mut series = Series::default();
        for _ in 0..ROUNDS {
            series.0.push(self.copy(directory).await);
        }
        series
    }

    /// Copies the directory; answers how long it took, in ms.
    async fn copy(&self, directory: &str) -> f64 {
        let (from, _) = self.fs.lookup(&self.fs.root(), &Name::new(directory).unwrap()).await.unwrap();
        let (to, _) = self.fs.mkdir(&self.fs.root(), &Name::new("copy").unwrap(), 0o700).await.unwrap();
        let start = Instant::now();
        copy_tree(&self.fs, &from, &self.fs, &to, &Options::default(), &Progress::default(), &CancellationToken::new())
            .await
            .unwrap();
        let took = ms(start.elapsed());
        drop(to);
        fs::remove_dir_all(self.share.path.join("copy")).unwrap();
        took
    }
}

fn row(what: &str, series: &Series, goal: &str) {
    println!("{what:48} {:>12} {:>20}  {goal}", format!("{:.0} ms", series.median()), series.spread());
}

fn plant_small(dir: &Path, files: usize) {
    for number in 0..files {
        let place = dir.join((number / A_DIRECTORY).to_string());
        if number % A_DIRECTORY == 0 {
            fs::create_dir_all(&place).unwrap();
        }
        fs::write(place.join(number.to_string()), [b'x'; 4096]).unwrap();
    }
}

fn plant_large(path: &Path, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(path).unwrap();
    for _ in 0..bytes >> 20 {
        file.write_all(&[b'y'; 1 << 20]).unwrap();
    }
    file.sync_all().unwrap();
}

/// Data and holes in turn.
fn plant_sparse(path: &Path, bytes: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    for megabyte in (0..bytes >> 20).step_by(8) {
        file.write_all_at(&[b'z'; 1 << 20], megabyte << 20).unwrap();
    }
    file.sync_all().unwrap();
}

fn resident() -> f64 {
    status("VmRSS")
}

/// A figure of this process, in MiB.
fn status(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap() / 1024.0
}
