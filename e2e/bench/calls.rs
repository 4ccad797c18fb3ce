//! The duration of calls through the socket, on the kernel's NFS server with XFS, compared with the system calls that
//! they need. Results are medians of several rounds, with the spread.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{Driver, Lab, Place, Share, csi, requests};
use crate::{Series, each, ms, percentile};

/// The number of rounds. Each round measures everything.
const ROUNDS: usize = 5;
/// The number of sequential calls in each round.
const CALLS: usize = 100;
/// The number of concurrent calls in each round.
const IN_FLIGHT: usize = 64;
const BURST: usize = 640;
/// The number of files in the large volume.
const FILES: usize = 10_000;

#[derive(Default)]
struct Results {
    empty_call: Series,
    create: Series,
    create_90: Series,
    burst: Series,
    burst_deleted: Series,
    nested: Series,
    nested_deleted: Series,
    delete: Series,
    delete_large: Series,
    publish: Series,
    unpublish: Series,
    bare_create: Series,
    bare_delete: Series,
    bare_mount: Series,
    bare_unmount: Series,
}

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["-v=0"]).await;
    let idle = driver.proc_status("VmRSS") as f64 / 1024.0;
    let mut results = Results::default();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        measure_driver(&driver, &share, &mut results).await;
        measure_kernel(&share, &mut results);
    }
    let end = driver.proc_status("VmRSS") as f64 / 1024.0;
    report(&results, idle, end);
}

async fn measure_driver(driver: &Driver, share: &Share, results: &mut Results) {
    let probes = each((0..CALLS).map(|_| async { driver.identity().probe(csi::ProbeRequest {}).await.unwrap() })).await;
    results.empty_call.0.push(percentile(probes, 50));

    let name = |n: usize| format!("volume-{n}");
    let created =
        each((0..CALLS).map(|n| async move { driver.create(requests::create(share, &name(n))).await.unwrap() })).await;
    results.create.0.push(percentile(created.clone(), 50));
    results.create_90.0.push(percentile(created, 90));

    // Another volume of the export is mounted, as on any node in use.
    let volumes: Vec<csi::Volume> =
        join_all((0..CALLS).map(|n| async move { driver.create(requests::create(share, &name(n))).await.unwrap() }))
            .await;
    let (first, rest) = volumes.split_first().unwrap();
    let target = |n: usize| driver.target(&format!("pod-{n}"));
    driver.publish(first, &driver.target("first")).await.unwrap();
    let targets: Vec<_> = (1..CALLS).map(target).collect();
    let pairs = || rest.iter().zip(&targets);
    let published = each(pairs().map(|(volume, target)| async { driver.publish(volume, target).await.unwrap() })).await;
    results.publish.0.push(percentile(published, 50));
    let unpublished =
        each(pairs().map(|(volume, target)| async { driver.unpublish(&volume.volume_id, target).await.unwrap() }))
            .await;
    results.unpublish.0.push(percentile(unpublished, 50));
    driver.unpublish(&first.volume_id, &driver.target("first")).await.unwrap();

    let deleted = each(volumes.iter().map(|volume| async { driver.delete(&volume.volume_id).await.unwrap() })).await;
    results.delete.0.push(percentile(deleted, 50));
    share.trash_is_empty().await;

    for (sub_dir, created, deleted) in [
        (false, &mut results.burst, &mut results.burst_deleted),
        (true, &mut results.nested, &mut results.nested_deleted),
    ] {
        let (create_rate, delete_rate) = burst(driver, share, sub_dir).await;
        created.0.push(create_rate);
        deleted.0.push(delete_rate);
    }

    let large = driver.create(requests::create(share, "large")).await.unwrap();
    for n in 0..FILES {
        File::create(share.path.join("large").join(n.to_string())).unwrap();
    }
    // Without this, the next change of the file system would include the cost of creating the files.
    rustix::fs::syncfs(File::open(&share.path).unwrap()).unwrap();
    let deleted = each([driver.delete(&large.volume_id)]).await;
    results.delete_large.0.push(deleted[0]);
    share.trash_is_empty().await;
}

/// Creates many volumes and deletes them, several at a time. With `sub_dir`, all of them are in one directory of the share,
/// as those of a namespace are. Returns how many a second.
async fn burst(driver: &Driver, share: &Share, sub_dir: bool) -> (f64, f64) {
    let rate = |start: Instant| BURST as f64 / start.elapsed().as_secs_f64();
    let create = |n: usize| {
        let mut request = requests::create(share, &format!("burst-{n}"));
        if sub_dir {
            request.parameters.insert("subDir".into(), format!("namespace/claim-{n}"));
        }
        async move { driver.create(request).await.unwrap() }
    };
    let start = Instant::now();
    let volumes: Vec<csi::Volume> = stream::iter(0..BURST).map(create).buffer_unordered(IN_FLIGHT).collect().await;
    let created = rate(start);
    let start = Instant::now();
    let delete = |volume: csi::Volume| async move { driver.delete(&volume.volume_id).await.unwrap() };
    stream::iter(volumes).map(delete).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
    let deleted = rate(start);
    share.trash_is_empty().await;
    (created, deleted)
}

