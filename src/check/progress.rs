//! Tells a person who waits for a check how far it is.

use std::future::Future;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::export::progress::{self, Progress as Stage};

/// When the first line is written, and how long it is until the next. A check that is done sooner writes none.
const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(5);

/// How far a check is: its stage, and what is done of that.
#[derive(Debug, Default)]
pub struct Progress(Mutex<(&'static str, Stage)>);

impl Progress {
    /// A stage begins, which looks at so many objects; 0 if the number is not known.
    pub(super) fn begin(&self, what: &'static str, of: usize) {
        let stage = Stage::default();
        stage.begin();
        if of > 0 {
            stage.expect(of as u64);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (what, stage);
    }

    /// One more object was looked at.
    pub(super) fn step(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.entry();
    }

    fn line(&self) -> String {
        let (what, stage) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{what}: {}", stage.figures())
    }

    /// Does `work`. Gives `tell` a line now and then while it takes long.
    pub(super) async fn told<T>(&self, work: impl Future<Output = T>, mut tell: impl FnMut(String)) -> T {
        progress::told(work, (FIRST, EVERY), || tell(self.line())).await
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
        let told = [
            "16 of 100 entries in 2s (8.0 entries/s), about 11s left",
            "57 of 100 entries in 7s (8.1 entries/s), about 6s left",
            "99 of 100 entries in 12s (8.2 entries/s), about 1s left",
        ];
        assert_eq!(lines, told.map(|far| format!("reading records of volumes: {far}")));
        progress.told(tokio::time::sleep(FIRST / 2), |line| panic!("{line}")).await;
    }
}
