//! The exports in use: one connection each, kept while used, closed when idle.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Export, trash};
use crate::error::{Error, Result};
use crate::export::fs::{Fs, Status};
use crate::export::kernel::KernelFs;
use crate::export::locks::Locks;
use crate::mount::mounter::Mounter;
use crate::nfs::options::{MountOptions, Role};
use crate::nfs::source::Source;

/// An export that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// A connection that could not be made because the server answers and mounting timed out is not tried again for so long. The kernel
/// wants to use the connection that it still has to a former address of the same server, which each attempt keeps in being.
const HELD_BACK: Duration = Duration::from_secs(20);

/// How an export is reached.
pub trait Connect: Send + Sync + 'static {
    /// What a connection gives.
    type Fs: Fs;

    /// Asks the server whether it is there, before a call that could wait for it; answers at which address.
    fn check(&self, share: &Source, options: &MountOptions) -> impl Future<Output = Result<IpAddr>> + Send;

    /// Connects to the export at that address of its server.
    fn connect(
        &self,
        share: &Source,
        options: &MountOptions,
        address: IpAddr,
    ) -> impl Future<Output = Result<Self::Fs>> + Send;
}

impl Connect for Arc<Mounter> {
    type Fs = KernelFs;

    async fn check(&self, share: &Source, options: &MountOptions) -> Result<IpAddr> {
        Mounter::check(self, &share.server, options.port()).await
    }

    async fn connect(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Result<KernelFs> {
        let mounted = self.mount(share, options, Role::Controller).await?;
        if mounted.asked != address {
            let reason = format!("it has moved from {address} to {} just now", mounted.asked);
            return Err(Error::Unreachable { server: share.server.to_string(), port: options.port(), reason });
        }
        Ok(KernelFs::new(mounted.root, mounted.gate, mounted.locks_are_shared))
    }
}

type Key = (Source, MountOptions);

struct Entry<F: Fs> {
    /// Where the server was when this was made: a server that has moved is another one.
    address: IpAddr,
    /// The export, and the task that keeps its trash clear.
    export: OnceCell<(Arc<Export<F>>, AbortOnDropHandle<()>)>,
    used: Mutex<Instant>,
    /// When mounting timed out last, and what was said: see [`HELD_BACK`].
    timed_out: Mutex<Option<(Instant, Error)>>,
}

impl<F: Fs> Entry<F> {
    fn at(address: IpAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            export: OnceCell::new(),
            used: Mutex::new(Instant::now()),
            timed_out: Mutex::default(),
        })
    }

    /// Connects by `connect`, unless that timed out a moment ago.
    async fn unless_held_back<T>(&self, connect: impl Future<Output = Result<T>>) -> Result<T> {
        if let Some((at, error)) = &*lock(&self.timed_out)
            && at.elapsed() < HELD_BACK
        {
            return Err(error.clone());
        }
        let connected = connect.await;
        if let Err(error @ Error::Mount { errno, .. }) = &connected
            && *errno == Errno::TIMEDOUT.raw_os_error()
        {
            *lock(&self.timed_out) = Some((Instant::now(), error.clone()));
        }
        connected
    }

    fn retire(&self) {
        if let Some((export, _)) = self.export.get() {
            export.retire();
        }
    }
}

/// The exports in use. Each is connected to once per set of mount options, at one address.
pub struct Pool<C: Connect> {
    connect: C,
    entries: Mutex<HashMap<Key, Arc<Entry<C::Fs>>>>,
    locks: Mutex<HashMap<Source, Arc<Locks>>>,
    /// Every export that was named to this process, and the options that worked last.
    known: Mutex<BTreeMap<Source, MountOptions>>,
}

impl<C: Connect> Pool<C> {
    /// A pool that knows of `exports` from the start.
    pub fn new(connect: C, exports: impl IntoIterator<Item = (Source, MountOptions)>) -> Self {
        Self {
            connect,
            entries: Mutex::default(),
            locks: Mutex::default(),
            known: Mutex::new(exports.into_iter().collect()),
        }
    }

