//! An export with very many volumes: each call, and each work that looks at all volumes, beside the same with few.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};

use crate::operations::Served;
use crate::run::Run;
use crate::support::driver::program;
use crate::support::{Driver, Lab, Place, Share, csi, requests};
use crate::{Series, clients, each, ms, number, percentile};

/// The number of volumes to compare with.
const FEW: usize = 1_000;
/// The number of rounds. Each round measures everything.
const ROUNDS: usize = 3;
/// The number of sequential calls in each round.
const CALLS: usize = 50;
/// The number of concurrent calls in each round.
const BURST: usize = 640;
const IN_FLIGHT: usize = 64;
/// How long a driver has to come to rest.
const REST: Duration = Duration::from_secs(3);
/// How often the memory of a check is read.
const LOOK: Duration = Duration::from_millis(20);
/// After so many more volumes it says how far it is.
const TOLD: usize = 10_000;

/// How a figure should change with the number of volumes.
#[derive(Clone, Copy)]
enum Growth {
    /// It should not.
    None,
    /// It should not, and more is better.
    Rate,
    /// It grows as the number of volumes does.
    WithVolumes,
}

/// What [`round`] measures, in its order: the unit, and how it should grow.
const MEASURED: [(&str, &str, Growth); 22] = [
    ("CreateVolume, p50", "ms", Growth::None),
    ("DeleteVolume, p50", "ms", Growth::None),
    ("CreateSnapshot of an empty volume, p50", "ms", Growth::None),
    ("ControllerGetVolume, p50", "ms", Growth::None),
    ("ControllerGetVolumeHealth, p50", "ms", Growth::None),
    ("ValidateVolumeCapabilities, p50", "ms", Growth::None),
    ("CreateVolume, 64 in flight", "/s", Growth::Rate),
    ("DeleteVolume, 64 in flight", "/s", Growth::Rate),
    ("resident at rest after the calls", "MiB", Growth::None),
    ("ListVolumes, the first page", "ms", Growth::None),
    ("ListVolumes, all pages", "s", Growth::WithVolumes),
    ("its requests, for each volume", "", Growth::None),
    ("resident at rest after it", "MiB", Growth::None),
    ("ControllerListVolumeHealth, all pages", "s", Growth::WithVolumes),
    ("its requests, for each volume", "", Growth::None),
    ("resident at rest after it", "MiB", Growth::None),
    ("csi-nfs check", "s", Growth::WithVolumes),
    ("its requests, for each volume", "", Growth::None),
    ("its resident memory, at most", "MiB", Growth::None),
    ("a restart, until it serves", "ms", Growth::None),
    ("a restart, until its first CreateVolume", "ms", Growth::None),
    ("requests of a start", "", Growth::None),
];

type Figures = [Series; MEASURED.len()];

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let (clients, volumes) = (clients(), [FEW, number("VOLUMES", 100_000)]);
    let shares = volumes.map(|_| lab.share(Place::Xfs));
    println!("\nXFS exports with {} and with {} volumes, median of {ROUNDS} rounds.\n", volumes[0], volumes[1]);
    for (share, count) in shares.iter().zip(volumes) {
        fill(&driver(share, clients.last().unwrap()).await, share, count).await;
    }
    // The figures with few and with many volumes are of the same minutes, whatever else the machine does.
    let mut measured: Vec<[Figures; 2]> = clients.iter().map(|_| volumes.map(|_| Figures::default())).collect();
    for n in 1..=ROUNDS {
        for (client, of_client) in clients.iter().zip(&mut measured) {
            for ((share, count), figures) in shares.iter().zip(volumes).zip(of_client) {
                eprintln!("round {n} of {ROUNDS}: {client} client, {count} volumes");
                let mut driver = driver(share, client).await;
                for (series, value) in figures.iter_mut().zip(round(&mut driver, share, client, count).await) {
                    series.0.push(value);
                }
            }
        }
    }
    report(&clients, &measured, volumes);
}

async fn driver(share: &Share, client: &str) -> Driver {
    let export = format!("--export={}:{}", share.server, share.share);
    Driver::with(&["-v=0", &format!("--client={client}"), &export]).await
}

