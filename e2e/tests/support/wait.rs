//! Waiting for events, and time limits.

use std::future::Future;
use std::time::{Duration, Instant};

/// The pause between two calls of `look`.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `look` until it returns something. Panics after `limit`.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "{what}: did not happen within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs work that must not take longer than `limit`. Panics if it does.
pub async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    // The work may run longer than `limit`, so that the message can say how long it took.
    let done = tokio::time::timeout(limit * 4, work).await;
    let took = start.elapsed();
    match done {
        Ok(done) if took <= limit => done,
        Ok(_) => panic!("{what}: took {took:?}, which is more than {limit:?}"),
        Err(_) => panic!("{what}: not done after {took:?}; the limit is {limit:?}"),
    }
}

/// [`until`] with an asynchronous `look`.
pub async fn until_async(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !look().await {
        assert!(start.elapsed() < limit, "{what}: did not happen within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
