//! The duration of calls through the socket, on the kernel's NFS server with XFS, compared with the system calls that
//! they need, and with processes of mount(8) in their place. Results are medians of several rounds, with the spread.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::processes::Processes;
use crate::run::Run;
use crate::support::{Driver, Lab, Place, Share, csi, requests};
use crate::{CLIENTS, Series, each, ms, percentile, timed};

/// The number of rounds. Each round measures everything.
const ROUNDS: usize = 5;
/// The number of sequential calls in each round.
const CALLS: usize = 100;
/// The number of concurrent calls in each round.
const IN_FLIGHT: usize = 64;
const BURST: usize = 640;
/// The number of files in the large volume.
fn files() -> usize {
    // With slow flushes, the trash is cleared at a hundred files a second.
    if std::env::var_os("FLUSH").is_some_and(|milliseconds| !milliseconds.is_empty()) { 1_000 } else { 10_000 }
}

/// What was measured of the driver with one of its clients.
#[derive(Default)]
struct Calls {
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
    /// MiB when it has started, and after everything.
    memory: (f64, f64),
}

/// What was measured without a driver.
#[derive(Default)]
struct Others {
    create: Series,
    delete: Series,
    mount: Series,
    unmount: Series,
    processes: Processes,
}

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    let (mut calls, mut others) = ([(); CLIENTS.len()].map(|()| Calls::default()), Others::default());
    for (client, calls) in CLIENTS.into_iter().zip(&mut calls) {
        let driver = Driver::with(&["-v=0", &format!("--client={client}")]).await;
        let resident = || driver.proc_status("VmRSS") as f64 / 1024.0;
        calls.memory.0 = resident();
        for round in 1..=ROUNDS {
            eprintln!("{client}: round {round} of {ROUNDS}");
            measure_driver(&driver, &share, calls).await;
            measure_kernel(&share, &mut others);
            others.processes.measure(&share, CALLS);
        }
        calls.memory.1 = resident();
    }
    report(&calls, &others);
    keep(&calls, &others);
}

