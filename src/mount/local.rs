//! Blocking work on this node only, such as reading the mount table or creating a target. It asks no server, so it
//! needs no gate. But a disk may be slow, so the work has its own threads and a time-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::mount::table::Table;
use crate::mount::threads::Threads;

/// How long the work may take. A local disk that takes longer is broken.
const LOCAL_WORK_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of threads.
const THREADS: usize = 2;

/// Runs blocking work on this node. Clones share the threads.
#[derive(Debug, Clone)]
pub struct Local {
    threads: Threads,
    tables: Arc<Tables>,
}

/// The reads of the mount table.
#[derive(Debug, Default)]
struct Tables {
    /// Counts the calls for a table, and the reads as they begin.
    clock: AtomicU64,
    /// When the last read began, and what it found. The lock is the turn to read.
    last: Mutex<Option<(u64, Arc<Table>)>>,
}

impl Default for Local {
    fn default() -> Self {
        Self { threads: Threads::new(THREADS), tables: Arc::default() }
    }
}

impl Local {
    /// Reads the mount table. One call reads at a time, and the calls that wait meanwhile share what the next one
    /// reads: the text of a node with thousands of mounts takes milliseconds, and its copies megabytes.
    pub async fn table(&self) -> Result<Arc<Table>> {
        let asked = self.tables.clock.fetch_add(1, Ordering::SeqCst);
        let mut last = self.tables.last.lock().await;
        if let Some((begun, table)) = &*last
            && *begun > asked
        {
            return Ok(Arc::clone(table));
        }
        let begun = self.tables.clock.fetch_add(1, Ordering::SeqCst);
        let table = Arc::new(self.run(Table::read).await?);
        *last = Some((begun, Arc::clone(&table)));
        Ok(table)
    }

    /// Runs `work` on a thread that may block, and waits up to five seconds for it. Work that has started runs to its
    /// end, even if it takes longer or the caller gives up.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let going_down = || Err(Error::Internal("the driver is shutting down".to_owned()));
        let done = async { self.threads.run(work).await.unwrap_or_else(going_down) };
        timeout(LOCAL_WORK_TIMEOUT, done).await.unwrap_or_else(|_| {
            Err(Error::Internal(format!(
                "this node's file system or mount table did not answer within {} s; check the node's disks and dmesg",
                LOCAL_WORK_TIMEOUT.as_secs()
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_on_a_disk_that_hangs_ends_at_its_time_out() {
        let (release, hanging) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let started = tokio::time::Instant::now();
        let work = tokio::spawn(async move {
            let hang = move || {
                begin.send(()).unwrap();
                hanging.recv().unwrap();
                Ok(())
            };
            Local::default().run(hang).await
        });
        begun.await.unwrap();
        tokio::time::advance(LOCAL_WORK_TIMEOUT).await;
        assert!(matches!(work.await.unwrap(), Err(Error::Internal(_))));
        assert_eq!(started.elapsed(), LOCAL_WORK_TIMEOUT);
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn calls_that_wait_for_the_mount_table_share_what_the_next_one_reads() {
        let local = Local::default();
        let turn = local.tables.last.lock().await;
        let mut calls = Box::pin(futures_util::future::join_all((0..10).map(|_| local.table())));
        assert!(futures_util::poll!(&mut calls).is_pending());
        drop(turn);
        let tables: Vec<_> = calls.await.into_iter().map(Result::unwrap).collect();
        assert!(tables.iter().all(|table| Arc::ptr_eq(table, &tables[0])));
        let later = local.table().await.unwrap();
        assert!(!Arc::ptr_eq(&later, &tables[9]), "a later call gets a table that was read after it called");
        assert!(later.mounts().count() > 0);
    }

    #[tokio::test]
    async fn work_returns_its_result() {
        assert_eq!(Local::default().run(|| Ok(7)).await, Ok(7));
    }
}
