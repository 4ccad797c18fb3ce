//! The metrics of exports, from what the controller last saw of them.

use std::sync::Arc;

use crate::driver::servers::seconds;
use crate::server::metrics::{Metrics, Reading};
use crate::watch::exports::{ExportWatch, Seen};

/// A metric by export: its name, its help, and its value; `None` if it is not known.
type ExportMetric = (&'static str, &'static str, fn(&Seen) -> Option<f64>);
const METRICS: [ExportMetric; 15] = [
    ("export_reachable", "1 if the export answered the last look, otherwise 0.", |seen| Some(flag(seen.reachable))),
    ("export_checked_timestamp_seconds", "When the controller last looked at the export.", |seen| {
        Some(seconds(seen.checked))
    }),
    ("export_size_bytes", "The size of the export's file system.", |seen| Some(seen.stat?.total_bytes as f64)),
    ("export_free_bytes", "What is free for users of that.", |seen| Some(seen.stat?.available_bytes as f64)),
    ("export_inodes", "The inodes of the export's file system.", |seen| Some(seen.stat?.total_inodes as f64)),
    ("export_free_inodes", "How many of them are free.", |seen| Some(seen.stat?.free_inodes as f64)),
    ("export_read_only", "1 if the export is read-only, otherwise 0.", |seen| seen.figures?.read_only.map(flag)),
    ("export_volumes", "Records of volumes on the export.", |seen| Some(seen.figures?.volumes as f64)),
    ("export_snapshots", "Records of snapshots on the export.", |seen| Some(seen.figures?.snapshots as f64)),
    (
        "export_promised_bytes",
        "The sum of the sizes of all volumes, where a class with overcommit asked for it.",
        |seen| Some(seen.figures?.promised_bytes? as f64),
    ),
    ("export_agent_answer_timestamp_seconds", "When the quota agent last finished a look at all volumes.", |seen| {
        Some(seen.figures?.agent_looked? as f64)
    }),
    ("trash_oldest_timestamp_seconds", "Since when the oldest entry is in the trash.", |seen| {
        seen.figures?.trash_oldest.map(seconds)
    }),
    ("trash_bytes", "Bytes of files in the trash, at least: a look reads a bounded part of it.", |seen| {
        Some(seen.figures?.trash_bytes? as f64)
    }),
    ("staging_oldest_timestamp_seconds", "Since when the oldest entry is in staging.", |seen| {
        seen.figures?.staging_oldest.map(seconds)
    }),
    ("snapshots_bytes", "Bytes that snapshots use, as the agent on the server counts them.", |seen| {
        Some(seen.figures?.snapshots_bytes? as f64)
    }),
];

/// Registers the metrics of the exports in use.
pub fn register(metrics: &Metrics, watch: &Arc<ExportWatch>) {
    for (name, help, value) in METRICS {
        let watch = watch.clone();
        metrics.gauge(name, help, move || {
            let seen = watch.seen().into_iter();
            seen.filter_map(|(share, seen)| Some(Reading::labelled("export", share.to_string(), value(&seen)?)))
                .collect()
        });
    }
}

fn flag(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::export::fs::FsStat;
    use crate::watch::figures::Figures;

    #[test]
    fn what_is_not_known_of_an_export_has_no_value() {
        let stat = FsStat { total_bytes: 100, available_bytes: 30, free_bytes: 40, total_inodes: 9, free_inodes: 5 };
        let figures = Figures { volumes: 7, read_only: Some(true), ..Figures::default() };
        let checked = UNIX_EPOCH + Duration::from_millis(1500);
        let told = |seen: &Seen| -> Vec<(&str, f64)> {
            METRICS.iter().filter_map(|(name, _, value)| Some((*name, value(seen)?))).collect()
        };
        let up = Seen { reachable: true, checked, stat: Some(stat), figures: Some(figures), holds_anything: true };
        let expected = [
            ("export_reachable", 1.0),
            ("export_checked_timestamp_seconds", 1.5),
            ("export_size_bytes", 100.0),
            ("export_free_bytes", 30.0),
            ("export_inodes", 9.0),
            ("export_free_inodes", 5.0),
            ("export_read_only", 1.0),
            ("export_volumes", 7.0),
            ("export_snapshots", 0.0),
        ];
        assert_eq!(told(&up), expected);
        let down = Seen { reachable: false, checked, stat: None, figures: None, holds_anything: true };
        assert_eq!(told(&down), [("export_reachable", 0.0), ("export_checked_timestamp_seconds", 1.5)]);
    }
}
