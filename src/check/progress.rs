//! Tells a person who waits for a check how far it is.

use std::future::Future;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, interval_at};

/// When the first line is written, and how long it is until the next. A check that is done sooner writes none.
const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(5);

/// How far a check is.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<(&'static str, usize)>,
    done: AtomicUsize,
}

impl Progress {
    /// A stage begins, which looks at so many objects; 0 if the number is not known.
    pub(super) fn begin(&self, what: &'static str, of: usize) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = (what, of);
        self.done.store(0, Ordering::Relaxed);
    }

    /// One more object was looked at.
    pub(super) fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn line(&self) -> String {
        let (what, of) = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.done.load(Ordering::Relaxed);
        if of == 0 { format!("{what}: {done}") } else { format!("{what}: {done} of {of}") }
    }

    /// Does `work`. Gives `tell` a line now and then while it takes long.
    pub(super) async fn told<T>(&self, work: impl Future<Output = T>, mut tell: impl FnMut(String)) -> T {
        let mut ticks = interval_at(Instant::now() + FIRST, EVERY);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = ticks.tick() => tell(self.line()),
            }
        }
    }
}

/// Writes a line to standard error.
pub(super) fn to_stderr(line: String) {
    // A failed write does not matter: nobody reads it.
    let _ = writeln!(std::io::stderr(), "csi-nfs: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_that_takes_long_tells_how_far_it_is_and_a_quick_one_tells_nothing() {
        let progress = Progress::default();
        let mut lines = Vec::new();
        let work = async {
            progress.begin("reading records of volumes", 100);
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(121)).await;
                progress.step();
            }
        };
        progress.told(work, |line| lines.push(line)).await;
        let told = ["16 of 100", "57 of 100", "99 of 100"];
        assert_eq!(lines, told.map(|far| format!("reading records of volumes: {far}")));
        progress.told(tokio::time::sleep(FIRST / 2), |line| panic!("{line}")).await;
    }
}
