//! One at a time: whoever wants what another has waits for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Turns by key: CSI lets a CO repeat a call that is still running, and call for other volumes meanwhile.
#[derive(Debug)]
pub struct Turns<K>(Mutex<HashMap<K, Weak<AsyncMutex<()>>>>);

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedMutexGuard<()>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for the turn of `key`, first come, first served. Dropping the future gives up the place in the queue.
    pub async fn take(&self, key: K) -> Turn {
        let turn = self.queue(key);
        Turn(turn.lock_owned().await)
    }

    fn queue(&self, key: K) -> Arc<AsyncMutex<()>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::default();
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_second_turn_for_a_key_waits_for_the_end_of_the_first() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!(matches!(poll_once(&mut second).await, Poll::Pending));
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn turns_of_other_keys_do_not_wait() {
        let turns = Turns::default();
        let _first = turns.take("a").await;
        turns.take("b").await;
    }

    #[tokio::test]
    async fn a_turn_that_nobody_has_or_waits_for_is_forgotten() {
        let turns = Turns::default();
        for key in 0..100 {
            turns.take(key).await;
        }
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<()> {
        std::future::poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).map(drop))).await
    }
}
