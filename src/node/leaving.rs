//! Targets that calls want to unpublish. A call that publishes there and takes long gives up for them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::node::target::Target;

/// How many calls want to unpublish each target.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<HashMap<Target, usize>>);

/// A call that wants to unpublish a target, until it is dropped.
#[derive(Debug)]
pub struct Leaves<'a> {
    leaving: &'a Leaving,
    target: Target,
}

impl Leaving {
    /// Notes that a call wants to unpublish `target`.
    pub fn enter(&self, target: Target) -> Leaves<'_> {
        *self.all().entry(target.clone()).or_default() += 1;
        Leaves { leaving: self, target }
    }

    /// Whether a call wants to unpublish `target`.
    pub fn contains(&self, target: &Target) -> bool {
        self.all().contains_key(target)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Target, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let mut all = self.leaving.all();
        if let Some(calls) = all.get_mut(&self.target) {
            *calls -= 1;
            if *calls == 0 {
                all.remove(&self.target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_leaving_until_the_last_call_for_it_ends() {
        let (leaving, target) = (Leaving::default(), Target::parse("target_path", "/t").unwrap());
        let first = leaving.enter(target.clone());
        drop(leaving.enter(target.clone()));
        assert!(leaving.contains(&target));
        drop(first);
        assert!(!leaving.contains(&target));
    }
}
