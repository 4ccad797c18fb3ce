//! The metrics of the copies under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::driver::servers::seconds;
use crate::export::pool::{Connect, Pool};
use crate::server::metrics::{Metrics, Reading};
use crate::snapshot::copies::Copy;
use crate::snapshot::jobs::Jobs;

/// The maximum number of copies with series of their own: those that began first.
const MOST: usize = 32;

/// A metric by copy: its name, its help, and its value; `None` if it is not known.
type CopyMetric = (&'static str, &'static str, fn(&Copy) -> Option<f64>);
const METRICS: [CopyMetric; 4] = [
    ("copy_entries", "Entries of the tree that are copied.", |copy| Some(copy.figures.done.entries as f64)),
    ("copy_entries_expected", "Entries that the tree has, where that is known.", |copy| {
        copy.figures.expected.map(|entries| entries as f64)
    }),
    ("copy_bytes", "Bytes of content that are copied.", |copy| Some(copy.figures.done.bytes as f64)),
    ("copy_started_timestamp_seconds", "When a call began the copy.", |copy| Some(seconds(copy.since))),
];

/// Registers the metrics of the copies of `jobs`, on the exports of `pool`.
pub fn register<C: Connect>(metrics: &Metrics, pool: &Arc<Pool<C>>, jobs: &Arc<Jobs>) {
    let counts: [(&str, &str, bool); 2] = [
        ("copies_in_progress", "Snapshots, restores and clones that are being copied.", true),
        ("copies_waiting", "Snapshots, restores and clones that wait to be copied.", false),
    ];
    for (name, help, running) in counts {
        let (pool, jobs) = (pool.clone(), jobs.clone());
        metrics.gauge(name, help, move || {
            let exports = pool.connected().into_iter().map(|export| export.source().to_string());
            count(exports, &jobs.copies(), running)
        });
    }
    for (name, help, value) in METRICS {
        let jobs = jobs.clone();
        metrics.gauge(name, help, move || told(jobs.copies()).iter().filter_map(|copy| reading(copy, value)).collect());
    }
}

/// How many copies run, or wait, on each export: those of `exports`, and those that have copies.
fn count(exports: impl Iterator<Item = String>, copies: &[Copy], running: bool) -> Vec<Reading> {
    let mut counts: BTreeMap<String, f64> = exports.map(|export| (export, 0.0)).collect();
    for copy in copies.iter().filter(|copy| copy.state.is_running() == running) {
        *counts.entry(copy.export.to_string()).or_default() += 1.0;
    }
    counts.into_iter().map(|(export, count)| Reading::labelled("export", export, count)).collect()
}

/// The copies with series of their own, of `copies`, the oldest first. One that waits is not at work, so it has none.
fn told(mut copies: Vec<Copy>) -> Vec<Copy> {
    copies.retain(|copy| copy.state.is_running());
    copies.truncate(MOST);
    copies
}

fn reading(copy: &Copy, value: fn(&Copy) -> Option<f64>) -> Option<Reading> {
    let labels = vec![("export", copy.export.to_string()), ("copy", copy.name.clone())];
    Some(Reading { labels, value: value(copy)? })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::snapshot::turns::State;
    use crate::testing::memory_servers::export_of;

    fn copy(name: &str, state: State, since: u64) -> Copy {
        let (export, since) = (export_of("nfs"), UNIX_EPOCH + Duration::from_secs(since));
        Copy { export, name: name.to_owned(), of: vec![], state, since, figures: Default::default() }
    }

    #[test]
    fn copies_are_counted_by_export_and_the_oldest_that_run_are_told_of() {
        let mut copies: Vec<Copy> = (0..40).map(|n| copy(&format!("#volume#{n}"), State::Copies, 61 + n)).collect();
        copies.extend([copy("waits", State::WaitsForTurn, 0), copy("locked", State::WaitsForLocks, 0)]);
        let counted = |running| -> Vec<(String, f64)> {
            let readings = count(["idle:/export".to_owned()].into_iter(), &copies, running).into_iter();
            readings.map(|mut reading| (reading.labels.remove(0).1, reading.value)).collect()
        };
        let of = |count: f64| vec![("idle:/export".to_owned(), 0.0), ("nfs:/export".to_owned(), count)];
        assert_eq!((counted(true), counted(false)), (of(40.0), of(2.0)));
        let told = told(copies);
        assert_eq!((told.len(), told[0].since), (MOST, UNIX_EPOCH + Duration::from_secs(61)));
        let started = reading(&told[0], METRICS[3].2).unwrap();
        assert_eq!(started.labels, [("export", "nfs:/export".to_owned()), ("copy", "#volume#0".to_owned())]);
        assert_eq!((started.value, reading(&told[0], METRICS[1].2)), (61.0, None));
    }
}
