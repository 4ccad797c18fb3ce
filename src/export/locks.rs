//! One operation at a time on a part of an export: in this process by a mutex, among controllers by a byte-range lock
//! that the NFS server keeps (fcntl_locking(2), RFC 8881 section 9). The server ends the locks of a controller that
//! dies, so that none is ever left behind.
//!
//! A part is known by a name; names share the bytes of one file by their hash. CSI asks a plugin to cope with several
//! calls for one volume at once ("Concurrency"): here the later one waits, and then finds what the earlier one did.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use fnv::FnvHasher;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::export::fs::{Fs, FsResult, Status};
use crate::export::keyed_mutex::{KeyGuard, KeyedMutex};

/// How long a lock that another controller holds is waited for between two tries, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// How long giving a lock back is tried again where it fails. A lock that the server keeps holds up every other controller.
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

/// Locks that are held. Dropping the guard releases them; a task of this process that waits for them gets them once the
/// server has released them.
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
        // One order for all, so that no two operations wait for each other.
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

    /// Stops waiting for the server to release locks: they end with the process, which is about to end.
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
                    tracing::warn!(%error, "a lock on the export was not given back; it ends with this process");
                }
            }
            // Only now: whoever took the lock in this process before would lose it to another try.
            drop(local);
        };
        let ending = self.giving_back.ending.clone();
        let task = async move { ending.run_until_cancelled_owned(give_back).await };
        self.giving_back.tasks.spawn_on(task, &runtime);
    }
}

/// Gives a lock back, and tries again for a while where that fails.
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

/// The byte that stands for a name: the same in every version of the driver, since controllers of several share
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
            drop(waited.expect("the lock of a controller that lives").unwrap());
            tokio::time::sleep(super::GIVING_BACK).await;
        }
    }
}
