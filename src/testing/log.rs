//! Captures the log of one test while other tests run on other threads.

use std::io::Write;
use std::sync::{Arc, Mutex};

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

/// The log of this thread, as text.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Sends the log of this thread to the returned text until the other value is dropped.
    pub(crate) fn captured() -> (Self, Logging) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, log_to(subscriber))
    }

    /// What was logged so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
