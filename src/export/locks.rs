//! Locks on parts of an export. A mutex excludes other tasks of this process. A byte-range lock on the NFS server
//! (fcntl_locking(2), RFC 8881 section 9) excludes other controllers. The server ends the locks of a controller that
//! crashes, so no lock is left behind.
//!
//! A part has a name, and the hash of the name selects a byte of one file. CSI asks a plugin to handle several calls
//! for one volume at once ("Concurrency"): here the later call waits, and then finds what the earlier call did.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use fnv::FnvHasher;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::export::fs::{Fs, FsResult, Status};
use crate::export::keyed_mutex::{KeyGuard, KeyedMutex};

/// The first and the longest pause between attempts to take a lock that another controller holds.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// How long a failed release of a lock is retried. A lock that stays on the server blocks every other controller.
const GIVING_BACK: Duration = Duration::from_secs(60);

/// The locks of one export.
#[derive(Default)]
pub struct Locks {
    local: KeyedMutex<u64>,
    giving_back: GivingBack,
}

/// Locks that are being released, which takes as long as the server needs.
#[derive(Clone, Default)]
struct GivingBack {
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// Locks that are held. Dropping the guard releases them. A task of this process that waits for them gets them after
/// the server has released them.
pub struct Guard<F: Fs> {
    fs: Arc<F>,
    file: F::Handle,
    keys: Vec<u64>,
    local: Vec<KeyGuard>,
    giving_back: GivingBack,
}

impl Locks {
    /// Waits for the parts called `names` and locks them, by locks on bytes of `file`. Cancel-safe.
    pub async fn acquire<F: Fs>(&self, fs: &Arc<F>, file: &F::Handle, names: &[&str]) -> FsResult<Guard<F>> {
        let mut keys: Vec<u64> = names.iter().map(|name| key(name)).collect();
        // All operations use the same order, so no two of them wait for each other.
        keys.sort_unstable();
        keys.dedup();
        let mut guard = self.guard(fs, file);
        for key in keys {
            guard.local.push(self.local.lock(key).await);
            let mut pause = RETRY.0;
            guard.keys.push(key);
            while !fs.try_lock(file, key).await? {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
        Ok(guard)
    }

    /// Locks the part called `name` if nobody holds it.
    pub async fn try_acquire<F: Fs>(&self, fs: &Arc<F>, file: &F::Handle, name: &str) -> FsResult<Option<Guard<F>>> {
        let key = key(name);
        let Some(local) = self.local.try_lock(key) else { return Ok(None) };
        let mut guard = self.guard(fs, file);
        guard.keys.push(key);
        guard.local.push(local);
        Ok(fs.try_lock(file, key).await?.then_some(guard))
    }

    /// Stops waiting for the server to release locks, because the process is about to end, which ends them.
    pub async fn close(&self) {
        self.giving_back.ending.cancel();
        self.giving_back.tasks.close();
        self.giving_back.tasks.wait().await;
    }

    /// A guard that holds nothing yet.
    fn guard<F: Fs>(&self, fs: &Arc<F>, file: &F::Handle) -> Guard<F> {
        let giving_back = self.giving_back.clone();
        Guard { fs: fs.clone(), file: file.clone(), keys: Vec::new(), local: Vec::new(), giving_back }
    }
}

impl<F: Fs> Drop for Guard<F> {
    fn drop(&mut self) {
        // Outside a runtime the process is ending, and the server ends its locks.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (fs, file) = (self.fs.clone(), self.file.clone());
        let (keys, local) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.local));
        let give_back = async move {
            for key in keys {
                if let Err(error) = unlock(&*fs, &file, key).await {
                    tracing::warn!(%error, "a lock on the export cannot be released; it ends with this process");
                }
            }
            // The mutexes are released last: otherwise another task of this process could take the lock, and a retry of
            // the unlock would then release it.
            drop(local);
        };
        let ending = self.giving_back.ending.clone();
        let task = async move { ending.run_until_cancelled_owned(give_back).await };
        self.giving_back.tasks.spawn_on(task, &runtime);
    }
}

/// Releases a lock. Retries a failure for [`GIVING_BACK`].
async fn unlock<F: Fs>(fs: &F, file: &F::Handle, key: u64) -> FsResult<()> {
    let (begun, mut pause) = (Instant::now(), RETRY.0);
    loop {
        match fs.unlock(file, key).await {
            // The server has no such lock any more.
            Ok(()) | Err(Status::Stale) => return Ok(()),
            Err(status) if begun.elapsed() >= GIVING_BACK => return Err(status),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// The byte for a name. It is the same in every version of the driver, because controllers of different versions share
/// exports.
fn key(name: &str) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(name.as_bytes());
    hasher.finish() >> 2
}

#[cfg(test)]
mod tests {
    use crate::export::fs::Status;
    use crate::testing::crash_harness::connect;
    use crate::testing::memory::MemoryServer;

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_the_server_does_not_take_back_at_once_holds_nobody_up_for_ever() {
        let server = MemoryServer::new();
        let (one, two) = (connect(&server), connect(&server));
        for status in [Status::Io, Status::TimedOut] {
            let guard = one.lock(&["v"]).await.unwrap();
            one.fs().fail_at(one.fs().operations(), status);
            drop(guard);
            let waited = tokio::time::timeout(super::GIVING_BACK, two.lock(&["v"])).await;
            drop(waited.expect("the lock was not released").unwrap());
            tokio::time::sleep(super::GIVING_BACK).await;
        }
    }
}
