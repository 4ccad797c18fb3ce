//! Blocking work on this node only, such as reading the mount table or creating a target. It asks no server, so it
//! needs no gate. But a disk may be slow, so the work has its own threads and a time-out.

use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::mount::threads::Threads;

/// How long the work may take. A local disk that takes longer is broken.
const LOCAL_WORK_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of threads.
const THREADS: usize = 2;

/// Runs blocking work on this node. Clones share the threads.
#[derive(Debug, Clone)]
pub struct Local(Threads);

impl Default for Local {
    fn default() -> Self {
        Self(Threads::new(THREADS))
    }
}

impl Local {
    /// Runs `work` on a thread that may block, and waits up to five seconds for it. Work that has started runs to its
    /// end, even if it takes longer or the caller gives up.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let going_down = || Err(Error::Internal("the driver is shutting down".to_owned()));
        let done = async { self.0.run(work).await.unwrap_or_else(going_down) };
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
    async fn work_returns_its_result() {
        assert_eq!(Local::default().run(|| Ok(7)).await, Ok(7));
    }
}
