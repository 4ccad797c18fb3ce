//! The exports in use. Each has one connection, which is kept while it is used and closed when it is idle.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use rustix::io::Errno;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Export, trash};
use crate::error::{Error, Result};
use crate::export::fs::{Fs, Status};
use crate::export::kernel::KernelFs;
use crate::export::locks::Locks;
use crate::mount::backoff::backoff;
use crate::mount::mounter::Mounter;
use crate::nfs::options::{MountOptions, Role};
use crate::nfs::source::Source;

/// A connection that nobody used for this long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// How long the pool waits before it tries to connect again when the server answers RPC but mounting timed out. The
/// kernel tries to reuse its connection to a former address of the same server, and every attempt to mount keeps that
/// connection alive.
const HELD_BACK: Duration = Duration::from_secs(20);

/// How an export is reached.
pub trait Connect: Send + Sync + 'static {
    /// The operations on a connected export.
    type Fs: Fs;

    /// Checks that the server answers, before a call that could block. Returns the address at which it answered.
    fn check(&self, share: &Source, options: &MountOptions) -> impl Future<Output = Result<IpAddr>> + Send;

    /// Connects to the export at this address of its server.
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
        let fs = KernelFs::new(mounted.root, mounted.gate, mounted.locks_are_shared);
        Ok(fs.with_version(mounted.shown.as_ref().and_then(|shown| shown.option("vers"))))
    }
}

type Key = (Source, MountOptions);
type Reached<F> = (Arc<Entry<F>>, Arc<Export<F>>);

struct Entry<F: Fs> {
    /// The server's address when this entry was made. A server that has moved gets another entry.
    address: IpAddr,
    /// The export, and the task that clears its trash.
    export: OnceCell<(Arc<Export<F>>, AbortOnDropHandle<()>)>,
    used: Mutex<Instant>,
    /// When mounting last timed out, and the error: see [`HELD_BACK`].
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

    /// Runs `connect`, unless mounting timed out a moment ago.
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

/// The exports in use. There is one connection for each export and set of mount options, to one address.
pub struct Pool<C: Connect> {
    connect: C,
    entries: Mutex<HashMap<Key, Arc<Entry<C::Fs>>>>,
    locks: Mutex<HashMap<Source, Arc<Locks>>>,
    known: Mutex<BTreeMap<Source, Known>>,
}

/// An export that this process was asked about.
struct Known {
    /// The options that last worked.
    options: MountOptions,
    /// Whether it was known from the start.
    from_start: bool,
    /// When a call last used it.
    used: Option<Instant>,
}

impl<C: Connect> Pool<C> {
    /// A pool that knows `exports` from the start.
    pub fn new(connect: C, exports: impl IntoIterator<Item = (Source, MountOptions)>) -> Self {
        let known = |(share, options)| (share, Known { options, from_start: true, used: None });
        Self {
            connect,
            entries: Mutex::default(),
            locks: Mutex::default(),
            known: Mutex::new(exports.into_iter().map(known).collect()),
        }
    }

    /// The export `share`, connected with `options`.
    ///
    /// # Errors
    /// [`Error::Unreachable`](crate::error::Error::Unreachable),
    /// [`Error::Mount`](crate::error::Error::Mount).
    pub async fn get(&self, share: &Source, options: &MountOptions) -> Result<Arc<Export<C::Fs>>> {
        let (entry, export) = self.reach(share, options).await?;
        let now = Instant::now();
        *lock(&entry.used) = now;
        lock(&self.known).entry(share.clone()).and_modify(|known| known.used = Some(now));
        Ok(export)
    }

    /// Like [`Self::get`], for a look at an export that no call needs: it does not keep an idle connection open.
    pub async fn look(&self, share: &Source, options: &MountOptions) -> Result<Arc<Export<C::Fs>>> {
        self.reach(share, options).await.map(|(_, export)| export)
    }

    async fn reach(&self, share: &Source, options: &MountOptions) -> Result<Reached<C::Fs>> {
        let address = self.connect.check(share, options).await?;
        let entry = self.entry(share, options, address);
        let connect = async || -> Result<_> {
            let fs = entry.unless_held_back(self.connect.connect(share, options, address)).await?;
            let locks = lock(&self.locks).entry(share.clone()).or_default().clone();
            let export = Arc::new(Export::new(share.clone(), fs, locks));
            let trash = AbortOnDropHandle::new(tokio::spawn(trash::keep_clear(export.clone())));
            let unknown = || Known { options: options.clone(), from_start: false, used: None };
            lock(&self.known).entry(share.clone()).or_insert_with(unknown).options = options.clone();
            Ok((export, trash))
        };
        let export = entry.export.get_or_try_init(connect).await?.0.clone();
        Ok((entry, export))
    }

