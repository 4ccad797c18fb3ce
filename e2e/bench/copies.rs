//! The duration of copies by the copy engine within an export of the kernel's NFS server, compared with the system
//! calls that a copy needs, from the same number of threads.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use csi_nfs::e2e::{Fs as _, KernelFs, Name, Options, Progress, copy_tree};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::bare::{self, Mounted};
use crate::run::Run;
use crate::support::client::client;
use crate::support::{Driver, Lab, Place, Share, mounts, requests, wait};
use crate::{Series, each, ms, number, percentile};

/// The number of rounds. Each round measures everything.
const ROUNDS: usize = 5;
/// The number of sequential calls.
const CALLS: usize = 100;
/// The number of 4 KiB files in a directory.
const A_DIRECTORY: usize = 50;
/// The number of empty files in a directory.
const A_LARGE_DIRECTORY: usize = 1000;

/// Measures and prints.
pub async fn run(lab: &Lab) {
    println!("\nThe copy engine, within an export of the kernel's server, NFS 4.2. Median of {ROUNDS} rounds.");
    println!(
        "`bare` is the kernel's part: {} threads open, create, clone (or read and write) and close files, and set \
         their times.",
        bare::THREADS
    );
    println!("`cp(1)` and `tar(1)` are processes: cp --archive; tar --gzip into an archive on the export, and back.\n");
    println!(
        "{:48} {:>9} {:>20} {:>9} {:>6} {:>9} {:>20}  goal",
        "", "median", "rounds", "bare", "ratio", "cp(1)", "tar(1), and back"
    );
    let mut picture = Run::bars(
        "copies",
        "Copies within an export, and the system calls that they need",
        "s",
        &["this driver", "bare system calls", "cp --archive", "tar --gzip, and back"],
    );
    let mut row = |what: &str, copies: &Copies, processes: Option<&Processes>, goal: &str| {
        print_row(what, copies, processes, goal);
        if let Some(Processes { cp, tar, .. }) = processes {
            picture.row(what, 1e-3, &[Some(&copies.engine), Some(&copies.bare), Some(cp), Some(tar)]);
        }
    };
    for (place, goal) in [(Place::Xfs, "under 800 ms"), (Place::Tmpfs, "under 1500 ms")] {
        let bench = Bench::new(lab, place);
        plant_small(&bench.share.path.join("volume"), 1000);
        plant_large(&bench.share.path.join("volume/large"), 100 << 20);
        plant_small(&bench.share.path.join("small"), 1000);
        plant_large(&bench.share.path.join("one/large"), 100 << 20);
        for (directory, what, goal) in [
            ("volume", "1,000 files of 4 KiB and 100 MB", goal),
            ("small", "1,000 files of 4 KiB", ""),
            ("one", "one file of 100 MB", ""),
        ] {
            let (copies, processes) = (bench.copies(directory, ROUNDS).await, bench.processes(directory).await);
            row(&format!("{}: {what}", place.name()), &copies, Some(&processes), goal);
        }
        println!("    requests per small file: {}", bench.requests("small", 1000).await);
    }
    let bench = Bench::new(lab, Place::Xfs);
    let large = bench.share.path.join("large");
    fs::create_dir(&large).unwrap();
    plant_sparse(&large.join("file"), 10 << 30);
    row("xfs: one file of 10 GiB, an eighth of it data", &bench.copies("large", ROUNDS).await, None, "under 50 ms");
    picture.keep();
}

