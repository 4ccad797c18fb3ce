//! Metrics by the naming rules of Prometheus (<https://prometheus.io/docs/practices/naming/>). Calls are counted here.
//! All other values are read from their sources at each scrape.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::Mutex as AsyncMutex;

use crate::server::process::OwnProcess;

/// Upper bounds in seconds, from a cached answer to a call that waited for an unreachable server.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    method: String,
    code: String,
}

const NO_LABELS: [(&str, &str); 0] = [];

type Latency = Family<Outcome, Histogram, fn() -> Histogram>;

/// All metrics of the driver, whose names begin with `csi_nfs_`, and the standard ones of its process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    process: Mutex<Registry>,
    duration: Latency,
    in_flight: Family<Method, Gauge>,
    /// Held by the scrape that runs.
    turn: AsyncMutex<()>,
}

/// One value of a gauge.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Names and values, in the same order in each reading of a gauge. Empty for a gauge without labels.
    pub labels: Vec<(&'static str, String)>,
    /// In the gauge's unit.
    pub value: f64,
}

impl Reading {
    /// A reading with one label.
    pub fn labelled(name: &'static str, label: impl Into<String>, value: f64) -> Self {
        Self { labels: vec![(name, label.into())], value }
    }
}

impl Default for Metrics {
    /// The metrics of the calls, and `csi_nfs_build_info`.
    fn default() -> Self {
        let mut registry = Registry::with_prefix("csi_nfs");
        let duration = Latency::new_with_constructor(|| Histogram::new(BUCKETS));
        let in_flight = Family::default();
        registry.register_with_unit(
            "rpc_duration",
            "How long calls took, by method and gRPC code",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register("rpcs_in_flight", "Calls that are being served, by method", in_flight.clone());
        registry.register("build", "The version of the driver", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let mut process = Registry::default();
        process.register_collector(Box::new(OwnProcess));
        let (registry, process) = (Mutex::new(registry), Mutex::new(process));
        Self { registry, process, duration, in_flight, turn: AsyncMutex::default() }
    }
}

impl Metrics {
    /// Adds a counter whose value `read` returns at each scrape.
    pub fn counter(&self, name: &'static str, help: &'static str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.collect(name, help, MetricType::Counter, move |mut descriptor| {
            ConstCounter::new(read()).encode(descriptor.encode_family(&NO_LABELS)?)
        });
    }

    /// Adds a histogram of seconds by one label, whose values `read` returns at each scrape.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: impl Fn() -> Vec<(String, Histogram)> + Send + Sync + 'static,
    ) {
        self.collect(name, help, MetricType::Histogram, move |mut descriptor| {
            for (value, histogram) in read() {
                histogram.encode(descriptor.encode_family(&[(label, value)])?)?;
            }
            Ok(())
        });
    }

    /// Adds a gauge whose values `read` returns at each scrape. It waits for nothing: what takes long is read in the
    /// background and kept.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Vec<Reading> + Send + Sync + 'static,
    ) {
        self.collect(name, help, MetricType::Gauge, move |mut descriptor| {
            for Reading { labels, value } in read() {
                ConstGauge::new(value).encode(descriptor.encode_family(&labels)?)?;
            }
            Ok(())
        });
    }