    /// The entry for a server that is at `address` now. An entry for another address is dropped; calls that are using
    /// it keep it until they end.
    fn entry(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Arc<Entry<C::Fs>> {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(key(share, options)).or_insert_with(|| Entry::at(address));
        if entry.address != address {
            tracing::info!(export = %share, from = %entry.address, to = %address, "connecting to the export anew");
            std::mem::replace(entry, Entry::at(address)).retire();
        }
        entry.clone()
    }

    /// Drops the connection of `export` if `status`, the failure of a call on it, shows that it cannot be used any
    /// more; the next call connects again. Returns whether the failed call may be retried at once.
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

    /// Drops every connection that no call uses any more, because the process is about to end.
    pub async fn close(&self) {
        let entries: Vec<_> = lock(&self.entries).drain().map(|(_, entry)| entry).collect();
        for entry in entries {
            if let Some((export, trash)) = Arc::into_inner(entry).and_then(|entry| entry.export.into_inner()) {
                trash.abort();
                // The task was cancelled just now. When it has ended, it no longer holds the export.
                let _ = trash.await;
                drop(export);
            }
        }
        let locks: Vec<_> = lock(&self.locks).values().cloned().collect();
        for locks in locks {
            locks.close().await;
        }
    }

    /// The options with which this process last reached an export.
    pub fn options(&self, share: &Source) -> Option<MountOptions> {
        lock(&self.known).get(share).map(|known| known.options.clone())
    }

    /// Whether the export was known from the start, or a call used it within `age`.
    pub fn is_used(&self, share: &Source, age: Duration) -> bool {
        let known = lock(&self.known);
        known.get(share).is_some_and(|one| one.from_start || one.used.is_some_and(|used| used.elapsed() < age))
    }

    /// Every export that this process was asked about, with the options to reach it, in order.
    pub fn known(&self) -> Vec<(Source, MountOptions)> {
        lock(&self.known).iter().map(|(share, known)| (share.clone(), known.options.clone())).collect()
    }

    /// How long calls waited for locks on each export, since the process started.
    pub fn lock_waits(&self) -> Vec<(Source, Histogram)> {
        lock(&self.locks).iter().map(|(share, locks)| (share.clone(), locks.waits())).collect()
    }

    /// The exports that are connected now.
    pub fn connected(&self) -> Vec<Arc<Export<C::Fs>>> {
        lock(&self.entries).values().filter_map(|entry| entry.export.get()).map(|(export, _)| export.clone()).collect()
    }

    /// Connects to every export that is known from the start, so that the trash that an earlier process left is
    /// cleared. An export that cannot be reached is tried again, at growing intervals.
    pub async fn open_known(&self) {
        const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
        let open = async |(share, options): (Source, MountOptions)| {
            let mut pauses = backoff(PAUSES.0, PAUSES.1);
            while let Err(error) = self.get(&share, &options).await {
                tracing::warn!(export = %share, %error, "the export cannot be opened; will be tried again");
                tokio::time::sleep(pauses.next().unwrap_or(PAUSES.1)).await;
            }
        };
        futures_util::future::join_all(self.known().into_iter().map(open)).await;
    }

    /// Closes connections that become idle. It runs for ever.
    pub async fn close_idle(&self) {
        loop {
            tokio::time::sleep(IDLE / 5).await;
            lock(&self.entries).retain(|_, entry| {
                // The entry and its trash task hold the export. A further holder is a call that is using it.
                let busy = entry
                    .export
                    .get()
                    .is_some_and(|(export, _)| Arc::strong_count(export) > 2 || export.trash.waiting() > 0);
                busy || lock(&entry.used).elapsed() < IDLE
            });
        }
    }
}

/// The key of a connection. Options that make no difference to the controller do not lead to another connection. The
/// server takes two connections from one machine for one client and does not tell that client about its own changes, so
/// each connection would still find what the other has removed.
fn key(share: &Source, options: &MountOptions) -> Key {
    (share.clone(), options.for_role(Role::Controller))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
