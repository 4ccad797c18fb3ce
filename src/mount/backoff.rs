//! The pauses between attempts at something that fails or is not done yet.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Pauses that begin at `first` and double until they reach `longest`, without an end. Each is longer by a random part
/// of itself, so that those who fail together do not come back together.
pub fn backoff(first: Duration, longest: Duration) -> ExponentialBackoff {
    let pauses = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).without_max_times();
    let pauses = pauses.with_jitter();
    // Tests repeat a run by its seed.
    if cfg!(test) { pauses.with_jitter_seed(1).build() } else { pauses.build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_differ_by_a_random_part() {
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(100));
        let pauses: Vec<_> = backoff(first, longest).take(1000).collect();
        assert!(pauses[0] >= first && pauses[0] <= 2 * first, "{:?}", pauses[0]);
        assert!(pauses[10..].iter().all(|pause| *pause >= longest && *pause <= 2 * longest));
        assert!(pauses[10..].iter().any(|pause| pause != &pauses[10]));
    }
}