/// Measures the rate by the number of files, the memory, and the duration of other calls meanwhile.
pub async fn many(lab: &Lab) {
    let bench = Bench::new(lab, Place::Xfs);
    let mut picture = Run::lines(
        "copies-by-files",
        "Copies of files of 4 KiB within an XFS export, by their number",
        "/s",
        "files",
        &["this driver", "bare system calls", "cp --archive"],
    );
    println!("\nCopies of files of 4 KiB within an XFS export, files a second.\n");
    println!("{:>8} {:>12} {:>12} {:>12}", "files", "this driver", "bare", "cp(1)");
    let mut rates = Vec::new();
    // cp(1) would take minutes for the most.
    for (files, rounds, rounds_of_cp) in [(100, ROUNDS, ROUNDS), (1_000, ROUNDS, 3), (10_000, 3, 1), (100_000, 1, 0)] {
        let name = files.to_string();
        plant_small(&bench.share.path.join(&name), files);
        let before = resident();
        let mut copies = bench.copies(&name, rounds).await;
        let memory = format!("at most {:.1} MiB resident, {before:.1} MiB before", status("VmHWM"));
        let mut cp = bench.cp(&name, rounds_of_cp).await;
        for series in [&mut copies.engine, &mut copies.bare, &mut cp] {
            series.0.iter_mut().for_each(|took| *took = files as f64 / (*took / 1e3));
        }
        let cp = Some(&cp).filter(|cp| !cp.0.is_empty());
        let rate = |series: &Series| format!("{:.0}", series.median());
        let [engine, bare, by_cp] = [rate(&copies.engine), rate(&copies.bare), cp.map_or_else(String::new, rate)];
        println!("{files:>8} {engine:>12} {bare:>12} {by_cp:>12}  {memory} (goal: 40 MiB)");
        picture.at(files, 1.0, &[Some(&copies.engine), Some(&copies.bare), cp]);
        rates.push(copies.engine.median());
    }
    picture.keep();
    println!("100,000 files: {:.0} % of the rate for 1,000 (goal: 80 %)", rates[3] / rates[1] * 100.0);
    let driver = Driver::with(&["-v=0"]).await;
    let create = async |name: String| driver.create(requests::create(&bench.share, &name)).await.unwrap();
    let volume = create("100000".to_owned()).await;
    let alone = each((0..CALLS).map(|n| create(format!("alone-{n}")))).await;
    let mut controller = driver.controller();
    let request = requests::from(&bench.share, "clone", requests::of_volume(&volume.volume_id));
    let clone = tokio::spawn(async move { controller.create_volume(request).await });
    wait::until("the start of the clone", Duration::from_secs(20), || {
        (!bench.share.left_in("staging").is_empty()).then_some(())
    })
    .await;
    let beside = each((0..CALLS).map(|n| create(format!("beside-{n}")))).await;
    assert!(!clone.is_finished(), "the clone ended before the measurement did");
    let both = |percent| (percentile(alone.clone(), percent), percentile(beside.clone(), percent));
    let ((p50, p50_beside), (p90, p90_beside)) = (both(50), both(90));
    println!(
        "xfs: CreateVolume during the clone: p50 {p50_beside:.1} ms, p90 {p90_beside:.1} ms; \
         without it {p50:.1} ms and {p90:.1} ms"
    );
}

/// Looks every ten seconds at a clone of a million files: what the answer to its call says, as the provisioner shows it
/// in the claim's events.
pub async fn million(lab: &Lab) {
    let files = number("FILES", 1_000_000);
    let bench = Bench::new(lab, Place::Xfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&bench.share, "million")).await.unwrap();
    // A clone on this file system shares content, so inodes are the work.
    plant_empty(&bench.share.path.join("million"), files);
    let request = requests::from(&bench.share, "clone", requests::of_volume(&volume.volume_id));
    println!("xfs: a clone of {files} files in directories of {A_LARGE_DIRECTORY}");
    let begun = Instant::now();
    loop {
        let mut call = Request::new(request.clone());
        call.set_timeout(Duration::from_secs(10));
        match driver.controller().create_volume(call).await {
            Ok(_) => break,
            Err(status) => println!("    after {:3.0} s: {}", begun.elapsed().as_secs_f64(), status.message()),
        }
    }
    println!("    after {:3.0} s: it is there", begun.elapsed().as_secs_f64());
    println!("    {}", driver.log().lines().filter(|line| line.contains("copy finished")).collect::<String>());
}

struct Bench {
    share: Share,
}

impl Bench {
    fn new(lab: &Lab, place: Place) -> Self {
        Self { share: lab.share(place) }
    }

    async fn copies(&self, directory: &str, rounds: usize) -> Copies {
        let mut copies = Copies::default();
        for _ in 0..rounds {
            copies.engine.0.push(self.copy(directory).await);
            mounts::no_nfs_is_left().await;
            copies.bare.0.push(Mounted::new(&self.share).copy(directory, "copy"));
            fs::remove_dir_all(self.share.path.join("copy")).unwrap();
        }
        copies
    }

    /// Copies the directory with cp(1).
    async fn cp(&self, directory: &str, rounds: usize) -> Series {
        let mut series = Series::default();
        for _ in 0..rounds {
            mounts::no_nfs_is_left().await;
            series.0.push(Mounted::new(&self.share).cp(directory, "copy"));
            fs::remove_dir_all(self.share.path.join("copy")).unwrap();
        }
        series
    }

