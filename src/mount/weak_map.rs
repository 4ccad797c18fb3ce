//! A map of shared values that forgets a value once no one holds it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Values by key. The map itself keeps none of them alive.
#[derive(Debug)]
pub struct WeakMap<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for WeakMap<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V> WeakMap<K, V> {
    /// Returns the value of `key` if someone holds it, otherwise a new value from `make`.
    pub fn get_or_insert_with(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        values.retain(|_, value| value.strong_count() > 0);
        let value = Arc::new(make());
        values.insert(key, Arc::downgrade(&value));
        value
    }

    /// The values that someone holds.
    pub fn held(&self) -> Vec<(K, Arc<V>)>
    where
        K: Clone,
    {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.iter().filter_map(|(key, value)| Some((key.clone(), value.upgrade()?))).collect()
    }

    /// How many values the map remembers, held or not.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_value_is_shared_and_a_dropped_value_is_made_again() {
        let map = WeakMap::default();
        let held = map.get_or_insert_with("a", || 1);
        assert!(Arc::ptr_eq(&held, &map.get_or_insert_with("a", || 2)));
        assert_eq!(map.held(), [("a", held.clone())]);
        drop(held);
        assert_eq!(map.held(), []);
        assert_eq!(*map.get_or_insert_with("a", || 3), 3);
    }

    #[test]
    fn a_value_that_no_one_holds_is_forgotten() {
        let map = WeakMap::default();
        for key in 0..100 {
            map.get_or_insert_with(key, || ());
        }
        assert_eq!(map.len(), 1);
    }
}
