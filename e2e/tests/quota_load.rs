//! How long a call waits for its limit while the agent has much to do: a walk through many files, or a look at many
//! volumes. `CSI_NFS_E2E_FILES` and `CSI_NFS_E2E_VOLUMES` say how many, for example a million and 50,000;
//! docs/benchmarks.md has figures.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use crate::quota::required;
use crate::support::agent::Agent;
use crate::support::requests;
use crate::support::wait::until;
use crate::support::{Driver, Lab, Place, Share};

/// The number of calls of a measurement.
const CALLS: usize = 60;
/// The most time for making everything, and for the agent's first look at it.
const PREPARING: Duration = Duration::from_secs(1500);

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The median and the 90th percentile of CreateVolume with a required limit, in ms.
async fn creations(driver: &Driver, share: &Share, what: &str) -> (f64, f64) {
    let mut took = Vec::new();
    for n in 0..CALLS {
        let start = Instant::now();
        driver.create(required(share, &format!("{what}-{n}"), 4)).await.unwrap();
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    let (median, most) = (took[CALLS / 2], took[CALLS * 9 / 10]);
    eprintln!("CreateVolume, quota required, {what}: p50 {median:.1} ms, p90 {most:.1} ms");
    (median, most)
}

#[tokio::test]
async fn a_limit_does_not_wait_for_a_walk_through_many_files() {
    let lab = Lab::alone_for(PREPARING).await;
    let share = lab.share(Place::Xfs);
    let files = number("CSI_NFS_E2E_FILES", 30_000);
    let driver = Driver::with(&["-v=0"]).await;
    let agent = Agent::quiet(&share);
    let usual = creations(&driver, &share, "usual").await;
    for n in 0..files {
        let directory = share.path.join(format!("big/{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir_all(&directory).unwrap();
        }
        File::create(directory.join(n.to_string())).unwrap();
    }
    rustix::fs::sync();
    let mut big = requests::create_with(&share, "big", "quota", "preferred");
    big.parameters.insert("subDir".into(), "big".into());
    let start = Instant::now();
    driver.create(big).await.unwrap();
    let answer = share.path.join(".csi-nfs/quota/volumes/big.json");
    let is_counted = || fs::read_to_string(&answer).is_ok_and(|answer| !answer.contains("reason"));
    until("the walk begins", Duration::from_secs(10), || answer.exists().then_some(())).await;
    let beside = creations(&driver, &share, "beside a walk").await;
    assert!(!is_counted(), "the walk was over before the calls: more files are needed");
    until("the walk ends", PREPARING, || is_counted().then_some(())).await;
    eprintln!("a walk through {files} files: {:.1} s", start.elapsed().as_secs_f64());
    eprintln!("agent, resident at most: {:.1} MiB", agent.proc_status("VmHWM") as f64 / 1024.0);
    assert!(beside.0 < 2.0 * usual.0, "{beside:?} ms beside a walk, {usual:?} without");
}

#[tokio::test]
async fn a_limit_does_not_wait_for_a_look_at_many_volumes() {
    let lab = Lab::alone_for(PREPARING).await;
    let share = lab.share(Place::Xfs);
    let volumes = number("CSI_NFS_E2E_VOLUMES", 3000);
    let driver = Driver::with(&["-v=0"]).await;
    driver.create(requests::create_with(&share, "template", "quota", "preferred")).await.unwrap();
    let records = share.path.join(".csi-nfs/volumes");
    let record = fs::read_to_string(records.join("template.json")).unwrap();
    for n in 0..volumes {
        let name = format!("volume-{n}");
        fs::create_dir(share.path.join(&name)).unwrap();
        fs::write(records.join(format!("{name}.json")), record.replace("template", &name)).unwrap();
    }
    let agent = Agent::quiet(&share);
    let looks = || -> Option<u64> {
        let agent = fs::read_to_string(share.path.join(".csi-nfs/quota/agent.json")).ok()?;
        serde_json::from_str::<serde_json::Value>(&agent).ok()?["looks"].as_u64()
    };
    // The first look also sets all these limits, which keeps the disk busy.
    creations(&driver, &share, "beside the first look").await;
    let through = async |count: u64| until("a look ends", PREPARING, || looks().filter(|looks| *looks >= count)).await;
    through(1).await;
    let usual = creations(&driver, &share, "usual, with these volumes").await;
    // Two looks, one after the other.
    let before = looks().unwrap();
    let start = Instant::now();
    File::create(records.join("#look")).unwrap();
    tokio::task::yield_now().await;
    fs::remove_file(records.join("#look")).unwrap();
    let beside = creations(&driver, &share, "beside a look").await;
    let ended = looks().unwrap() - before;
    through(before + 1).await;
    eprintln!("looks at {volumes} volumes that ended meanwhile: {ended}; {:.1} s", start.elapsed().as_secs_f64());
    eprintln!("agent, resident at most: {:.1} MiB", agent.proc_status("VmHWM") as f64 / 1024.0);
    assert!(beside.0 < 2.0 * usual.0, "{beside:?} ms beside a look, {usual:?} without");
}
