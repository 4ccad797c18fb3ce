//! The standard metrics of a process (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>),
//! from proc(5). They are read on the thread of the scrape, which serves no call.

use std::fmt;

use procfs::ProcResult;
use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the process's own figures at each scrape.
#[derive(Debug)]
pub struct OwnProcess;

/// What the kernel says of this process.
struct Figures {
    cpu_seconds: f64,
    /// The gauges: name, help, value.
    gauges: [(&'static str, &'static str, f64); 6],
}

impl Figures {
    fn read() -> ProcResult<Self> {
        let own = Process::myself()?;
        let (stat, limits) = (own.stat()?, own.limits()?);
        let ticks = procfs::ticks_per_second() as f64;
        let started = procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks;
        let max_fds = match limits.max_open_files.soft_limit {
            LimitValue::Value(most) => most as f64,
            LimitValue::Unlimited => f64::INFINITY,
        };
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            gauges: [
                ("process_resident_memory_bytes", "Resident memory.", stat.rss as f64 * procfs::page_size() as f64),
                ("process_virtual_memory_bytes", "Virtual memory.", stat.vsize as f64),
                ("process_open_fds", "Open file descriptors.", own.fd_count()? as f64),
                ("process_max_fds", "The most file descriptors that may be open.", max_fds),
                ("process_start_time_seconds", "When the process started, in seconds since 1970.", started),
                ("process_threads", "Threads of the process.", stat.num_threads as f64),
            ],
        })
    }
}

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let figures = match Figures::read() {
            Ok(figures) => figures,
            Err(error) => {
                tracing::debug!(%error, "the process's own figures cannot be read from /proc");
                return Ok(());
            }
        };
        let help = "User and system CPU time.";
        let counter = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(figures.cpu_seconds).encode(counter)?;
        for (name, help, value) in figures.gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
