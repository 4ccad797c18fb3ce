//! A Prometheus that scrapes programs of a test. `make prometheus` builds it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{http, wait};

/// The pause between two scrapes, in seconds.
pub const INTERVAL: u64 = 2;

/// A running Prometheus. Dropping this kills it.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: &'static str,
    log: PathBuf,
}

/// What Prometheus is to scrape: an address, and the labels that Kubernetes would give it.
pub type Target<'a> = (&'a str, Value);

impl Prometheus {
    /// Starts it with its files in `directory`. It evaluates the rules of the chart.
    pub async fn start(directory: &Path, address: &'static str, targets: &[Target<'_>]) -> Self {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/csi-nfs/files/rules.yaml");
        let targets: Vec<_> = targets.iter().map(|(at, labels)| json!({"targets": [at], "labels": labels})).collect();
        let every = format!("{INTERVAL}s");
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "csi-nfs", "honor_labels": true, "static_configs": targets}],
        });
        fs::write(directory.join("prometheus.yaml"), config.to_string()).unwrap();
        let log = directory.join("prometheus.log");
        let out = File::create(&log).unwrap();
        let process = Command::new(program())
            .arg(format!("--config.file={}", directory.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("prometheus is missing; run `make prometheus` to build it");
        let prometheus = Self { process, address, log };
        let listens = || std::net::TcpStream::connect(address).is_ok();
        let ready = || (listens() && http::get_whole(address, "/-/ready").contains(" 200 OK")).then_some(());
        wait::until("Prometheus' start", Duration::from_secs(60), ready).await;
        prometheus.until_there("up == 1", Duration::from_secs(60)).await;
        prometheus
    }

    /// The series that a query has now.
    pub fn now(&self, query: &str) -> Vec<Value> {
        self.ask("query", &[("query", query)])
    }

    /// The series that a query had between two times (in seconds since 1970), a value every `step` seconds.
    pub fn range(&self, query: &str, between: (u64, u64), step: u64) -> Vec<Value> {
        let (start, end, step) = (between.0.to_string(), between.1.to_string(), step.to_string());
        self.ask("query_range", &[("query", query), ("start", &start), ("end", &end), ("step", &step)])
    }

    /// Waits until a query has a series, and returns how long that took.
    pub async fn until_there(&self, query: &str, limit: Duration) -> Duration {
        let begun = std::time::Instant::now();
        wait::until_async(query, limit, async || !self.now(query).is_empty()).await;
        begun.elapsed()
    }

    fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Vec<Value> {
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let answer = http::get_whole(self.address, &format!("/api/v1/{what}?{}", parameters.join("&")));
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert_eq!(body["status"], "success", "{parameters:?}: {body}");
        body["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- Prometheus' log\n{}---", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Seconds since 1970.
pub fn seconds() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// The path of the program.
fn program() -> PathBuf {
    super::cached("prometheus/prometheus")
}

/// A text in a query of a URL.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
