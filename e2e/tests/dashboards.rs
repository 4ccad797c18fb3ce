//! The chart's dashboards and alerts with a real Prometheus that scrapes the driver: during creates, a copy, an outage
//! and a full export each panel has something to show.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::quota::required;
use crate::registration::Kubelet;
use crate::support::agent::Agent;
use crate::support::lab::run;
use crate::support::prometheus::{INTERVAL, Prometheus, seconds};
use crate::support::requests::{create, create_with, snapshot};
use crate::support::wait::until_async;
use crate::support::{Driver, Lab, Outage, Place, Share};

const DRIVER: &str = "127.0.0.12:9189";
const PROMETHEUS: &str = "127.0.0.12:9090";
/// The pause between two values that are asked for, in seconds.
const STEP: u64 = 5;
/// The longest time for what the driver looks at in the background.
const LOOKS: Duration = Duration::from_secs(150);

/// The shares of the test.
struct Shares {
    /// With volumes, an agent, a copy, and faults.
    main: Share,
    /// It is filled.
    small: Share,
    /// Its server goes away.
    lost: Share,
}

impl Shares {
    fn all(&self) -> [String; 3] {
        [&self.main, &self.small, &self.lost].map(|share| format!("{}:{}", share.server, share.share))
    }
}

/// A file that not even root can remove, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn of(path: PathBuf) -> Self {
        run("chattr", ["+i", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        run("chattr", ["-i", self.0.to_str().unwrap()]);
    }
}

/// Volumes come and go, some are mounted, a tree is copied, and calls fail.
async fn use_it(driver: &Driver, shares: &Shares, prometheus: &Prometheus, begin: u64) {
    for n in 0..8 {
        let volume = driver.create(create_with(&shares.main, &format!("v{n}"), "overcommit", "100")).await.unwrap();
        driver.publish(&volume, &driver.target(&format!("pod-{n}"))).await.unwrap();
    }
    for n in 0..4 {
        let volume = driver.create(create(&shares.small, &format!("v{n}"))).await.unwrap();
        driver.delete(&volume.volume_id).await.unwrap();
    }
    let wrong = || driver.create(create_with(&shares.main, "wrong", "onDelete", "nonsense"));
    wrong().await.unwrap_err();
    let source = driver.create(required(&shares.main, "source", 64)).await.unwrap();
    for n in 0..4000 {
        fs::write(shares.main.path.join(format!("source/{n}")), "content").unwrap();
    }
    // A copy that ends between two scrapes is not seen, so it is repeated until one is.
    for n in 0..20 {
        driver.take_whole(snapshot(&source.volume_id, &format!("copied-{n}"))).await.unwrap();
        if !prometheus.range("csi_nfs_copy_bytes", (begin, seconds()), STEP).is_empty() {
            break;
        }
    }
    // A rate needs a second failure, after a scrape.
    wrong().await.unwrap_err();
}

/// A directory is removed by hand, and something can neither be cleared from the trash nor be swept from staging.
async fn break_it(driver: &Driver, shares: &Shares) -> Vec<Immutable> {
    driver.create(create(&shares.main, "gone")).await.unwrap();
    fs::remove_dir(shares.main.path.join("gone")).unwrap();
    let own = shares.main.path.join(".csi-nfs");
    let stuck = ["trash/stuck", "staging/stuck"].map(|name| own.join(name));
    let immutable = stuck.map(|directory| {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "x").unwrap();
        Immutable::of(directory.join("file"))
    });
    immutable.into()
}

/// The server of a mounted volume goes away. The alert says so within two minutes, and ends when it is back.
async fn lose_it(lab: &Lab, driver: &Driver, shares: &Shares, prometheus: &Prometheus) {
    let volume = driver.create(create(&shares.lost, "v")).await.unwrap();
    let target = driver.target("pod-lost");
    driver.publish(&volume, &target).await.unwrap();
    let alert =
        format!("ALERTS{{alertname=\"NFSServerUnreachable\",alertstate=\"firing\",server=\"{}\"}}", shares.lost.server);
    let away = lab.without_ganesha(Outage::Stopped);
    let took = prometheus.until_there(&alert, Duration::from_secs(120)).await;
    let failed = driver.create(create(&shares.lost, "w")).await;
    assert!(failed.is_err(), "{failed:?}");
    drop(away);
    let ended = async || prometheus.now(&alert).is_empty();
    let begun = std::time::Instant::now();
    until_async("the end of the alert", Duration::from_secs(120), ended).await;
    eprintln!("the alert fired after {took:?} and ended after {:?}", begun.elapsed());
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
}

