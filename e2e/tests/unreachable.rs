//! A server that refuses connections, is silent, or is cut off. Calls to it end in time, and no other call is affected.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::{Signal, kill_process};

use crate::support::requests;
use crate::support::wait::{self, within};
use crate::support::{Code, Driver, Lab, Outage, Place, Share, csi, mounts};

/// The longest time until CreateVolume and NodePublishVolume report that the server is unreachable.
const TOLD: Duration = Duration::from_secs(5);
/// The longest time for NodeUnpublishVolume.
const TAKEN_DOWN: Duration = Duration::from_secs(10);
/// The longest time for NodeGetVolumeStats.
const MEASURED: Duration = Duration::from_secs(2);
/// How often the main job is timed, with all servers and while one is gone.
const ROUNDS: usize = 11;
/// The maximum number of threads that calls to an unreachable server may add: ten for each of the two sources that the
/// test mounts from there (those that hang for 4 s are made up for), and four for calls elsewhere.
const THREADS: u64 = 24;

fn assert_unreachable(status: &tonic::Status, share: &Share) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&share.server), "{status}");
}

#[rstest]
#[tokio::test]
async fn a_server_that_is_gone_is_told_of_in_time_and_serves_again_when_it_is_back(
    #[values(Outage::Stopped, Outage::Frozen, Outage::CutOff)] outage: Outage,
    #[values(false, true)] known: bool,
) {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    let driver = Driver::start().await;
    let mut volume = csi::Volume {
        volume_id: format!("{}#{}#static##", share.server, &share.share[1..]),
        volume_context: requests::map([("server", &share.server), ("share", &share.share), ("subDir", "static")]),
        ..Default::default()
    };
    fs::create_dir(share.path.join("static")).unwrap();
    if known {
        // The driver has the export mounted, and a volume of it.
        volume = driver.create(requests::create(&share, "v")).await.unwrap();
        driver.publish(&volume, &driver.target("before")).await.unwrap();
    }
    {
        let _away = lab.without_ganesha(outage);
        let created = within("CreateVolume", TOLD, driver.create(requests::create(&share, "new"))).await;
        assert_unreachable(&created.unwrap_err(), &share);
        let target = driver.target("pod");
        let published = within("NodePublishVolume", TOLD, driver.publish(&volume, &target)).await;
        assert_unreachable(&published.unwrap_err(), &share);
        assert!(mounts::at(&target).is_empty());
        let deleted = within("DeleteVolume", TOLD, driver.delete(&volume.volume_id)).await;
        assert_unreachable(&deleted.unwrap_err(), &share);
    }
    wait::until_async("CreateVolume after the outage", Duration::from_secs(60), async || {
        driver.create(requests::create(&share, "new")).await.is_ok()
    })
    .await;
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    fs::write(target.join("file"), "x").unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn calls_for_other_servers_take_no_longer_and_threads_do_not_pile_up(
    #[values(Outage::Stopped, Outage::Frozen, Outage::CutOff)] outage: Outage,
) {
    let lab = Lab::alone().await;
    let (gone, steady) = (lab.share(Place::Ganesha), lab.share(Place::Xfs));
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&gone, "v")).await.unwrap();
    driver.publish(&volume, &driver.target("lost")).await.unwrap();
    let warm = driver.create(requests::create(&steady, "warm")).await.unwrap();
    driver.publish(&warm, &driver.target("warm")).await.unwrap();
    // An idle thread ends after some seconds, so the number at one moment says little.
    let (mut threads, mut usual) = (0, Vec::new());
    for n in 0..ROUNDS {
        usual.push(timed(main_job(&driver, &steady, &format!("usual{n}"))).await);
        threads = threads.max(driver.proc_status("Threads"));
    }
    let away = lab.without_ganesha(outage);
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let (mut controller, mut node) = (driver.controller(), driver.node());
            let create = requests::create(&gone, &format!("w{n}"));
            let publish = requests::publish(&volume, &driver.target(&format!("pod{n}")));
            let stats = requests::stats(&volume.volume_id, &driver.target("lost"));
            tokio::spawn(async move {
                match n % 3 {
                    0 => controller.create_volume(create).await.map(drop),
                    1 => node.node_publish_volume(publish).await.map(drop),
                    _ => node.node_get_volume_stats(stats).await.map(drop),
                }
            })
        })
        .collect();
    let (mut peak, mut meanwhile) = (0, Vec::new());
    for n in 0..ROUNDS {
        meanwhile.push(timed(main_job(&driver, &steady, &format!("other{n}"))).await);
        peak = peak.max(driver.proc_status("Threads"));
    }
    // The 200 calls take processor time, too, of which there may be only one, so not twice the usual but this.
    let most = 3 * median(&mut usual) + Duration::from_millis(50);
    assert!(median(&mut meanwhile) <= most, "usually {usual:?}, meanwhile {meanwhile:?}");
    for (n, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap();
        if n % 3 != 2 {
            assert_unreachable(&answer.unwrap_err(), &gone);
        }
        peak = peak.max(driver.proc_status("Threads"));
    }
    assert!(peak <= threads + THREADS, "{threads} threads before, up to {peak} meanwhile");
    drop(away);
    wait::until_async("the server after the outage", Duration::from_secs(60), async || {
        driver.create(requests::create(&gone, "back")).await.is_ok()
    })
    .await;
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Creates, publishes, unpublishes and deletes a volume.
async fn main_job(driver: &Driver, share: &Share, name: &str) {
    let volume = driver.create(requests::create(share, name)).await.unwrap();
    let target = driver.target(name);
    driver.publish(&volume, &target).await.unwrap();
    driver.stats(&volume.volume_id, &target).await.unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
}

