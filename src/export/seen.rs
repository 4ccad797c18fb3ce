//! When something was last seen, for calls that may rely on it for a while.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time of the last look at something, if there was one.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Option<Instant>>);

impl Seen {
    /// The time of the last look, unless it is longer ago than `age`.
    pub fn within(&self, age: Duration) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filter(|looked| looked.elapsed() < age)
    }

    /// Records a look that began at `looked`.
    pub fn record(&self, looked: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max(Some(looked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_look_counts_for_a_while_in_whatever_order_looks_are_recorded() {
        let (seen, age) = (Seen::default(), Duration::from_secs(1));
        assert_eq!(seen.within(age), None);
        let first = Instant::now();
        tokio::time::advance(age / 2).await;
        let second = Instant::now();
        seen.record(second);
        seen.record(first);
        assert_eq!(seen.within(age), Some(second));
        tokio::time::advance(age).await;
        assert_eq!(seen.within(age), None);
    }
}
