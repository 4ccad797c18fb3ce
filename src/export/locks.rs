//! Locks on parts of an export. A lock in memory excludes other tasks of this process. A byte-range lock on the NFS
//! server (fcntl_locking(2), RFC 8881 section 9) excludes other controllers. The server ends the locks of a controller
//! that crashes, so no lock is left behind.
//!
//! A part has a name, and the hash of the name selects a byte of one file. CSI asks a plugin to handle several calls
//! for one volume at once ("Concurrency"): here the later call waits, and then finds what the earlier call did.
//!
//! A part is locked exclusively or shared. All tasks of a process use one open of the file, so they are one holder for
//! the server. That is why the tasks that share a part are counted: the first asks the server for the lock, and the
//! last one releases it. In this process, nobody overtakes: who shares a part waits behind a task that waits to have it
//! alone. Other controllers ask again and again.

use std::hash::Hasher;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use fnv::FnvHasher;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::export::fs::{Fs, FsResult, LockMode, Status};
use crate::export::lock_waits::{Waiting, Waits};
use crate::mount::backoff::backoff;
use crate::mount::slow;
use crate::mount::weak_map::WeakMap;

/// The first and the longest pause between attempts to take a lock that another controller holds.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// After this long, a wait for another controller is logged.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// How long a failed release of a lock is retried. A lock that stays on the server blocks every other controller.
const GIVING_BACK: Duration = Duration::from_secs(60);

/// A part of an export: its name, and how it is locked.
pub type Part<'a> = (&'a str, LockMode);

/// Upper bounds in seconds of [`Locks::waits`].
const WAITS: [f64; 9] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

tokio::task_local! {
    /// When the current call has to be answered, if its caller says so. The layer around the services sets it.
    pub static ANSWER_BY: Option<Instant>;
}

/// The locks of one export, in this process.
pub struct Locks {
    local: WeakMap<u64, RwLock<()>>,
    giving_back: GivingBack,
    /// Who waits for which.
    pub waiting: Waits,
    /// How long tasks waited for their locks, in seconds.
    waits: Histogram,
}

impl Default for Locks {
    fn default() -> Self {
        let (local, giving_back, waiting) = Default::default();
        Self { local, giving_back, waiting, waits: Histogram::new(WAITS) }
    }
}

/// Locks that are being released, which takes as long as the server needs.
#[derive(Clone, Default)]
struct GivingBack {
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// The file whose bytes are locked, as one connection has it open. Clones share the open file.
pub struct LockFile<F: Fs> {
    fs: Arc<F>,
    file: F::Handle,
    /// `SERVER:/SHARE`, for the log.
    export: String,
    /// Those who hold each byte that this open has locked.
    holders: Arc<WeakMap<u64, Holders>>,
}

impl<F: Fs> Clone for LockFile<F> {
    fn clone(&self) -> Self {
        let (fs, file, holders) = (self.fs.clone(), self.file.clone(), self.holders.clone());
        Self { fs, file, export: self.export.clone(), holders }
    }
}

/// Locks that are held. Dropping the guard releases them. A task of this process that waits for them gets them after
/// the server has released them.
pub struct Guard<F: Fs> {
    file: LockFile<F>,
    held: Vec<Held>,
    giving_back: GivingBack,
}

/// The tasks of this process that hold a byte on the server.
#[derive(Default)]
struct Holders {
    count: Mutex<u32>,
    /// The part that one of them has found free since the server granted the byte (see [`Guard::is_free`]). By name:
    /// tenants choose names, and can choose two of one byte.
    free: std::sync::Mutex<Option<String>>,
}

/// One part that is locked, or being locked.
struct Held {
    key: u64,
    holders: Arc<Holders>,
    /// Whether this task is one of them.
    counted: bool,
    #[expect(dead_code, reason = "it is held for its drop")]
    local: Local,
}

#[expect(dead_code, reason = "they are held for their drop")]
enum Local {
    Shared(OwnedRwLockReadGuard<()>),
    Exclusive(OwnedRwLockWriteGuard<()>),
}

impl Holders {
    fn free(&self) -> MutexGuard<'_, Option<String>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locks {
    /// Waits for the parts and locks them, by locks on bytes of `file`. Cancel-safe.
    ///
    /// # Errors
    /// [`Status::Locked`] if another controller holds one of them until [`ANSWER_BY`].
    pub async fn acquire<F: Fs>(&self, file: &LockFile<F>, parts: &[Part<'_>]) -> FsResult<Guard<F>> {
        slow::wait("wait for locks", self.take(file, parts)).await
    }

    async fn take<F: Fs>(&self, file: &LockFile<F>, parts: &[Part<'_>]) -> FsResult<Guard<F>> {
        let begun = Instant::now();
        let mut parts: Vec<(u64, Part)> = parts.iter().map(|part| (key(part.0), *part)).collect();
        // All operations use the same order, so no two of them wait for each other. Of two modes of a part, the
        // exclusive one comes first and stays.
        parts.sort_unstable_by_key(|(key, (_, mode))| (*key, std::cmp::Reverse(*mode)));
        parts.dedup_by_key(|(key, _)| *key);
        let mut guard = self.guard(file);
        for (key, part) in parts {
            let waiting = self.waiting.begin(part.0);
            let lock = self.local.get_or_insert_with(key, RwLock::default);
            let local = match part.1 {
                LockMode::Shared => Local::Shared(lock.read_owned().await),
                LockMode::Exclusive => Local::Exclusive(lock.write_owned().await),
            };
            let holders = file.holders.get_or_insert_with(key, Holders::default);
            guard.held.push(Held { key, holders: holders.clone(), counted: false, local });
            let mut count = holders.count.lock().await;
            if *count == 0 {
                *holders.free() = None;
                file.wait(key, part, &waiting).await?;
            }
            *count += 1;
            guard.held.iter_mut().rev().take(1).for_each(|held| held.counted = true);
        }
        self.waits.observe(begun.elapsed().as_secs_f64());
        Ok(guard)
    }

    /// How long tasks waited for the locks that they got, for tasks of this process and for other controllers.
    pub fn waits(&self) -> Histogram {
        self.waits.clone()
    }

    /// Locks the part called `name` exclusively if nobody holds it.
    pub async fn try_acquire<F: Fs>(&self, file: &LockFile<F>, name: &str) -> FsResult<Option<Guard<F>>> {
        let key = key(name);
        let lock = self.local.get_or_insert_with(key, RwLock::default);
        let Ok(local) = lock.try_write_owned() else { return Ok(None) };
        let holders = file.holders.get_or_insert_with(key, Holders::default);
        let mut guard = self.guard(file);
        guard.held.push(Held { key, holders, counted: false, local: Local::Exclusive(local) });
        // Nobody shares the part, so it needs no count: the guard releases what nobody is counted for.
        Ok(file.fs.try_lock(&file.file, key, LockMode::Exclusive).await?.then_some(guard))
    }

    /// Stops waiting for the server to release locks, because the process is about to end, which ends them.
    pub async fn close(&self) {
        self.giving_back.ending.cancel();
        self.giving_back.tasks.close();
        self.giving_back.tasks.wait().await;
    }

    /// A guard that holds nothing yet.
    fn guard<F: Fs>(&self, file: &LockFile<F>) -> Guard<F> {
        Guard { file: file.clone(), held: Vec::new(), giving_back: self.giving_back.clone() }
    }
}

impl<F: Fs> LockFile<F> {
    /// The file `file` of the export called `export`, opened through `fs`.
    pub fn new(fs: Arc<F>, file: F::Handle, export: String) -> Self {
        Self { fs, file, export, holders: Arc::default() }
    }

    /// Asks the server for the byte of a part until it grants the lock, or the caller of the call has to be told. Logs a
    /// wait that takes long.
    async fn wait(&self, key: u64, (part, mode): Part<'_>, waiting: &Waiting) -> FsResult<()> {
        let (begun, mut logged, export) = (Instant::now(), false, &self.export);
        let mut pauses = backoff(RETRY.0, RETRY.1);
        let until = ANSWER_BY.try_with(|until| *until).ok().flatten();
        while !self.fs.try_lock(&self.file, key, mode).await? {
            waiting.is_elsewhere();
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Status::Locked);
            }
            if !logged && begun.elapsed() >= LONG_WAIT {
                logged = true;
                tracing::warn!(
                    %export, part, waited = ?begun.elapsed(),
                    "another controller holds the lock of this volume or directory; this call waits until that \
                     controller is done, or until the server ends the locks of a controller that died"
                );
            }
            let next = Instant::now() + pauses.next().unwrap_or(RETRY.1);
            tokio::time::sleep_until(until.map_or(next, |until| until.min(next))).await;
        }
        if logged {
            tracing::info!(%export, part, waited = ?begun.elapsed(), "another controller has released the lock");
        }
        Ok(())
    }

