//! Work on this node alone: the mount table, the directory of a target. It asks no server, so it needs no gate of one; but
//! a disk may be slow, so it has a thread of its own and a limit.

use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};

/// A local disk that takes longer is broken.
const LIMIT: Duration = Duration::from_secs(5);

/// Does `work` on a thread that may block and waits up to five seconds for it. Work that takes longer, or whose caller
/// goes away, is finished all the same.
pub async fn on_node<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match timeout(LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Internal("the driver is going down".to_owned())),
        },
        Err(_) => Err(Error::Internal(format!(
            "this node's own file system or mount table did not answer within {} s; look at its disks and at dmesg",
            LIMIT.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_on_a_disk_that_hangs_is_given_up_after_its_limit() {
        let (release, hanging) = mpsc::channel::<()>();
        let started = tokio::time::Instant::now();
        let work = tokio::spawn(on_node(move || {
            hanging.recv().unwrap();
            Ok(())
        }));
        tokio::task::yield_now().await;
        tokio::time::advance(LIMIT).await;
        assert!(matches!(work.await.unwrap(), Err(Error::Internal(_))));
        assert_eq!(started.elapsed(), LIMIT);
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn work_gives_its_result() {
        assert_eq!(on_node(|| Ok(7)).await, Ok(7));
    }
}