/// Creates so many volumes.
async fn fill(driver: &Driver, share: &Share, count: usize) {
    let begun = Instant::now();
    let create = async |n| driver.create(requests::create(share, &format!("volume-{n:06}"))).await.unwrap();
    let mut made = stream::iter(0..count).map(create).buffer_unordered(IN_FLIGHT).enumerate();
    while let Some((n, _)) = made.next().await {
        if (n + 1) % TOLD == 0 {
            eprintln!("{} of {count} volumes after {:.0} s", n + 1, begun.elapsed().as_secs_f64());
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{count} volumes were made in {took:.1} s, {:.0} a second", count as f64 / took);
}

/// Measures everything once, in the order of [`MEASURED`].
async fn round(driver: &mut Driver, share: &Share, client: &str, volumes: usize) -> [f64; MEASURED.len()] {
    let name = |n: usize| format!("measured-{n}");
    let of_this = &*driver;
    let create = async |n: usize| of_this.create(requests::create(share, &name(n))).await.unwrap();
    let p50 = |took| percentile(took, 50);

    let created = p50(each((0..CALLS).map(&create)).await);
    let volume = create(0).await;
    let (mut snapshots, mut taken) = (Vec::new(), Vec::new());
    for n in 0..CALLS {
        let request = requests::snapshot(&volume.volume_id, &name(n));
        let take = async { taken.push(of_this.take_whole(request).await.unwrap().snapshot_id) };
        snapshots.extend(each([take]).await);
    }
    for id in taken {
        of_this.drop_snapshot(&id).await.unwrap();
    }
    let [got, health, validated] = questions(of_this, &volume).await;
    let mut ids = Vec::new();
    for n in 0..CALLS {
        ids.push(create(n).await.volume_id);
    }
    let deleted = p50(each(ids.iter().map(async |id| of_this.delete(id).await.unwrap())).await);
    share.trash_is_empty().await;

    let rate = |begun: Instant| BURST as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let made: Vec<csi::Volume> = stream::iter(0..BURST).map(&create).buffer_unordered(IN_FLIGHT).collect().await;
    let created_in_flight = rate(begun);
    let begun = Instant::now();
    let delete = async |volume: csi::Volume| of_this.delete(&volume.volume_id).await.unwrap();
    stream::iter(made).map(delete).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
    let deleted_in_flight = rate(begun);
    share.trash_is_empty().await;

    let calls_resident = resident(of_this).await;
    let page = p50(each([list(of_this, String::new())]).await);
    let ([listed, list_requests], ()) = whole(volumes, list_all(of_this, volumes)).await;
    let list_resident = resident(of_this).await;
    let ([looked, look_requests], ()) = whole(volumes, look_at_all(of_this)).await;
    let look_resident = resident(of_this).await;
    let ([checked, check_requests], check_resident) = whole(volumes, check(share, client)).await;
    let [serves, works, requests] = restart(driver, share).await;
    [
        created,
        deleted,
        p50(snapshots),
        got,
        health,
        validated,
        created_in_flight,
        deleted_in_flight,
        calls_resident,
        page,
        listed,
        list_requests,
        list_resident,
        looked,
        look_requests,
        look_resident,
        checked,
        check_requests,
        check_resident,
        serves,
        works,
        requests,
    ]
}

/// What a driver at rest takes in MiB.
async fn resident(driver: &Driver) -> f64 {
    tokio::time::sleep(REST).await;
    driver.proc_status("VmRSS") as f64 / 1024.0
}

/// Does work about all volumes. Returns how long it takes in seconds, its requests for each volume, and its result.
async fn whole<T>(volumes: usize, work: impl Future<Output = T>) -> ([f64; 2], T) {
    let (begun, before) = (Instant::now(), Served::until_now().requests);
    let done = work.await;
    let requests = Served::until_now().requests - before;
    ([begun.elapsed().as_secs_f64(), requests as f64 / volumes as f64], done)
}

/// The p50 of ControllerGetVolume, ControllerGetVolumeHealth and ValidateVolumeCapabilities in ms.
async fn questions(driver: &Driver, volume: &csi::Volume) -> [f64; 3] {
    let id = || volume.volume_id.clone();
    let get = async |_| {
        let request = csi::ControllerGetVolumeRequest { volume_id: id() };
        driver.controller().controller_get_volume(request).await.unwrap();
    };
    let health = async |_| {
        let request = csi::ControllerGetVolumeHealthRequest { volume_id: id(), ..Default::default() };
        driver.controller().controller_get_volume_health(request).await.unwrap();
    };
    let validate = async |_| {
        let volume_capabilities = vec![requests::shared()];
        let request =
            csi::ValidateVolumeCapabilitiesRequest { volume_id: id(), volume_capabilities, ..Default::default() };
        driver.controller().validate_volume_capabilities(request).await.unwrap();
    };
    let (get, health) = (each((0..CALLS).map(get)).await, each((0..CALLS).map(health)).await);
    let validate = each((0..CALLS).map(validate)).await;
    [get, health, validate].map(|took| percentile(took, 50))
}

/// A page of a list: how many volumes are on it, and where the list continues.
async fn list(driver: &Driver, starting_token: String) -> (usize, String) {
    let request = csi::ListVolumesRequest { starting_token, ..Default::default() };
    let page = driver.controller().list_volumes(request).await.unwrap().into_inner();
    (page.entries.len(), page.next_token)
}

/// Lists all volumes.
async fn list_all(driver: &Driver, volumes: usize) {
    let (mut listed, mut token) = list(driver, String::new()).await;
    while !token.is_empty() {
        let (entries, next) = list(driver, token).await;
        (listed, token) = (listed + entries, next);
    }
    assert_eq!(listed, volumes);
}

/// Asks for the health of all volumes, which are well.
async fn look_at_all(driver: &Driver) {
    let mut request = csi::ControllerListVolumeHealthRequest::default();
    loop {
        let page = driver.controller().controller_list_volume_health(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.entries, []);
        if page.next_token.is_empty() {
            return;
        }
        request.starting_token = page.next_token;
    }
}

/// Runs `csi-nfs check`, which finds nothing. Returns how much memory it takes at most, in MiB.
async fn check(share: &Share, client: &str) -> f64 {
    let export = format!("--export={}:{}", share.server, share.share);
    let mut command = Command::new(program());
    command.args(["check", &export, &format!("--client={client}")]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut check = command.spawn().unwrap();
    let mut most = 0.0;
    let status = loop {
        let told = fs::read_to_string(format!("/proc/{}/status", check.id())).unwrap();
        // A process that has just ended has no memory.
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        most = line.map_or(most, |kib| kib.parse::<f64>().unwrap() / 1024.0);
        if let Some(status) = check.try_wait().unwrap() {
            break status;
        }
        tokio::time::sleep(LOOK).await;
    };
    assert!(status.success(), "{command:?}: {status}");
    most
}

/// Ends the driver and starts it again, twice. Returns how long it takes until it serves and until it has made a volume,
/// in ms, and how many requests a driver makes that nobody calls.
async fn restart(driver: &mut Driver, share: &Share) -> [f64; 3] {
    driver.terminate().await;
    let begun = Instant::now();
    driver.start_again().await;
    let serves = ms(begun.elapsed());
    let volume = driver.create(requests::create(share, "measured-0")).await.unwrap();
    let works = ms(begun.elapsed());
    driver.delete(&volume.volume_id).await.unwrap();
    share.trash_is_empty().await;
    driver.terminate().await;
    let before = Served::until_now().requests;
    driver.start_again().await;
    tokio::time::sleep(REST).await;
    [serves, works, (Served::until_now().requests - before) as f64]
}

fn report(clients: &[String], measured: &[[Figures; 2]], volumes: [usize; 2]) {
    let columns = volumes.map(|count| format!("{count} volumes"));
    let mut picture = Run::bars(
        "crowded",
        "What a call takes on an export with few and with many volumes",
        "ms",
        &columns.each_ref().map(String::as_str),
    );
    for (client, [few, many]) in clients.iter().zip(measured) {
        println!("\n{:42} {:>26} {:>26} {:>6}  goal", format!("{client} client"), columns[0], columns[1], "ratio");
        for ((what, unit, growth), (few, many)) in MEASURED.into_iter().zip(few.iter().zip(many)) {
            let cell = |series: &Series| format!("{:.2} {unit} ({})", series.median(), series.spread());
            let times = many.median() / few.median();
            let ratio = match growth {
                Growth::None => times,
                Growth::Rate => 1.0 / times,
                Growth::WithVolumes => times * volumes[0] as f64 / volumes[1] as f64,
            };
            println!("{what:42} {:>26} {:>26} {ratio:>6.2}  1.5", cell(few), cell(many));
            if unit == "ms" {
                picture.row(&format!("{what}, {client} client"), 1.0, &[Some(few), Some(many)]);
            }
        }
    }
    println!("\nThe ratio of what is about all volumes is for each volume.");
    picture.keep();
}
