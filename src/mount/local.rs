//! Work on this node alone: the mount table, the directory of a target. It asks no server, so it needs no gate of one; but
//! a disk may be slow, so it has a thread of its own and a limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::{Error, Result};

/// A local disk that takes longer is broken.
const LIMIT: Duration = Duration::from_secs(5);
/// Threads for it, at most.
const THREADS: usize = 2;

/// The way to what this node does alone. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Local(Arc<Semaphore>);

impl Default for Local {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(THREADS)))
    }
}

impl Local {
    /// Does `work` on a thread that may block and waits up to five seconds for it. Work that takes longer, or whose caller
    /// goes away, is finished all the same.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let going_down = || Error::Internal("the driver is going down".to_owned());
        let done = async {
            let permit = self.0.clone().acquire_owned().await.map_err(|_| going_down())?;
            let work = move || {
                let result = work();
                drop(permit);
                result
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(going_down()),
                },
            }
        };
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_on_a_disk_that_hangs_is_given_up_after_its_limit() {
        let (release, hanging) = mpsc::channel::<()>();
        let started = tokio::time::Instant::now();
        let work = tokio::spawn(async move {
            let hang = move || {
                hanging.recv().unwrap();
                Ok(())
            };
            Local::default().run(hang).await
        });
        tokio::task::yield_now().await;
        tokio::time::advance(LIMIT).await;
        assert!(matches!(work.await.unwrap(), Err(Error::Internal(_))));
        assert_eq!(started.elapsed(), LIMIT);
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn much_work_at_once_takes_few_threads() {
        let (local, running) = (Local::default(), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (local, running) = (local.clone(), running.clone());
            async move {
                let count = move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(now)
                };
                local.run(count).await.unwrap()
            }
        };
        let most = futures_util::future::join_all((0..200).map(|_| work())).await.into_iter().max();
        assert!(most <= Some(THREADS), "{most:?}");
    }

    #[tokio::test]
    async fn work_gives_its_result() {
        assert_eq!(Local::default().run(|| Ok(7)).await, Ok(7));
    }
}