/// Fills an export to more than 90 %, until the driver tells of it and an alert is pending. Returns the file.
async fn fill_it(shares: &Shares, prometheus: &Prometheus) -> PathBuf {
    let file = shares.small.path.join("large");
    fs::write(&file, vec![7; 15 << 20]).unwrap();
    let [_, small, _] = shares.all();
    prometheus.until_there(&format!("ALERTS{{alertname=\"NFSExportNearlyFull\",export=\"{small}\"}}"), LOOKS).await;
    file
}

/// The alerts that fired, besides those of faults that the test has made: an outage, and a directory that is gone.
fn false_alarms(prometheus: &Prometheus, between: (u64, u64)) -> Vec<Value> {
    let others = "ALERTS{alertstate=\"firing\",alertname!~\"NFSServerUnreachable|NFSVolumeDirectoryMissing\"}";
    prometheus.range(others, between, STEP).into_iter().map(|series| series["metric"].clone()).collect()
}

/// The answers to all queries of a dashboard, and the queries that have none.
fn answers(dashboard: &Value, export: &str, prometheus: &Prometheus, between: (u64, u64)) -> (Value, Vec<String>) {
    let (mut all, mut empty) = (serde_json::Map::new(), Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let rate = format!("{}s", 4 * INTERVAL);
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", &rate).replace("$export", export);
            let answer = prometheus.range(&query, between, STEP);
            let series: Vec<_> = answer.iter().filter_map(|series| compact(series, between.0)).collect();
            if series.is_empty() {
                empty.push(format!("{}: {query}", panel["title"]));
            }
            all.insert(format!("{}/{}", panel["id"], target["refId"].as_str().unwrap()), series.into());
        }
    }
    (all.into(), empty)
}

/// A series with its values as numbers of four digits, in seconds since the begin; `None` if it has no number.
fn compact(series: &Value, begin: u64) -> Option<Value> {
    let number = |pair: &Value| {
        let value: f64 = pair[1].as_str()?.parse().ok().filter(|value: &f64| value.is_finite())?;
        let rounded: f64 = format!("{value:.3e}").parse().ok()?;
        Some(json!([pair[0].as_u64()? - begin, rounded]))
    };
    let values: Vec<_> = series["values"].as_array()?.iter().filter_map(number).collect();
    (!values.is_empty()).then(|| json!({"metric": series["metric"], "values": values}))
}

#[tokio::test]
async fn each_panel_shows_something_after_creates_a_copy_an_outage_and_a_full_export() {
    let lab = Lab::alone_for(Duration::from_secs(900)).await;
    let shares =
        Shares { main: lab.share(Place::Xfs), small: lab.share(Place::Small), lost: lab.share(Place::Ganesha) };
    let _agent = Agent::quiet(&shares.main);
    let kubelet = Kubelet::new();
    let exports = format!("--export={}", shares.all().join(","));
    let arguments = [&format!("--http-endpoint={DRIVER}"), &exports, "--copy-workers=1"];
    let driver = kubelet.driver_with("/csi.sock", &arguments).await;
    kubelet.notify("").await;
    let labels = json!({"pod": "csi-nfs-0", "node": "node-1", "csi_nfs_part": "node"});
    let begin = seconds();
    let prometheus = Prometheus::start(driver.path("").as_path(), PROMETHEUS, &[(DRIVER, labels)]).await;

    use_it(&driver, &shares, &prometheus, begin).await;
    let broken = break_it(&driver, &shares).await;
    let large = fill_it(&shares, &prometheus).await;
    lose_it(&lab, &driver, &shares, &prometheus).await;
    fs::remove_file(large).unwrap();
    let [main, ..] = shares.all();
    for seen in
        ["volume_health_volumes", "volume_health", "trash_oldest_timestamp_seconds", "staging_oldest_timestamp_seconds"]
    {
        prometheus.until_there(&format!("csi_nfs_{seen}{{export=\"{main}\"}}"), LOOKS).await;
    }
    let between = (begin, seconds());
    drop(broken);
    let alarms = false_alarms(&prometheus, between);
    assert!(alarms.is_empty(), "{alarms:#?}");

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/csi-nfs/files/dashboards");
    let mut nothing = Vec::new();
    for name in ["csi-nfs-fleet", "csi-nfs-export"] {
        let dashboard = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let (answers, empty) = answers(&serde_json::from_str(&dashboard).unwrap(), &main, &prometheus, between);
        nothing.extend(empty);
        // `make pictures` draws what is kept there.
        if let Some(runs) = std::env::var_os("CSI_NFS_E2E_RUNS").map(PathBuf::from) {
            let run = json!({"end": between.1 - begin, "step": STEP, "answers": answers});
            fs::write(runs.join(format!("{name}.json")), format!("{run}\n")).unwrap();
        }
    }
    assert!(nothing.is_empty(), "panels without data: {nothing:#?}");
}