/// Measures the same system calls without a driver, on a mount of the same export.
fn measure_kernel(share: &Share, results: &mut Results) {
    let base = Path::new("/run/tmp/bench");
    let (export, target) = (base.join("export"), base.join("target"));
    fs::create_dir_all(&export).unwrap();
    fs::create_dir_all(&target).unwrap();
    let attach = |directory: &str, at: &Path| {
        let source = format!("{}:{}{directory}", share.server, share.share);
        let options = std::ffi::CString::new(format!("vers=4.2,addr={}", share.server)).unwrap();
        mount(source, at, "nfs4", MountFlags::NOSUID | MountFlags::NODEV, Some(&*options)).unwrap();
    };
    attach("", &export);
    let timed = |work: &mut dyn FnMut(usize)| {
        let one = |n| {
            let start = Instant::now();
            work(n);
            ms(start.elapsed())
        };
        percentile((0..CALLS).map(one).collect(), 50)
    };
    fs::create_dir_all(export.join("bare/records")).unwrap();
    let (volumes, records) = (export.join("bare"), export.join("bare/records"));
    results.bare_create.0.push(timed(&mut |n| {
        fs::create_dir(volumes.join(format!("v{n}"))).unwrap();
        let staged = records.join("staged");
        let mut record = File::create_new(&staged).unwrap();
        record.write_all(&[b'x'; 400]).unwrap();
        record.sync_all().unwrap();
        fs::rename(&staged, records.join(n.to_string())).unwrap();
    }));
    results.bare_mount.0.push(timed(&mut |n| {
        if n > 0 {
            unmount(&target, UnmountFlags::empty()).unwrap();
        }
        attach(&format!("/bare/v{n}"), &target);
    }));
    unmount(&target, UnmountFlags::empty()).unwrap();
    results.bare_unmount.0.push(percentile(
        (0..CALLS)
            .map(|n| {
                attach(&format!("/bare/v{n}"), &target);
                let start = Instant::now();
                unmount(&target, UnmountFlags::empty()).unwrap();
                ms(start.elapsed())
            })
            .collect(),
        50,
    ));
    results.bare_delete.0.push(timed(&mut |n| {
        fs::rename(volumes.join(format!("v{n}")), records.join(format!("gone{n}"))).unwrap();
        fs::remove_file(records.join(n.to_string())).unwrap();
    }));
    fs::remove_dir_all(&volumes).unwrap();
    unmount(&export, UnmountFlags::empty()).unwrap();
}

fn report(results: &Results, idle: f64, end: f64) {
    println!("\nOn an XFS export of the kernel's server, NFS 4.2, through the socket. Median of {ROUNDS} rounds.");
    println!(
        "`bare` is the kernel's part: the time of the system calls that the call needs, on a mount without a driver.\n"
    );
    println!("{:42} {:>9} {:>18} {:>9} {:>6}  goal", "", "median", "rounds", "bare", "ratio");
    let row = |what: &str, series: &Series, unit: &str, bare: Option<&Series>, goal: &str| {
        let (kernel, ratio) = match bare {
            Some(bare) => (format!("{:.2} {unit}", bare.median()), format!("{:.1}", series.median() / bare.median())),
            None => Default::default(),
        };
        let median = format!("{:.2} {unit}", series.median());
        println!("{what:42} {median:>9} {:>18} {kernel:>9} {ratio:>6}  {goal}", series.spread());
    };
    row("an empty call (Probe), p50", &results.empty_call, "ms", None, "");
    row("CreateVolume, p50", &results.create, "ms", Some(&results.bare_create), "under 5 ms");
    row("CreateVolume, p90", &results.create_90, "ms", Some(&results.bare_create), "");
    row(&format!("CreateVolume, {IN_FLIGHT} in flight"), &results.burst, "/s", None, "over 200/s");
    row(&format!("the same with subDir, {IN_FLIGHT} in flight"), &results.nested, "/s", None, "as without");
    row("DeleteVolume, p50", &results.delete, "ms", Some(&results.bare_delete), "under 5 ms");
    row(
        &format!("DeleteVolume of {FILES} files"),
        &results.delete_large,
        "ms",
        Some(&results.bare_delete),
        "under 5 ms",
    );
    row(&format!("DeleteVolume, {IN_FLIGHT} in flight"), &results.burst_deleted, "/s", None, "");
    row(&format!("the same with subDir, {IN_FLIGHT} in flight"), &results.nested_deleted, "/s", None, "as without");
    row("NodePublishVolume, another mounted, p50", &results.publish, "ms", Some(&results.bare_mount), "under 2 ms");
    row("NodeUnpublishVolume, p50", &results.unpublish, "ms", Some(&results.bare_unmount), "");
    println!(
        "{:42} {:>9} {:>18}",
        "memory: idle, and after the benchmark",
        format!("{idle:.1} MiB"),
        format!("{end:.1} MiB")
    );
    println!(
        "\nbare: mkdir + record (create, write, fsync, rename); rename + unlink; mount and unmount of a subdirectory."
    );
}
