//! The log of one test, beside tests that run at the same time on other threads.

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Subscriber};

/// Sends what this thread logs to a subscriber, until it is dropped.
pub(crate) struct Logging {
    _guard: DefaultGuard,
    _second: Dispatch,
}

/// Sends what this thread logs to `subscriber`, as long as the answer lives.
pub(crate) fn log_to(subscriber: impl Subscriber + Send + Sync + 'static) -> Logging {
    // With a single subscriber in the process, tracing asks the thread that comes to a log line first, which may be another
    // test's that has none, and then takes the line for disabled everywhere. With two it asks both.
    let second = Dispatch::new(NoSubscriber::default());
    Logging { _guard: tracing::subscriber::set_default(subscriber), _second: second }
}