    /// Releases a byte. Retries a failure for [`GIVING_BACK`].
    async fn release(&self, key: u64) -> FsResult<()> {
        let (begun, mut pauses) = (Instant::now(), backoff(RETRY.0, RETRY.1));
        loop {
            match self.fs.unlock(&self.file, key).await {
                // The server has no such lock any more.
                Ok(()) | Err(Status::Stale) => return Ok(()),
                Err(status) if begun.elapsed() >= GIVING_BACK => return Err(status),
                Err(_) => {}
            }
            tokio::time::sleep(pauses.next().unwrap_or(RETRY.1)).await;
        }
    }
}

impl<F: Fs> Guard<F> {
    /// Whether a task of this process has found that nothing has the part, and nobody can have changed that since: the
    /// process has held the part from then on.
    pub fn is_free(&self, part: &str) -> bool {
        self.holders(part).is_some_and(|holders| holders.free().as_deref() == Some(part))
    }

    /// Records that nothing has the part, for the tasks that share it. Only for what no task changes that shares it.
    pub fn found_free(&self, part: &str) {
        self.holders(part).iter().for_each(|holders| *holders.free() = Some(part.to_owned()));
    }

    fn holders(&self, part: &str) -> Option<&Holders> {
        let key = key(part);
        self.held.iter().find(|held| held.key == key && held.counted).map(|held| &*held.holders)
    }
}

impl<F: Fs> Drop for Guard<F> {
    fn drop(&mut self) {
        // Outside a runtime the process is ending, and the server ends its locks.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (file, held) = (self.file.clone(), std::mem::take(&mut self.held));
        let give_back = async move {
            for one in &held {
                let mut count = one.holders.count.lock().await;
                *count -= u32::from(one.counted);
                // Also what is not counted: the server may have granted it to a call that gave up meanwhile.
                if *count == 0
                    && let Err(error) = file.release(one.key).await
                {
                    tracing::warn!(
                        export = %file.export, %error,
                        "a lock on the export cannot be released; it ends with this process"
                    );
                }
            }
            // The locks in memory are released last: otherwise another task of this process could take a lock, and a
            // retry of the unlock would then release it.
            drop(held);
        };
        let ending = self.giving_back.ending.clone();
        let task = async move { ending.run_until_cancelled_owned(give_back).await };
        self.giving_back.tasks.spawn_on(task, &runtime);
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
mod tests;
