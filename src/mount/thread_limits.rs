//! Which calls may have a thread: how many run at the same time in all, of one owner, and of those that take long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of threads that are left to others: by long calls to quick calls, and by the calls of one owner to those
/// of other owners.
pub const SPARED: usize = 2;

/// A call that takes longer than this is overdue.
pub const OVERDUE: Duration = Duration::from_secs(4);

/// How many overdue calls of an owner count. The others hang in the kernel and cannot be ended, but their threads are
/// made up for: what one owner waits for must not stop the others.
const COUNTED: usize = 2;

/// Whom calls are for, such as an export.
pub type Owner = Arc<str>;

/// How a call is made.
#[derive(Debug, Clone, Default)]
pub struct Kind {
    /// Whom the call is for, if anybody.
    pub owner: Option<Owner>,
    /// Whether it takes long, such as many system calls in one closure.
    pub takes_long: bool,
}

/// How many calls run at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of all owners.
    pub all: usize,
    /// Of one owner.
    own: usize,
    /// Of those that take long.
    long: usize,
}

impl Limits {
    /// At most `most` calls.
    pub fn of(most: usize) -> Self {
        Self { all: most, own: most, long: most.saturating_sub(SPARED).max(1) }
    }

    /// At most `most` calls that have owners. The calls of one owner leave some threads to other owners, and its long
    /// calls leave some to its quick calls.
    pub fn for_owners(most: usize) -> Self {
        let own = most.saturating_sub(SPARED).max(1);
        Self { all: most, own, long: own.saturating_sub(SPARED).max(1) }
    }
}

/// How many calls run, and how many of them are overdue.
#[derive(Default, Clone, Copy)]
struct Count {
    running: usize,
    overdue: usize,
}

impl Count {
    fn add(&mut self, since: &Instant) {
        self.running += 1;
        self.overdue += usize::from(since.elapsed() >= OVERDUE);
    }

    /// How many of the threads are taken by them.
    fn taken(self) -> usize {
        self.running - self.overdue + self.overdue.min(COUNTED)
    }
}

/// The running calls, counted once for all calls that wait.
#[derive(Default)]
pub struct Load<'a> {
    /// All calls of each owner, and those that take long.
    owners: HashMap<&'a Owner, [Count; 2]>,
    running: usize,
    /// How many threads are taken by all calls, and by those that take long.
    taken: [usize; 2],
}

impl<'a> Load<'a> {
    pub fn of(running: &'a HashMap<u64, (Kind, Instant)>) -> Self {
        let mut load = Self { running: running.len(), ..Self::default() };
        for (Kind { owner, takes_long }, since) in running.values() {
            let counted = 1 + usize::from(*takes_long);
            match owner {
                Some(owner) => {
                    let counts = load.owners.entry(owner).or_default();
                    counts.iter_mut().take(counted).for_each(|count| count.add(since));
                }
                None => load.taken.iter_mut().take(counted).for_each(|taken| *taken += 1),
            }
        }
        for counts in load.owners.values() {
            load.taken.iter_mut().zip(counts).for_each(|(taken, count)| *taken += count.taken());
        }
        load
    }

    /// Whether no call can start, whoever it is for.
    pub fn is_full(&self, limits: Limits) -> bool {
        self.taken[0] >= limits.all
    }

    /// Whether a call of this kind can start now. The threads that are made up for are not for those who hang.
    pub fn has_room(&self, limits: Limits, kind: &Kind) -> bool {
        let own = kind.owner.as_ref().map_or_else(Count::default, |owner| self.own(owner));
        let taken = if own.overdue >= COUNTED { self.running } else { self.taken[0] };
        taken < limits.all && own.running < limits.own && !(kind.takes_long && self.taken[1] >= limits.long)
    }

    /// Whether all running calls of `owner` are overdue.
    pub fn is_stuck(&self, owner: &Owner) -> bool {
        let own = self.own(owner);
        own.running >= COUNTED && own.overdue == own.running
    }

    /// How many threads are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.taken[0]
    }

    fn own(&self, owner: &Owner) -> Count {
        self.owners.get(owner).map_or_else(Count::default, |own| own[0])
    }
}
