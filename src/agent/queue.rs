//! What the agent has to do next. New records come first, because a call waits for their limits; then changes. Each
//! item that fails is tried again after a pause of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::Instant;

use crate::export::fs::Name;
use crate::mount::backoff::backoff;
use crate::volume::id::VolumeName;

/// How long after a look at everything the next one begins, even if inotify reports nothing.
pub(super) const PERIOD: Duration = Duration::from_secs(300);
/// The shortest and the longest pause before an item is tried again.
pub(crate) const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Makes the limits of a volume agree with its record.
    Volume(VolumeName),
    /// Accounts the space of a snapshot: the name of its tree.
    Snapshot(Name),
    /// Reports how much space snapshots take.
    Usage,
    /// Takes inherited projects off the driver's own directories.
    Directories,
    /// Looks at all volumes and snapshots.
    Look,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => write!(f, "volume `{volume}`"),
            Self::Snapshot(tree) => write!(f, "snapshot `{tree}`"),
            Self::Usage | Self::Look => f.write_str("all volumes and snapshots"),
            Self::Directories => f.write_str("`.csi-nfs`"),
        }
    }
}

/// How urgent an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A new volume.
    New,
    /// Anything else.
    Change,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    new: VecDeque<Item>,
    changes: VecDeque<Item>,
    /// The items of both.
    queued: BTreeSet<Item>,
    /// Items that wait for their time, in its order. No item is in here twice.
    later: BTreeSet<(Instant, Item)>,
    /// When each of them is due.
    due: BTreeMap<Item, Instant>,
    /// The items that failed when they were last tried, with their next pauses.
    failing: BTreeMap<Item, ExponentialBackoff>,
}

impl Queue {
    /// Adds an item, which is then no longer waiting for its time.
    pub(super) fn push(&mut self, item: Item, urgency: Urgency) {
        self.take_from_later(&item);
        if self.queued.insert(item.clone()) {
            match urgency {
                Urgency::New => self.new.push_back(item),
                Urgency::Change => self.changes.push_back(item),
            }
        }
    }

    /// Adds an item that is due at `when`.
    pub(super) fn push_at(&mut self, item: Item, when: Instant) {
        if !self.queued.contains(&item) {
            self.take_from_later(&item);
            self.due.insert(item.clone(), when);
            self.later.insert((when, item));
        }
    }

    /// The next item.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Item> {
        while let Some((when, _)) = self.later.first()
            && *when <= now
            && let Some((_, item)) = self.later.pop_first()
        {
            self.push(item, Urgency::Change);
        }
        let item = self.new.pop_front().or_else(|| self.changes.pop_front())?;
        self.queued.remove(&item);
        Some(item)
    }

    /// When the next item is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(when, _)| *when)
    }

    /// Records that an item is done.
    pub(super) fn done(&mut self, item: &Item) {
        self.failing.remove(item);
    }

    /// Records that an item failed: it is tried again after a pause, which grows from failure to failure.
    pub(super) fn failed(&mut self, item: Item, now: Instant) {
        let pauses = self.failing.entry(item.clone()).or_insert_with(|| backoff(AGAIN.0, AGAIN.1));
        let pause = pauses.next().unwrap_or(AGAIN.1);
        self.push_at(item, now + pause);
    }

    /// Whether no item failed when it was last tried.
    #[cfg(test)]
    pub(super) fn is_in_order(&self) -> bool {
        self.failing.is_empty()
    }

    fn take_from_later(&mut self, item: &Item) {
        if let Some(when) = self.due.remove(item) {
            self.later.remove(&(when, item.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> Item {
        Item::Volume(VolumeName::parse("name", name).unwrap())
    }

    #[test]
    fn new_records_come_first_and_nothing_comes_twice() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(volume("changed"), Urgency::Change);
        queue.push(volume("changed"), Urgency::Change);
        queue.push(volume("new"), Urgency::New);
        queue.push(volume("newer"), Urgency::New);
        let order = std::iter::from_fn(|| queue.pop(now)).collect::<Vec<_>>();
        assert_eq!(order, [volume("new"), volume("newer"), volume("changed")]);
    }

    #[test]
    fn an_item_that_fails_waits_longer_each_time_and_holds_up_no_other() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.push(volume("bad"), Urgency::New);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let item = queue.pop(now).unwrap();
            queue.failed(item, now);
            queue.push(volume("good"), Urgency::New);
            assert_eq!((queue.pop(now), queue.pop(now)), (Some(volume("good")), None));
            let due = queue.next_due().unwrap();
            pauses.push(due - now);
            now = due;
        }
        assert!(pauses[0] >= AGAIN.0 && pauses[0] <= 2 * AGAIN.0, "{pauses:?}");
        assert!(pauses[11] >= AGAIN.1 && pauses[11] <= 2 * AGAIN.1, "{pauses:?}");
        assert!(!queue.is_in_order());
        let item = queue.pop(now).unwrap();
        queue.done(&item);
        assert!(queue.is_in_order() && queue.next_due().is_none());
    }

    #[test]
    fn a_change_ends_the_pause() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.failed(volume("v"), now);
        assert_eq!(queue.pop(now), None);
        queue.push(volume("v"), Urgency::Change);
        assert_eq!((queue.pop(now), queue.next_due()), (Some(volume("v")), None));
    }
}