async fn measure_driver(driver: &Driver, share: &Share, results: &mut Calls) {
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
    for n in 0..files() {
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
fn measure_kernel(share: &Share, results: &mut Others) {
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
    fs::create_dir_all(export.join("bare/records")).unwrap();
    let (volumes, records) = (export.join("bare"), export.join("bare/records"));
    results.create.0.push(timed(CALLS, |n| {
        fs::create_dir(volumes.join(format!("v{n}"))).unwrap();
        let staged = records.join("staged");
        let mut record = File::create_new(&staged).unwrap();
        record.write_all(&[b'x'; 400]).unwrap();
        record.sync_all().unwrap();
        fs::rename(&staged, records.join(n.to_string())).unwrap();
    }));
    results.mount.0.push(timed(CALLS, |n| {
        if n > 0 {
            unmount(&target, UnmountFlags::empty()).unwrap();
        }
        attach(&format!("/bare/v{n}"), &target);
    }));
    unmount(&target, UnmountFlags::empty()).unwrap();
    results.unmount.0.push(percentile(
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
    results.delete.0.push(timed(CALLS, |n| {
        fs::rename(volumes.join(format!("v{n}")), records.join(format!("gone{n}"))).unwrap();
        fs::remove_file(records.join(n.to_string())).unwrap();
    }));
    fs::remove_dir_all(&volumes).unwrap();
    unmount(&export, UnmountFlags::empty()).unwrap();
}

fn report(calls: &[Calls; 2], others: &Others) {
    println!("\nOn an XFS export of the kernel's server, NFS 4.2, through the socket. Median of {ROUNDS} rounds.");
    println!(
        "`kernel` and `own` are the controller's clients (--client). The other columns are the same without a driver:"
    );
    println!(
        "`bare`: mkdir + record (create, write, fsync, rename); rename + unlink; mount and unmount of a subdirectory."
    );
    println!("`mount(8)`: processes: mount + mkdir + umount; mount + rmdir + umount; mount; umount.\n");
    println!("{:42} {:>26} {:>26} {:>9} {:>9}  goal", "", "kernel", "own", "bare", "mount(8)");
    let row = |what: &str, of: fn(&Calls) -> &Series, unit: &str, without: Option<(&Series, &Series)>, goal: &str| {
        let [kernel, own] = calls.each_ref().map(of);
        let cell = |series: &Series| format!("{:.2} {unit} ({})", series.median(), series.spread());
        let other = |series: Option<&Series>| series.map(|series| format!("{:.2} {unit}", series.median()));
        let bare = other(without.map(|(bare, _)| bare)).unwrap_or_default();
        let process = other(without.map(|(_, process)| process)).unwrap_or_default();
        println!("{what:42} {:>26} {:>26} {bare:>9} {process:>9}  {goal}", cell(kernel), cell(own));
    };
    let Others { create, delete, mount, unmount, processes } = others;
    let (create, delete) = (Some((create, &processes.create)), Some((delete, &processes.delete)));
    row("an empty call (Probe), p50", |calls| &calls.empty_call, "ms", None, "");
    row("CreateVolume, p50", |calls| &calls.create, "ms", create, "under 5 ms; own 1.5 ms");
    row("CreateVolume, p90", |calls| &calls.create_90, "ms", create, "");
    row(&format!("CreateVolume, {IN_FLIGHT} in flight"), |calls| &calls.burst, "/s", None, "200/s; own 800/s");
    row(&format!("the same with subDir, {IN_FLIGHT} in flight"), |calls| &calls.nested, "/s", None, "as without");
    row("DeleteVolume, p50", |calls| &calls.delete, "ms", delete, "under 5 ms; own 1.2 ms");
    row(&format!("DeleteVolume of {} files", files()), |calls| &calls.delete_large, "ms", delete, "under 5 ms");
    row(&format!("DeleteVolume, {IN_FLIGHT} in flight"), |calls| &calls.burst_deleted, "/s", None, "");
    row(
        &format!("the same with subDir, {IN_FLIGHT} in flight"),
        |calls| &calls.nested_deleted,
        "/s",
        None,
        "as without",
    );
    let (mount, unmount) = (Some((mount, &processes.mount)), Some((unmount, &processes.unmount)));
    row("NodePublishVolume, another mounted, p50", |calls| &calls.publish, "ms", mount, "under 2 ms");
    row("NodeUnpublishVolume, p50", |calls| &calls.unpublish, "ms", unmount, "");
    let [kernel, own] = calls.each_ref().map(|calls| format!("{:.1} and {:.1} MiB", calls.memory.0, calls.memory.1));
    println!("{:42} {kernel:>26} {own:>26}", "memory: idle, and after the benchmark");
}

/// Keeps the figures of one call at a time, and of many, for the pictures.
fn keep(calls: &[Calls; 2], others: &Others) {
    const DRIVER: [&str; 2] = ["this driver, kernel client", "this driver, own client"];
    let columns = [&DRIVER[..], &["bare system calls", "mount(8) and umount(8)"]].concat();
    let title = "Calls one at a time, the system calls that they need, and mount(8) in their place";
    let mut picture = Run::bars("calls", title, "ms", &columns);
    let processes = &others.processes;
    let mut row = |call, of: fn(&Calls) -> &Series, bare, process| {
        let [kernel, own] = calls.each_ref().map(of);
        picture.row(call, 1.0, &[Some(kernel), Some(own), Some(bare), Some(process)]);
    };
    row("CreateVolume", |calls| &calls.create, &others.create, &processes.create);
    row("DeleteVolume", |calls| &calls.delete, &others.delete, &processes.delete);
    row("NodePublishVolume, another volume mounted", |calls| &calls.publish, &others.mount, &processes.mount);
    row("NodeUnpublishVolume", |calls| &calls.unpublish, &others.unmount, &processes.unmount);
    picture.keep();

    let mut picture = Run::bars("calls-in-flight", "Calls a second, 64 in flight", "/s", &DRIVER);
    let mut row =
        |call, of: fn(&Calls) -> &Series| picture.row(call, 1.0, &calls.each_ref().map(|calls| Some(of(calls))));
    row("CreateVolume", |calls| &calls.burst);
    row("CreateVolume, with subDir", |calls| &calls.nested);
    row("DeleteVolume", |calls| &calls.burst_deleted);
    row("DeleteVolume, with subDir", |calls| &calls.nested_deleted);
    picture.keep();
}