fn sizes(figures: &[csi::VolumeUsage]) -> Vec<(i32, i64)> {
    figures.iter().map(|usage| (usage.unit, usage.total)).collect()
}

/// What a pod does: it writes to the file `$0`, says so, waits, and writes again, when the path may be unmounted.
const POD: &str = r#"
    exec 3>"$0"
    echo first >&3; sync /proc/self/fd/3; echo
    read
    printf %0100000d 1 >&3; sync /proc/self/fd/3
"#;

#[rstest]
#[tokio::test]
async fn a_pod_can_end_and_be_measured_while_its_server_is_gone(
    #[values(Outage::Stopped, Outage::Frozen, Outage::CutOff)] outage: Outage,
    #[values(false, true)] restarted: bool,
) {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    let controller = Driver::with(&["--mode=controller"]).await;
    let volume = controller.create(requests::create(&share, "v")).await.unwrap();
    let mut driver = Driver::with(&["--mode=node", "--vol-stats-cache-expire-in-minutes=0"]).await;
    let (idle, busy) = (driver.target("idle"), driver.target("busy"));
    for target in [&idle, &busy] {
        driver.publish(&volume, target).await.unwrap();
    }
    let figures = driver.stats(&volume.volume_id, &idle).await.unwrap();
    // A process of a pod with an open file and data that does not reach the server. It waits in the kernel.
    let mut pod = Command::new("bash")
        .args(["-c", POD])
        .arg(busy.join("file"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    pod.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let away = lab.without_ganesha(outage);
    pod.stdin.take().unwrap().write_all(b"\n").unwrap();
    if restarted {
        driver.kill();
        driver.start_again().await;
    }
    for _ in 0..3 {
        let measured = within("NodeGetVolumeStats", MEASURED, driver.stats(&volume.volume_id, &idle)).await;
        // NodeGetVolumeStats returns the last figures, if this process has ever had any.
        match restarted {
            // Other tests create and remove files meanwhile, so the inode counts differ.
            false => assert_eq!(sizes(&measured.unwrap()), sizes(&figures)),
            true => assert_unreachable(&measured.unwrap_err(), &share),
        }
    }
    for target in [&idle, &busy] {
        let unpublished = within("NodeUnpublishVolume", TAKEN_DOWN, driver.unpublish(&volume.volume_id, target)).await;
        unpublished.unwrap();
        assert!(mounts::at(target).is_empty() && !target.exists());
    }
    drop(away);
    let ended = wait::until("the end of the pod's process", Duration::from_secs(60), || pod.try_wait().unwrap()).await;
    // The process is told that everything is on the server only if it is; otherwise it gets an error, and no signal.
    let whole = format!("first\n{}1", "0".repeat(99_999));
    match ended.code() {
        Some(0) => assert!(fs::read_to_string(share.path.join("v/file")).unwrap() == whole, "written, and not there"),
        code => assert_eq!(code, Some(1), "{ended}"),
    }
}

#[rstest]
#[tokio::test]
async fn a_driver_ends_when_it_is_told_to_although_a_server_that_it_uses_is_gone(
    #[values(Outage::Stopped, Outage::Frozen, Outage::CutOff)] outage: Outage,
    #[values("--mode=controller", "--mode=node")] mode: &str,
) {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    let mut driver = Driver::with(&[mode]).await;
    if mode == "--mode=controller" {
        driver.create(requests::create(&share, "v")).await.unwrap();
        // A thread that unlocks when the server goes away waits as long as `softerr` allows.
        wait::until("releasing the locks", Duration::from_secs(5), || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            (!locks.contains("OFDLCK")).then_some(())
        })
        .await;
    } else {
        let context = requests::map([("server", &share.server), ("share", &share.share)]);
        let volume = csi::Volume { volume_id: "static".into(), volume_context: context, ..Default::default() };
        driver.publish(&volume, &driver.target("pod")).await.unwrap();
    }
    let away = lab.without_ganesha(outage);
    kill_process(driver.pid(), Signal::TERM).unwrap();
    // The grace period is for running calls, and no call runs, so the driver exits at once. The test polls, because
    // waiting for a process that hangs in the kernel would hang the test.
    let limit = Duration::from_secs(5);
    let start = Instant::now();
    let mut ended = driver.has_ended();
    while ended.is_none() && start.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(10)).await;
        ended = driver.has_ended();
    }
    let threads = if ended.is_none() { driver.threads() } else { String::new() };
    drop(away);
    assert!(ended.is_some_and(|status| status.success()), "after {limit:?}: {ended:?}\n{threads}");
}

