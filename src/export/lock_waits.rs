//! The locks of an export that are waited for, for those who ask what holds up a call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The waits for the locks of one export. A clone refers to the same list.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    waits: BTreeMap<u64, Wait>,
}

/// A wait for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The name of the part that is locked.
    pub part: String,
    /// When it began.
    pub since: Instant,
    /// Whether another controller holds the lock, not a call or a copy of this process.
    pub elsewhere: bool,
}

/// A wait that lasts until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    list: Waits,
    number: u64,
}

impl Waits {
    /// Somebody begins to wait for a part.
    pub(super) fn begin(&self, part: &str) -> Waiting {
        let mut list = self.list();
        list.next += 1;
        let number = list.next;
        list.waits.insert(number, Wait { part: part.to_owned(), since: Instant::now(), elsewhere: false });
        Waiting { list: self.clone(), number }
    }

    /// All waits, the oldest first.
    pub fn all(&self) -> Vec<Wait> {
        self.list().waits.values().cloned().collect()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Nobody of this process holds the lock any more, and another controller does.
    pub(super) fn is_elsewhere(&self) {
        if let Some(wait) = self.list.list().waits.get_mut(&self.number) {
            wait.elsewhere = true;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.list.list().waits.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use crate::testing::crash_harness::connect;
    use crate::testing::memory::MemoryServer;

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_lock_is_listed_with_who_holds_it_until_it_ends() {
        const SOON: Duration = Duration::from_secs(3);
        let server = MemoryServer::new();
        let (here, there) = (connect(&server), connect(&server));
        let waits = || -> Vec<(String, bool, Duration)> {
            let waits = here.lock_waits().into_iter();
            waits.map(|wait| (wait.part, wait.elsewhere, Instant::now() - wait.since)).collect()
        };
        let (mine, theirs) = (here.lock(&["mine"]).await.unwrap(), there.lock(&["theirs"]).await.unwrap());
        assert_eq!(waits(), []);
        let (one, two) = ([("mine", false)], [("theirs", true)]);
        for (names, [(part, elsewhere)]) in [(["mine"], one), (["theirs"], two)] {
            let look = async {
                sleep(SOON).await;
                waits()
            };
            tokio::select! {
                _ = here.lock(&names) => panic!("{part} is held"),
                found = look => assert_eq!(found, [(part.to_owned(), elsewhere, SOON)]),
            }
            assert_eq!(waits(), [], "the call gave up");
        }
        drop((mine, theirs));
        drop(timeout(SOON, here.lock(&["mine", "theirs"])).await.unwrap().unwrap());
        assert_eq!(waits(), []);
    }
}
