//! The progress of a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often progress is logged.
const TELL: Duration = Duration::from_secs(10);

/// Counts what a copy has done. It may be read at any time. A clone shares the counters.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

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
    /// What is done so far.
    pub fn totals(&self) -> Totals {
        Totals {
            entries: self.0.entries.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
            vanished: self.0.vanished.load(Ordering::Relaxed),
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
        self.0.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, more: u64) {
        self.0.bytes.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn vanished(&self) {
        self.0.vanished.fetch_add(1, Ordering::Relaxed);
    }
}