#[tokio::test]
async fn a_server_that_restarts_is_used_again_without_an_error_left_behind() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    {
        let _away = lab.without_kernel_server();
        let created = within("CreateVolume", TOLD, driver.create(requests::create(&share, "w"))).await;
        assert_unreachable(&created.unwrap_err(), &share);
    }
    wait::until_async("CreateVolume after the restart", Duration::from_secs(60), async || {
        driver.create(requests::create(&share, "w")).await.is_ok()
    })
    .await;
    fs::write(target.join("file"), "x").unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
}

#[rstest]
#[case("192.0.2.1")]
#[case("nfs.invalid")]
#[case("10.90.0.1")]
#[tokio::test]
async fn a_server_that_never_was_there_is_told_of_in_time(#[case] server: &str) {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs).by(server);
    let driver = Driver::start().await;
    // 10.90.0.1 is this host, where the kernel's server also listens. Another port is closed.
    let mut request = requests::create(&share, "v");
    if server == "10.90.0.1" {
        request.volume_capabilities =
            vec![requests::mounted(csi::volume_capability::access_mode::Mode::MultiNodeMultiWriter, &["port=2050"])];
    }
    let status = within("CreateVolume", TOLD, driver.create(request)).await.unwrap_err();
    assert_unreachable(&status, &share);
    assert_eq!(share.names().len(), 0);
}