    /// Copies the directory with processes, as a script or another driver does.
    async fn processes(&self, directory: &str) -> Processes {
        let mut processes = Processes { cp: self.cp(directory, ROUNDS).await, ..Processes::default() };
        for _ in 0..ROUNDS {
            mounts::no_nfs_is_left().await;
            let mounted = Mounted::new(&self.share);
            let [pack, unpack] = mounted.tar(directory, "copy.tar.gz", "copy");
            processes.tar.0.push(pack + unpack);
            processes.pack.0.push(pack);
            fs::remove_dir_all(self.share.path.join("copy")).unwrap();
            fs::remove_file(self.share.path.join("copy.tar.gz")).unwrap();
        }
        processes
    }

    /// The number of requests to the server per file, including requests for the directory as a whole.
    async fn requests(&self, directory: &str, files: u32) -> String {
        mounts::no_nfs_is_left().await;
        let mounted = Mounted::new(&self.share);
        let before = mounted.requests();
        self.copy_by(client(&self.share, "vers=4.2").await, directory).await;
        let made = mounted.requests().into_iter().map(|(name, after)| {
            let count = after - before.get(&name).unwrap_or(&0);
            (name, count)
        });
        let counts: Vec<_> = made.filter(|(_, count)| *count > u64::from(files) / 50).collect();
        let shown = counts.iter().map(|(name, count)| format!("{name} {:.2}", *count as f64 / f64::from(files)));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Copies the directory with a client that has not seen it. Returns the time in ms.
    async fn copy(&self, directory: &str) -> f64 {
        mounts::no_nfs_is_left().await;
        self.copy_by(client(&self.share, "vers=4.2").await, directory).await
    }

    async fn copy_by(&self, fs: KernelFs, directory: &str) -> f64 {
        let (from, _) = fs.lookup(&fs.root(), &Name::new(directory).unwrap()).await.unwrap();
        let (to, _) = fs.mkdir(&fs.root(), &Name::new("copy").unwrap(), 0o700).await.unwrap();
        let start = Instant::now();
        let (how, progress, cancel) = (Options::default(), Progress::default(), CancellationToken::new());
        copy_tree(&fs, &from, &fs, &to, &how, &progress, &cancel).await.unwrap();
        let took = ms(start.elapsed());
        drop((from, to, fs));
        fs::remove_dir_all(self.share.path.join("copy")).unwrap();
        took
    }
}

/// The times of a copy in ms.
#[derive(Default)]
struct Copies {
    engine: Series,
    bare: Series,
}

/// The times of copies by processes in ms.
#[derive(Default)]
struct Processes {
    cp: Series,
    /// Into an archive and back.
    tar: Series,
    /// Only into the archive.
    pack: Series,
}

fn print_row(what: &str, Copies { engine, bare }: &Copies, processes: Option<&Processes>, goal: &str) {
    let (took, bare) = (engine.median(), bare.median());
    let ratio = format!("{:.1}", took / bare);
    let (median, bare) = (format!("{took:.0} ms"), format!("{bare:.0} ms"));
    let (cp, tar) = processes.map_or_else(Default::default, |Processes { cp, tar, pack }| {
        let (pack, back) = (pack.median(), tar.median() - pack.median());
        (format!("{:.0} ms", cp.median()), format!("{pack:.0} + {back:.0} ms"))
    });
    println!("{what:48} {median:>9} {:>20} {bare:>9} {ratio:>6} {cp:>9} {tar:>20}  {goal}", engine.spread());
}

pub fn plant_small(dir: &Path, files: usize) {
    for number in 0..files {
        let place = dir.join((number / A_DIRECTORY).to_string());
        if number % A_DIRECTORY == 0 {
            fs::create_dir_all(&place).unwrap();
        }
        fs::write(place.join(number.to_string()), [b'x'; 4096]).unwrap();
    }
}

/// Creates empty files. They are on the disk afterwards, so nothing else waits for that.
pub fn plant_empty(dir: &Path, files: usize) {
    for number in 0..files {
        let place = dir.join((number / A_LARGE_DIRECTORY).to_string());
        if number % A_LARGE_DIRECTORY == 0 {
            fs::create_dir_all(&place).unwrap();
        }
        File::create(place.join(number.to_string())).unwrap();
    }
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
}

pub fn plant_large(path: &Path, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(path).unwrap();
    for _ in 0..bytes >> 20 {
        file.write_all(&[b'y'; 1 << 20]).unwrap();
    }
    file.sync_all().unwrap();
}

/// Creates a file of this size that alternates data and holes.
pub fn plant_sparse(path: &Path, bytes: u64) {
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

/// A memory figure of this process, in MiB.
fn status(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap() / 1024.0
}
