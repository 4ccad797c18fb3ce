//! The metrics of volumes that are not well, from what the controller last saw of them.

use std::sync::Arc;

use crate::driver::servers::seconds;
use crate::nfs::condition::Severity;
use crate::nfs::source::Source;
use crate::server::metrics::{Metrics, Reading};
use crate::watch::exports::ExportWatch;
use crate::watch::volumes::Ill;

/// Registers the metrics of the health of volumes.
pub fn register(metrics: &Metrics, watch: &Arc<ExportWatch>) {
    let seen = watch.clone();
    metrics.gauge("volume_health", "1 for each condition of a volume that is not well.", move || {
        seen.volumes.told().ill.iter().flat_map(|(share, ill)| readings(share, ill)).collect()
    });
    let seen = watch.clone();
    metrics.gauge("volume_health_cut", "Conditions of volumes that have no series of their own.", move || {
        vec![Reading { labels: vec![], value: seen.volumes.told().cut as f64 }]
    });
    let seen = watch.clone();
    metrics.gauge("volume_health_volumes", "Volumes that are not well, by reason.", move || {
        let reading = |(share, reason, count): (Source, &str, u64)| Reading {
            labels: vec![("export", share.to_string()), ("reason", reason.to_owned())],
            value: count as f64,
        };
        seen.volumes.counts().into_iter().map(reading).collect()
    });
    let seen = watch.clone();
    metrics.gauge(
        "volume_health_looked_timestamp_seconds",
        "When the controller last finished a look at all volumes of the export.",
        move || {
            let looked = seen.volumes.looked().into_iter();
            looked.map(|(share, at)| Reading::labelled("export", share.to_string(), seconds(at))).collect()
        },
    );
}

fn readings(share: &Source, ill: &Ill) -> Vec<Reading> {
    let reading = |(reason, severity): &(&'static str, Severity)| {
        let own = [
            ("export", share.to_string()),
            ("volume", ill.volume.clone()),
            ("reason", (*reason).to_owned()),
            ("severity", severity.as_str().to_owned()),
        ];
        let names = ill.names.labels().into_iter().map(|(label, name)| (label, name.to_owned()));
        Reading { labels: own.into_iter().chain(names).collect(), value: 1.0 }
    };
    ill.conditions.iter().map(reading).collect()
}
