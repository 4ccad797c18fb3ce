//! The progress of a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often progress is logged.
const TELL: Duration = Duration::from_secs(10);

/// Counts what a copy has done. It may be read at any time. A clone shares the counters.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    counters: Arc<Counters>,
    /// The counters of the whole that this is a part of.
    whole: Option<Arc<Counters>>,
}

#[derive(Debug, Default)]
struct Counters {
    entries: AtomicU64,
    bytes: AtomicU64,
    vanished: AtomicU64,
}

/// What a copy has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Entries whose copies are complete, directories included.
    pub entries: u64,
    /// Bytes of files' content, holes included.
    pub bytes: u64,
    /// Entries that were listed and then removed before they were copied.
    pub vanished: u64,
}

impl Progress {
    /// The progress of one of several copies, which counts for the whole, too.
    pub(super) fn part(&self) -> Self {
        Self { counters: Arc::default(), whole: Some(Arc::clone(&self.counters)) }
    }

    /// What is done so far.
    pub fn totals(&self) -> Totals {
        Totals {
            entries: self.counters.entries.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            vanished: self.counters.vanished.load(Ordering::Relaxed),
        }
    }

    fn add(&self, counter: fn(&Counters) -> &AtomicU64, more: u64) {
        for counters in [Some(&self.counters), self.whole.as_ref()].into_iter().flatten() {
            counter(counters).fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Logs the progress at intervals until it is dropped.
    pub(crate) async fn tell(&self) {
        loop {
            tokio::time::sleep(TELL).await;
            let Totals { entries, bytes, vanished } = self.totals();
            tracing::info!(entries, bytes, vanished, "copying a tree");
        }
    }

    pub(crate) fn entry(&self) {
        self.add(|counters| &counters.entries, 1);
    }

    pub(crate) fn bytes(&self, more: u64) {
        self.add(|counters| &counters.bytes, more);
    }

    pub(super) fn vanished(&self) {
        self.add(|counters| &counters.vanished, 1);
    }
}
