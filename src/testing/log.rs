//! Captures the log of one test while other tests run on other threads.

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Subscriber};

/// Sends the log of this thread to a subscriber until it is dropped.
pub(crate) struct Logging {
    _guard: DefaultGuard,
    _second: Dispatch,
}

/// Sends the log of this thread to `subscriber` until the returned value is dropped.
pub(crate) fn log_to(subscriber: impl Subscriber + Send + Sync + 'static) -> Logging {
    // With a single subscriber in the process, tracing asks only the thread that reaches a log line first. If that
    // thread belongs to a test without a subscriber, tracing disables the line for all threads. With two subscribers
    // tracing asks both.
    let second = Dispatch::new(NoSubscriber::default());
    Logging { _guard: tracing::subscriber::set_default(subscriber), _second: second }
}