    /// The export `share`, connected to with `options`.
    ///
    /// # Errors
    /// [`Error::Unreachable`](crate::error::Error::Unreachable), [`Error::Mount`](crate::error::Error::Mount).
    pub async fn get(&self, share: &Source, options: &MountOptions) -> Result<Arc<Export<C::Fs>>> {
        let address = self.connect.check(share, options).await?;
        let entry = self.entry(share, options, address);
        let connect = async || -> Result<_> {
            let fs = entry.unless_held_back(self.connect.connect(share, options, address)).await?;
            let locks = lock(&self.locks).entry(share.clone()).or_default().clone();
            let export = Arc::new(Export::new(share.clone(), fs, locks));
            let trash = AbortOnDropHandle::new(tokio::spawn(trash::keep_clear(export.clone())));
            lock(&self.known).insert(share.clone(), options.clone());
            Ok((export, trash))
        };
        let (export, _) = entry.export.get_or_try_init(connect).await?;
        *lock(&entry.used) = Instant::now();
        Ok(export.clone())
    }

    /// The place of a connection to a server that is at `address` now. One to another address is dropped: calls that are under
    /// way on it keep it until they are over.
    fn entry(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Arc<Entry<C::Fs>> {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(key(share, options)).or_insert_with(|| Entry::at(address));
        if entry.address != address {
            tracing::info!(export = %share, from = %entry.address, to = %address, "connecting to the export anew");
            std::mem::replace(entry, Entry::at(address)).retire();
        }
        entry.clone()
    }

    /// Drops the connection of `export` where the failure of a call on it, `status`, says that it is of no use any more; the next
    /// call makes a new one. Answers whether the failed call may be made again at once.
    pub async fn failed(&self, export: &Arc<Export<C::Fs>>, options: &MountOptions, status: Status) -> bool {
        let broken = match status {
            Status::Stale => true,
            // The server answers, but not on this connection.
            Status::TimedOut => self.connect.check(export.source(), options).await.is_ok(),
            _ => false,
        };
        if broken {
            export.retire();
            let is_it = |entry: &Entry<C::Fs>| entry.export.get().is_some_and(|(other, _)| Arc::ptr_eq(other, export));
            lock(&self.entries).retain(|_, entry| !is_it(entry));
        }
        status == Status::Stale
    }

    /// Drops every connection that is not in a call any more: the process is about to end.
    pub async fn close(&self) {
        let entries: Vec<_> = lock(&self.entries).drain().map(|(_, entry)| entry).collect();
        for entry in entries {
            if let Some((export, trash)) = Arc::into_inner(entry).and_then(|entry| entry.export.into_inner()) {
                trash.abort();
                // Cancelled, as it was told to be; it has dropped its hold on the export.
                let _ = trash.await;
                drop(export);
            }
        }
        let locks: Vec<_> = lock(&self.locks).values().cloned().collect();
        for locks in locks {
            locks.close().await;
        }
    }

    /// The options that an export was reached with last, in this process.
    pub fn options(&self, share: &Source) -> Option<MountOptions> {
        lock(&self.known).get(share).cloned()
    }

    /// Every export that was named to this process, with the options to reach it by, in order.
    pub fn known(&self) -> Vec<(Source, MountOptions)> {
        lock(&self.known).iter().map(|(share, options)| (share.clone(), options.clone())).collect()
    }

    /// The exports connected to now.
    pub fn connected(&self) -> Vec<Arc<Export<C::Fs>>> {
        lock(&self.entries).values().filter_map(|entry| entry.export.get()).map(|(export, _)| export.clone()).collect()
    }

    /// Connects to every export that is known from the start, so that what an earlier process left in the trash is cleared.
    /// One that cannot be reached is tried again, less and less often.
    pub async fn open_known(&self) {
        const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
        let open = async |(share, options): (Source, MountOptions)| {
            let mut pause = PAUSES.0;
            while let Err(error) = self.get(&share, &options).await {
                tracing::warn!(export = %share, %error, "cannot be opened; will be tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        };
        futures_util::future::join_all(self.known().into_iter().map(open)).await;
    }

    /// Closes, for ever, what is idle.
    pub async fn close_idle(&self) {
        loop {
            tokio::time::sleep(IDLE / 5).await;
            lock(&self.entries).retain(|_, entry| {
                // Held by the entry and by its trash task; anything more is a call under way.
                let busy = entry
                    .export
                    .get()
                    .is_some_and(|(export, _)| Arc::strong_count(export) > 2 || export.trash.waiting() > 0);
                busy || lock(&entry.used).elapsed() < IDLE
            });
        }
    }
}

/// Options that make no difference to the controller make no connection of their own: two to one export are one client to
/// its server, which does not tell it what it changed itself, so that each would find what the other has removed.
fn key(share: &Source, options: &MountOptions) -> Key {
    (share.clone(), options.for_role(Role::Controller))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