    fn collect(
        &self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        encode: impl Fn(MetricEncoder<'_>) -> fmt::Result + Send + Sync + 'static,
    ) {
        lock(&self.registry).register_collector(Box::new(Read { name, help, kind, encode: Box::new(encode) }));
    }

    /// Counts a call that starts.
    pub fn call_started(&self, method: &str) {
        self.in_flight.get_or_create(&Method { method: method.to_owned() }).inc();
    }

    /// Counts a call that has ended.
    pub fn call_ended(&self, method: &str, code: &str, took: Duration) {
        let method = method.to_owned();
        self.in_flight.get_or_create(&Method { method: method.clone() }).dec();
        self.duration.get_or_create(&Outcome { method, code: code.to_owned() }).observe(took.as_secs_f64());
    }

    /// Like [`Self::scrape`], on a thread of its own, because /proc is read and thousands of values may be written:
    /// calls are served meanwhile. One scrape runs at a time. `None` if the process is ending.
    pub async fn scrape_apart(self: &Arc<Self>) -> Option<String> {
        let _turn = self.turn.lock().await;
        let metrics = self.clone();
        tokio::task::spawn_blocking(move || metrics.scrape()).await.ok()
    }

    /// All metrics in the OpenMetrics text format, version 1.0.0.
    pub fn scrape(&self) -> String {
        let mut scraped = String::new();
        let mut encode = || {
            text::encode_registry(&mut scraped, &lock(&self.registry))?;
            text::encode(&mut scraped, &lock(&self.process))
        };
        // Writing to a string does not fail. If a collector does, the metrics so far are still returned.
        if let Err(error) = encode() {
            tracing::error!(%error, "writing a metric failed");
        }
        scraped
    }
}

fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A metric that is read at each scrape.
struct Read {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    encode: Box<dyn Fn(MetricEncoder<'_>) -> fmt::Result + Send + Sync>,
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for Read {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        (self.encode)(encoder.encode_descriptor(self.name, self.help, None, self.kind)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_while_they_run_and_by_method_and_code() {
        let metrics = Metrics::default();
        metrics.call_started("Probe");
        metrics.call_started("Probe");
        metrics.call_ended("Probe", "OK", Duration::from_millis(3));
        let scraped = metrics.scrape();
        for line in [
            "# TYPE csi_nfs_rpc_duration_seconds histogram",
            "# UNIT csi_nfs_rpc_duration_seconds seconds",
            "csi_nfs_rpc_duration_seconds_count{method=\"Probe\",code=\"OK\"} 1",
            "csi_nfs_rpc_duration_seconds_bucket{le=\"0.005\",method=\"Probe\",code=\"OK\"} 1",
            "csi_nfs_rpc_duration_seconds_bucket{le=\"0.0025\",method=\"Probe\",code=\"OK\"} 0",
            "csi_nfs_rpcs_in_flight{method=\"Probe\"} 1",
            concat!("csi_nfs_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(scraped.lines().any(|l| l == line), "{line}\n{scraped}");
        }
        assert!(scraped.ends_with("# EOF\n"));
    }

    #[test]
    fn counters_and_histograms_are_read_and_the_process_tells_of_itself() {
        let metrics = Metrics::default();
        let waits = Histogram::new([0.1, 1.0]);
        waits.observe(0.5);
        metrics.counter("forced_waits", "Waits", || 3);
        metrics.histogram("lock_wait_seconds", "Waits", "export", move || vec![("nfs:/e".to_owned(), waits.clone())]);
        let scraped = metrics.scrape();
        for line in [
            "csi_nfs_forced_waits_total{} 3",
            "csi_nfs_lock_wait_seconds_bucket{le=\"0.1\",export=\"nfs:/e\"} 0",
            "csi_nfs_lock_wait_seconds_bucket{le=\"1.0\",export=\"nfs:/e\"} 1",
            "csi_nfs_lock_wait_seconds_sum{export=\"nfs:/e\"} 0.5",
            "# TYPE process_cpu_seconds counter",
        ] {
            assert!(scraped.lines().any(|l| l == line), "{line}\n{scraped}");
        }
        let own = |name: &str| {
            let value = scraped.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.unwrap_or_else(|| panic!("{name}\n{scraped}")).parse::<f64>().unwrap()
        };
        assert!(own("process_cpu_seconds_total") >= 0.0 && own("process_threads") >= 1.0);
        assert!(own("process_resident_memory_bytes") > 1e5);
        assert!(own("process_virtual_memory_bytes") > own("process_resident_memory_bytes"));
        assert!((1.0..=own("process_max_fds")).contains(&own("process_open_fds")));
        let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - own("process_start_time_seconds");
        assert!((-2.0..86400.0).contains(&age), "{age}");
    }

    #[test]
    fn a_gauge_is_read_at_each_scrape_and_its_labels_are_escaped() {
        let metrics = Metrics::default();
        let trash = std::sync::Arc::new(Mutex::new(1.0));
        let read = trash.clone();
        metrics.gauge("mounts", "Mounts", || vec![Reading::labelled("server", "a\"\n", 2.0)]);
        metrics
            .gauge("copies_running", "Copies", move || vec![Reading { labels: vec![], value: *read.lock().unwrap() }]);
        let scraped = metrics.scrape();
        assert!(scraped.contains("csi_nfs_mounts{server=\"a\\\"\\n\"} 2.0\n"), "{scraped}");
        assert!(scraped.contains("csi_nfs_copies_running{} 1.0\n"), "{scraped}");
        *trash.lock().unwrap() = 3.0;
        assert!(metrics.scrape().contains("csi_nfs_copies_running{} 3.0\n"));
    }
}
