//! One operation at a time on a part of an export: in this process by a mutex, among controllers by a byte-range lock
//! that the NFS server keeps (fcntl_locking(2), RFC 8881 section 9). The server ends the locks of a controller that dies,
//! so that none is ever left behind.
//!
//! A part is known by a name; names share the bytes of one file by their hash. CSI asks a plugin to cope with several
//! calls for one volume at once ("Concurrency"): here the later one waits, and then finds what the earlier one did.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use fnv::FnvHasher;
use tokio::sync::OwnedMutexGuard;

use super::fs::{Fs, FsResult};

/// How long a lock that another controller holds is waited for between two tries, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// The locks of one export.
#[derive(Default)]
pub struct Locks {
    local: Mutex<HashMap<u64, Weak<tokio::sync::Mutex<()>>>>,
}

/// Locks held. Dropped, it gives them back; whoever waits for them in this process gets them once the server has them
/// back.
pub struct Guard<F: Fs> {
    fs: Arc<F>,
    file: F::Handle,
    keys: Vec<u64>,
    local: Vec<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits for the parts called `names` and locks them, by locks on bytes of `file`. Cancel-safe.
    pub async fn acquire<F: Fs>(&self, fs: &Arc<F>, file: &F::Handle, names: &[&str]) -> FsResult<Guard<F>> {
        let mut keys: Vec<u64> = names.iter().map(|name| key(name)).collect();
        // One order for all, so that no two operations wait for each other.
        keys.sort_unstable();
        keys.dedup();
        let mut guard = Guard { fs: fs.clone(), file: file.clone(), keys: Vec::new(), local: Vec::new() };
        for key in keys {
            guard.local.push(self.local(key).lock_owned().await);
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
        let Ok(local) = self.local(key).try_lock_owned() else { return Ok(None) };
        let guard = Guard { fs: fs.clone(), file: file.clone(), keys: vec![key], local: vec![local] };
        Ok(fs.try_lock(file, key).await?.then_some(guard))
    }

    fn local(&self, key: u64) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

impl<F: Fs> Drop for Guard<F> {
    fn drop(&mut self) {
        // Outside a runtime the process is ending, and the server ends its locks.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (fs, file) = (self.fs.clone(), self.file.clone());
        let (keys, local) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.local));
        runtime.spawn(async move {
            for key in keys {
                if let Err(error) = fs.unlock(&file, key).await {
                    tracing::warn!(%error, "a lock on the export was not given back; it ends with this process");
                }
            }
            drop(local);
        });
    }
}

/// The byte that stands for a name: the same in every version of the driver, since controllers of several share exports.
fn key(name: &str) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(name.as_bytes());
    hasher.finish() >> 2
}
