//! What took long, for traces: an event in the span of the call that waited for it. Without traces, nothing is timed.

use std::future::Future;
use std::time::{Duration, Instant};

use tracing::{Level, Span};

/// The target of these events.
pub const TARGET: &str = "csi_nfs::slow";
/// What takes less is not told.
const SLOW: Duration = Duration::from_millis(10);

fn is_told() -> bool {
    tracing::event_enabled!(target: TARGET, Level::TRACE)
}

fn tell(what: &'static str, took: Duration) {
    if took >= SLOW {
        tracing::trace!(target: TARGET, what, ms = (took.as_secs_f64() * 1e4).round() / 10.0, "slow");
    }
}

/// Makes system calls, and tells how long they took.
pub fn calls<T>(what: &'static str, calls: impl FnOnce() -> T) -> T {
    if !is_told() {
        return calls();
    }
    let begun = Instant::now();
    let done = calls();
    tell(what, begun.elapsed());
    done
}

/// The same work, for another thread: it tells how long it waited for that, and what it tells is in the span that is
/// current now.
pub fn queued<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let asked = is_told().then(|| (Span::current(), Instant::now()));
    move || {
        let Some((span, asked)) = asked else { return work() };
        span.in_scope(|| {
            tell("wait for a thread", asked.elapsed());
            work()
        })
    }
}

/// Waits for `work`, and tells how long that took.
pub async fn wait<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    if !is_told() {
        return work.await;
    }
    let begun = Instant::now();
    let done = work.await;
    tell(what, begun.elapsed());
    done
}
