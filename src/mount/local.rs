//! Work on this node alone, such as reading the mount table or making a target. It asks no server, so it needs no gate.
//! But a disk may be slow, so the work has threads of its own and a limit.

use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::mount::threads::Threads;

/// How long the work may take. A local disk that takes longer is broken.
const LIMIT: Duration = Duration::from_secs(5);
/// How many threads do such work at most.
const THREADS: usize = 2;

/// Does work on this node alone. Clones share their threads.
#[derive(Debug, Clone)]
pub struct Local(Threads);

impl Default for Local {
    fn default() -> Self {
        Self(Threads::new(THREADS))
    }
}

impl Local {
    /// Does `work` on a thread that may block and waits up to five seconds for it. Work that has begun is finished even
    /// where it takes longer or its caller gives up.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let going_down = || Err(Error::Internal("the driver is going down".to_owned()));
        let done = async { self.0.run(work).await.unwrap_or_else(going_down) };
        timeout(LIMIT, done).await.unwrap_or_else(|_| {
            Err(Error::Internal(format!(
                "this node's own file system or mount table did not answer within {} s; look at its disks and at dmesg",
                LIMIT.as_secs()
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
    async fn work_on_a_disk_that_hangs_is_given_up_after_its_limit() {
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
        tokio::time::advance(LIMIT).await;
        assert!(matches!(work.await.unwrap(), Err(Error::Internal(_))));
        assert_eq!(started.elapsed(), LIMIT);
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn work_gives_its_result() {
        assert_eq!(Local::default().run(|| Ok(7)).await, Ok(7));
    }
}