#[tokio::test]
async fn a_driver_starts_and_stops_while_an_export_of_its_list_is_gone() {
    let lab = Lab::alone().await;
    let (gone, steady) = (lab.share(Place::Ganesha), lab.share(Place::Xfs));
    let _away = lab.without_ganesha(Outage::CutOff);
    let start = Instant::now();
    let mut driver = Driver::with(&[&format!("--export={}:{}", gone.server, gone.share)]).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    main_job(&driver, &steady, "v").await;
    let list = csi::ListVolumesRequest::default();
    let mut controller = driver.controller();
    // The main job has deleted its volume.
    let listed = within("ListVolumes", TOLD, controller.list_volumes(list)).await;
    assert_eq!(listed.unwrap().into_inner(), csi::ListVolumesResponse::default());
    let ended = within("the driver's exit", Duration::from_secs(12), driver.terminate()).await;
    assert!(ended.success(), "{ended}");
}

/// Freezes the file system behind a share until it is dropped, like a dead disk behind a server that is alive. The
/// server has threads to spare meanwhile: those that wait for the disk answer nobody.
struct Frozen<'a> {
    share: &'a Share,
    threads: String,
}

/// How many threads the kernel's server has.
const SERVER_THREADS: &str = "/proc/fs/nfsd/threads";

impl<'a> Frozen<'a> {
    fn new(share: &'a Share) -> Self {
        let threads = fs::read_to_string(SERVER_THREADS).unwrap();
        fs::write(SERVER_THREADS, "32\n").unwrap();
        fsfreeze("--freeze", share);
        Self { share, threads }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        fsfreeze("--unfreeze", self.share);
        fs::write(SERVER_THREADS, &self.threads).unwrap();
    }
}

fn fsfreeze(what: &str, share: &Share) {
    let done = Command::new("fsfreeze").arg(what).arg(&share.path).status().unwrap();
    assert!(done.success(), "fsfreeze {what} {}", share.path.display());
}

#[tokio::test]
async fn an_export_that_hangs_stops_no_call_for_another_export_of_its_server() {
    let lab = Lab::alone().await;
    let (hung, neighbour) = (lab.share(Place::SmallXfs), lab.share(Place::Xfs));
    let driver = Driver::with(&["--vol-stats-cache-expire-in-minutes=0"]).await;
    let volume = driver.create(requests::create(&hung, "v")).await.unwrap();
    driver.publish(&volume, &driver.target("lost")).await.unwrap();
    main_job(&driver, &neighbour, "warm").await;
    let start = Instant::now();
    for n in 0..5 {
        main_job(&driver, &neighbour, &format!("usual{n}")).await;
    }
    let usual = start.elapsed();
    let frozen = Frozen::new(&hung);
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let mut controller = driver.controller();
            let create = requests::create(&hung, &format!("w{n}"));
            tokio::spawn(async move { controller.create_volume(create).await.map(drop) })
        })
        .collect();
    let mut rounds = Vec::new();
    for round in 0..10 {
        let start = Instant::now();
        for n in 0..5 {
            main_job(&driver, &neighbour, &format!("beside{round}-{n}")).await;
        }
        rounds.push(start.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    rounds.sort();
    // The first round is beside the work of the 40 calls, and the machine may do other things, too.
    assert!(rounds[5] <= usual * 2 && rounds[9] < Duration::from_secs(2), "{rounds:?}, usually {usual:?}");
    // By now the calls that wait are told, and so are further ones.
    let told = within("CreateVolume", Duration::from_secs(10), driver.create(requests::create(&hung, "late"))).await;
    let told = told.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    assert!(told.message().contains("not for this export"), "{told}");
    drop(frozen);
    for (n, call) in calls.into_iter().enumerate() {
        if let Err(status) = within("CreateVolume", Duration::from_secs(60), call).await.unwrap() {
            assert_eq!(status.code(), Code::Unavailable, "{n}: {status}");
        }
    }
    wait::until_async("the export after it hung", Duration::from_secs(60), async || {
        driver.create(requests::create(&hung, "late")).await.is_ok()
    })
    .await;
    main_job(&driver, &hung, "again").await;
    driver.unpublish(&volume.volume_id, &driver.target("lost")).await.unwrap();
}
