//! The cost of limits: the duration of CreateVolume with a required limit or with `overcommit`, and the cost of the
//! agent with ten thousand volumes.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};

use crate::support::agent::Agent;
use crate::support::{Driver, Lab, Place, Share, csi, requests};
use crate::{Series, each, ms, percentile};

const ROUNDS: usize = 5;
/// The number of sequential calls in each round.
const CALLS: usize = 100;
/// The number of volumes on the agent's export.
const VOLUMES: usize = 10_000;
const IN_FLIGHT: usize = 64;
/// The time for which an idle process is watched.
const AT_REST: Duration = Duration::from_secs(20);

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["-v=0"]).await;
    println!("\nLimits, on an XFS export of the kernel's server with an agent beside it. Median of {ROUNDS} rounds.\n");
    println!("{:56} {:>12} {:>20}  goal", "", "median", "rounds");
    let agent = Agent::start(&share);
    row("CreateVolume, quota required, p50", &creations(&driver, &share, "quota", "required").await, "under 15 ms");
    row("CreateVolume, preferred, p50", &creations(&driver, &share, "quota", "preferred").await, "");
    row("CreateVolume, overcommit, p50", &creations(&driver, &share, "overcommit", "1000").await, "");
    drop(agent);

    let volumes = (0..VOLUMES).map(|n| driver.create(requests::create(&share, &format!("volume-{n}"))));
    stream::iter(volumes).buffer_unordered(IN_FLIGHT).for_each(async |made| drop(made.unwrap())).await;
    let (first, agent) = look(&share).await;
    println!("agent, {VOLUMES} volumes without limits: {first:.1} s until all have their limits");
    drop(agent);
    let mut starts = Series::default();
    for _ in 1..ROUNDS {
        starts.0.push(look(&share).await.0);
    }
    let (start, agent) = look(&share).await;
    starts.0.push(start);
    println!(
        "agent, {VOLUMES} volumes with limits: {:.2} s from its start until it has checked all ({}; goal: under 5 s)",
        starts.median(),
        starts.spread()
    );
    println!(
        "agent, resident: {:.1} MiB, at most {:.1} MiB (goal: under 16 MB)",
        mib(&agent, "VmRSS"),
        mib(&agent, "VmHWM")
    );
    // After this time, idle threads of the pool have ended.
    tokio::time::sleep(AT_REST).await;
    let before = agent.sleeps();
    tokio::time::sleep(AT_REST).await;
    println!("agent, wake-ups in {AT_REST:?} while nothing changes: {} (goal: none)", agent.sleeps() - before);
    row(
        &format!("CreateVolume, quota required, {VOLUMES} volumes, p50"),
        &creations(&driver, &share, "quota", "required").await,
        "under 15 ms",
    );
    // The first call counts all volumes.
    let counting = each([driver.create(requests::create_with(&share, "first", "overcommit", "1000"))]).await[0];
    row(
        &format!("CreateVolume, overcommit, {VOLUMES} volumes, p50"),
        &creations(&driver, &share, "overcommit", "1000").await,
        "",
    );
    println!("CreateVolume, the first with overcommit, {VOLUMES} volumes: {:.1} s", counting / 1e3);
}

/// The duration of CreateVolume with a parameter.
async fn creations(driver: &Driver, share: &Share, key: &str, value: &str) -> Series {
    let mut series = Series::default();
    for _ in 0..ROUNDS {
        let request = |n: usize| requests::create_with(share, &format!("measured-{n}"), key, value);
        let took = each((0..CALLS).map(|n| async move { driver.create(request(n)).await.unwrap() })).await;
        series.0.push(percentile(took, 50));
        for n in 0..CALLS {
            let volume: csi::Volume = driver.create(request(n)).await.unwrap();
            driver.delete(&volume.volume_id).await.unwrap();
        }
        share.trash_is_empty().await;
    }
    series
}

/// Starts an agent. Returns the seconds until it has checked every volume.
async fn look(share: &Share) -> (f64, Agent) {
    let told = share.path.join(".csi-nfs/quota/agent.json");
    let _ = fs::remove_file(&told);
    let start = Instant::now();
    let agent = Agent::quiet(share);
    let through = || fs::read_to_string(&told).is_ok_and(|text| text.contains("\"looks\":1"));
    while !through() {
        assert!(start.elapsed() < Duration::from_secs(300), "the agent has not checked all volumes: {}", agent.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (ms(start.elapsed()) / 1e3, agent)
}

fn mib(agent: &Agent, key: &str) -> f64 {
    agent.proc_status(key) as f64 / 1024.0
}

fn row(what: &str, series: &Series, goal: &str) {
    println!("{what:56} {:>12} {:>20}  {goal}", format!("{:.2} ms", series.median()), series.spread());
}
