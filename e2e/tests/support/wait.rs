//! Waiting for what will be, and limits for what must not take long.

use std::future::Future;
use std::time::{Duration, Instant};

/// Between two looks at something that gives no notice.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something; panics when it has not within `limit`.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does something that must take no longer than `limit`; panics when it does.
pub async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    // It may go on for a while, so that the message tells how long it took.
    let done = tokio::time::timeout(limit * 4, work).await;
    let took = start.elapsed();
    match done {
        Ok(done) if took <= limit => done,
        Ok(_) => panic!("{what}: took {took:?}, which is more than {limit:?}"),
        Err(_) => panic!("{what}: not done after {took:?}, and should be within {limit:?}"),
    }
}

/// [`until`], where looking takes a call.
pub async fn until_async(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !look().await {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
