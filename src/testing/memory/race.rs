//! Runs several controllers at the same time, in an order that depends on a seed.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Runs the futures to completion. Each step polls a randomly chosen future once. The same seed gives the same order.
/// With [`MemoryFs::interleave`](super::MemoryFs::interleave), a step is one operation on the export. Works on any
/// executor, also with a paused clock. Returns the results in the order of the futures.
pub async fn race<T>(seed: u64, futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let outer = Arc::new(Mutex::new(Waker::noop().clone()));
    let mut random = seed;
    let mut racers: Vec<_> = futures
        .into_iter()
        .map(|future| Racer {
            future,
            ready: Arc::new(Ready { woken: AtomicBool::new(true), outer: Arc::clone(&outer) }),
            result: None,
        })
        .collect();
    std::future::poll_fn(|context| {
        *outer.lock().unwrap_or_else(PoisonError::into_inner) = context.waker().clone();
        loop {
            let mut ready: Vec<_> = racers.iter_mut().filter(|racer| racer.can_run()).collect();
            if ready.is_empty() {
                break;
            }
            let chosen = (next(&mut random) % ready.len() as u64) as usize;
            ready[chosen].step();
        }
        if racers.iter().all(|racer| racer.result.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    racers.into_iter().filter_map(|racer| racer.result).collect()
}

struct Racer<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    ready: Arc<Ready>,
    result: Option<T>,
}

impl<T> Racer<'_, T> {
    fn can_run(&self) -> bool {
        self.result.is_none() && self.ready.woken.load(Ordering::Acquire)
    }

    fn step(&mut self) {
        self.ready.woken.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.ready));
        if let Poll::Ready(result) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.result = Some(result);
        }
    }
}

/// Whether a racer can run. It passes a wake-up on to the task that polls the race.
struct Ready {
    woken: AtomicBool,
    outer: Arc<Mutex<Waker>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.outer.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

/// SplitMix64: the next number after `state`.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    async fn order_of(seed: u64) -> Vec<usize> {
        let order = Mutex::new(Vec::new());
        let runner = |number| {
            let order = &order;
            Box::pin(async move {
                for _ in 0..3 {
                    crate::testing::memory::client::yield_once().await;
                    order.lock().unwrap().push(number);
                }
                number
            }) as Pin<Box<dyn Future<Output = usize> + Send + '_>>
        };
        assert_eq!(race(seed, vec![runner(0), runner(1)]).await, [0, 1]);
        order.into_inner().unwrap()
    }

    #[tokio::test]
    async fn every_order_comes_up_and_a_seed_repeats_it() {
        let mut orders = HashSet::new();
        for seed in 0..400 {
            let order = order_of(seed).await;
            assert_eq!(order, order_of(seed).await);
            orders.insert(order);
        }
        assert_eq!(orders.len(), 20, "six steps, three of each: 6 over 3");
    }

    #[tokio::test(start_paused = true)]
    async fn racers_may_wait_for_a_paused_clock() {
        let sleeper = |seconds| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                seconds
            }) as Pin<Box<dyn Future<Output = u64> + Send>>
        };
        assert_eq!(race(1, vec![sleeper(3600), sleeper(1)]).await, [3600, 1]);
    }
}
