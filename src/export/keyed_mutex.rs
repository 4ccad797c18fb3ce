//! A mutex for each key, which exists while a task holds it or waits for it.

use std::hash::Hash;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::mount::weak_map::WeakMap;

/// Mutexes by key: CSI lets a CO repeat a call that is still running, and call for other volumes meanwhile.
#[derive(Debug)]
pub struct KeyedMutex<K>(WeakMap<K, Mutex<()>>);

/// A key that is locked. Dropping the guard unlocks it.
#[derive(Debug)]
pub struct KeyGuard(#[expect(dead_code, reason = "it is held for its drop")] OwnedMutexGuard<()>);

impl<K> Default for KeyedMutex<K> {
    fn default() -> Self {
        Self(WeakMap::default())
    }
}

impl<K: Eq + Hash> KeyedMutex<K> {
    /// Waits until `key` is free and locks it, first come, first served. Dropping the future gives up the place in the
    /// queue.
    pub async fn lock(&self, key: K) -> KeyGuard {
        KeyGuard(self.0.get_or_insert_with(key, Mutex::default).lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_lock_of_a_key_waits_for_the_end_of_the_first() {
        let keys = KeyedMutex::default();
        let first = keys.lock("a").await;
        let mut second = Box::pin(keys.lock("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn locks_of_other_keys_do_not_wait() {
        let keys = KeyedMutex::default();
        let _first = keys.lock("a").await;
        keys.lock("b").await;
    }

    #[tokio::test]
    async fn a_key_that_nobody_holds_or_waits_for_is_forgotten() {
        let keys = KeyedMutex::default();
        for key in 0..100 {
            keys.lock(key).await;
        }
        assert_eq!(keys.0.len(), 1);
    }
}
