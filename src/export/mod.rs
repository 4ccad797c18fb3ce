//! The driver's side of an NFS export: the interface, its implementation, and what is built on the interface alone.

pub mod client;
pub mod copy;
pub mod emptying;
pub mod features;
pub mod fs;
pub mod kernel;
pub mod keyed_mutex;
pub mod layout;
pub mod lock_waits;
pub mod locks;
pub mod owner_access;
pub mod pool;
pub mod progress;
pub mod run_to_completion;
pub mod seen;
mod small;
pub mod step;
pub mod trash;
pub mod user;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::nfs::source::Source;
use fs::{Attr, Cookie, Entry, Fs, FsStat, Kind, LockMode, Name, Page, Status};
use layout::Layout;
use lock_waits::Wait;
use locks::{LockFile, Locks, Part};

/// Records and the files in `.csi-nfs/paths` are smaller than this. A larger file was not written by the driver.
pub const SMALL: usize = 64 << 10;

/// The most levels of a tree that the driver and the agent go through. Tenants decide how deep a tree is, and each
/// level takes a few hundred bytes.
pub const DEPTH: usize = 16_384;

/// The most entries of a directory that are kept. The driver's directories have fewer, unless a server lists them without end.
pub const LISTED: usize = 1 << 20;

/// How often work starts over because a directory on its way was removed.
const REMOVALS: usize = 8;

/// An export in use.
pub struct Export<F: Fs> {
    fs: Arc<F>,
    source: Source,
    layout: OnceCell<Arc<Layout<F>>>,
    locks: Arc<Locks>,
    lock_file: OnceCell<LockFile<F>>,
    /// Whether the server has moved or the connection is broken: new calls use another connection.
    retired: AtomicBool,
    /// Notified when something is put into the trash.
    pub(crate) trash: trash::Signal,
    /// Who removes the directories above volumes that are deleted at the same time.
    pub(crate) emptying: emptying::Emptying,
    /// When a change last found no index of promised bytes (`volume/overcommit.rs`).
    pub(crate) unindexed: seen::Seen,
    /// When `.csi-nfs/paths` was last seen to have more names than one request shows (`volume/directory_owners.rs`).
    pub(crate) many_paths: seen::Seen,
    space: Mutex<Option<(FsStat, Instant)>>,
}

impl<F: Fs> Export<F> {
    /// The export `source` (a share), reached through `fs`. `locks` are shared by all connections of this process to
    /// the share, whatever their mount options: the server takes all mounts of one machine for one client, and would
    /// grant the same lock to each.
    pub fn new(source: Source, fs: F, locks: Arc<Locks>) -> Self {
        Self {
            fs: Arc::new(fs),
            source,
            layout: OnceCell::new(),
            locks,
            lock_file: OnceCell::new(),
            retired: AtomicBool::new(false),
            trash: trash::Signal::default(),
            emptying: emptying::Emptying::default(),
            unindexed: seen::Seen::default(),
            many_paths: seen::Seen::default(),
            space: Mutex::default(),
        }
    }

    /// Retires this connection: new calls use another one, which does not see the locks taken on this one.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// The operations on the export.
    pub fn fs(&self) -> &F {
        &self.fs
    }

    /// Server and share.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The error of a failed operation. `action` says what was tried, such as ``creating directory `a` ``.
    pub fn failed(&self, action: impl Into<String>, status: Status) -> Error {
        Error::Export { export: self.source.to_string(), action: action.into(), status }
    }

    /// The driver's private directory; `None` if this export has none yet.
    pub async fn layout(&self) -> Result<Option<Arc<Layout<F>>>> {
        if let Some(layout) = self.layout.get() {
            return Ok(Some(layout.clone()));
        }
        match Layout::open(self.fs()).await.map_err(|e| self.failed("opening the directory `.csi-nfs`", e))? {
            Some(layout) => Ok(Some(self.layout.get_or_init(async || Arc::new(layout)).await.clone())),
            None => Ok(None),
        }
    }

    /// The driver's private directory, which is created if it is missing.
    pub async fn make_layout(&self) -> Result<Arc<Layout<F>>> {
        let make = async || {
            let layout = Layout::make(self.fs()).await;
            layout.map(Arc::new).map_err(|e| self.failed("creating the directory `.csi-nfs`", e))
        };
        self.layout.get_or_try_init(make).await.cloned()
    }

    /// Locks the parts of the export called `names` against other operations of this process and of other controllers.
    ///
    /// # Errors
    /// [`Status::Stale`] if the export was retired: the caller has to retry on the connection that other calls use.
    pub async fn lock(&self, names: &[&str]) -> Result<locks::Guard<F>> {
        let parts: Vec<Part> = names.iter().map(|name| (*name, LockMode::Exclusive)).collect();
        self.lock_parts(&parts).await
    }

    /// Like [`Self::lock`], for parts of which some are shared.
    pub async fn lock_parts(&self, parts: &[Part<'_>]) -> Result<locks::Guard<F>> {
        let locked = self.locks.acquire(self.lock_file().await?, parts).await;
        locked.and_then(|guard| self.valid(guard)).map_err(|e| self.failed("locking `.csi-nfs/lock`", e))
    }

    /// Locks the part of the export called `name` if nobody holds the lock.
    pub async fn try_lock(&self, name: &str) -> Result<Option<locks::Guard<F>>> {
        let locked = self.locks.try_acquire(self.lock_file().await?, name).await;
        let locked = locked.and_then(|guard| guard.map(|guard| self.valid(guard)).transpose());
        locked.map_err(|e| self.failed("locking `.csi-nfs/lock`", e))
    }

    async fn lock_file(&self) -> Result<&LockFile<F>> {
        let open = async || {
            let layout = self.make_layout().await?;
            Ok(LockFile::new(self.fs.clone(), layout.lock.clone(), self.source.to_string()))
        };
        self.lock_file.get_or_try_init(open).await
    }

    fn valid<T>(&self, guard: T) -> fs::FsResult<T> {
        if self.retired.load(Ordering::Relaxed) { Err(Status::Stale) } else { Ok(guard) }
    }

    /// The object of that name; `None` if there is none.
    pub async fn find(&self, dir: &F::Handle, name: &Name) -> Result<Option<(F::Handle, Attr)>> {
        match self.fs.lookup(dir, name).await {
            Ok(found) => Ok(Some(found)),
            Err(Status::NoEnt) => Ok(None),
            Err(status) => Err(self.failed(format!("looking up `{name}`"), status)),
        }
    }

    /// The directory at `path` below `dir`; `None` if a component is missing.
    ///
    /// # Errors
    /// [`Status::NotDir`] if a component is not a directory.
    pub async fn find_dir(&self, dir: &F::Handle, path: impl IntoIterator<Item = Name>) -> Result<Option<F::Handle>> {
        let path: Vec<Name> = path.into_iter().collect();
        let mut removals = REMOVALS;
        loop {
            let (mut found, mut steps) = (Some(dir.clone()), path.iter());
            let failed = loop {
                let (Some(dir), Some(name)) = (&found, steps.next()) else { return Ok(found) };
                match self.find(dir, name).await {
                    Ok(Some((next, attr))) if attr.kind == Kind::Directory => found = Some(next),
                    Ok(Some(_)) => break self.failed(format!("looking up directory `{name}`"), Status::NotDir),
                    Ok(None) => found = None,
                    Err(error) => break error,
                }
            };
            // A directory on the way was removed after it was found: see `despite_removals`.
            let on_the_way = steps.len() + 1 < path.len();
            if removals == 0 || !on_the_way || !matches!(failed, Error::Export { status: Status::Stale, .. }) {
                return Err(failed);
            }
            removals -= 1;
        }
    }

    /// The directory at `path` below `dir`. Missing components are created with `mode`.
    pub async fn make_dirs(
        &self,
        dir: &F::Handle,
        path: impl IntoIterator<Item = Name>,
        mode: u32,
    ) -> Result<F::Handle> {
        let path: Vec<Name> = path.into_iter().collect();
        let path = path.as_slice();
        self.despite_removals(|| async move {
            let mut dir = dir.clone();
            for name in path {
                dir = self.make_dir(&dir, name, mode).await?;
            }
            Ok(dir)
        })
        .await
    }

    async fn make_dir(&self, dir: &F::Handle, name: &Name, mode: u32) -> Result<F::Handle> {
        if let Some(found) = self.find_dir(dir, [name.clone()]).await? {
            return Ok(found);
        }
        let failed = |status| self.failed(format!("creating directory `{name}`"), status);
        match self.fs.mkdir(dir, name, mode).await {
            Ok((made, _)) => Ok(made),
            // Another call made it meanwhile. If it is gone by now, yet another has removed it again.
            Err(Status::Exist) => self.find_dir(dir, [name.clone()]).await?.ok_or_else(|| failed(Status::Stale)),
            Err(status) => Err(failed(status)),
        }
    }

    /// Runs `work`, which walks to a directory and does something there. Calls for volumes side by side do not exclude
    /// each other, and remove a directory above them that is empty. If one was removed on the way, `work` starts over,
    /// some times.
    ///
    /// # Errors
    /// Those of `work`; [`Status::Stale`] if every attempt ended that way, as on a connection that is broken.
    pub async fn despite_removals<T, W>(&self, work: impl Fn() -> W) -> Result<T>
    where
        W: Future<Output = Result<T>>,
    {
        for _ in 0..REMOVALS {
            match work().await {
                Err(Error::Export { status: Status::Stale, .. }) => {}
                done => return done,
            }
        }
        work().await
    }

    /// The size and the free space of the export's file system.
    pub async fn stat(&self) -> Result<FsStat> {
        let stat = self.fs.statfs(&self.fs.root()).await.map_err(|e| self.failed("asking for the free space", e))?;
        *self.space.lock().unwrap_or_else(PoisonError::into_inner) = Some((stat, Instant::now()));
        Ok(stat)
    }

    /// The locks of the export that are waited for in this process.
    pub fn lock_waits(&self) -> Vec<Wait> {
        self.locks.waiting.all()
    }

    /// What [`Self::stat`] returned last, and when. Asks nobody.
    pub fn known_space(&self) -> Option<(FsStat, Instant)> {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All names in a directory, in no particular order.
    pub async fn names(&self, dir: &F::Handle) -> Result<Vec<Name>> {
        self.listed(dir, |entry| Some(entry.name)).await
    }

    /// All entries of a directory, in no particular order.
    pub async fn entries(&self, dir: &F::Handle) -> Result<Vec<Entry>> {
        self.listed(dir, Some).await
    }

    /// What `take` makes of the entries of a directory, in no particular order.
    ///
    /// # Errors
    /// [`Status::FBig`] if it makes something of more than [`LISTED`].
    pub async fn listed<T>(&self, dir: &F::Handle, take: impl Fn(Entry) -> Option<T>) -> Result<Vec<T>> {
        let (mut listed, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let page = self.page(dir, from).await?;
            listed.extend(page.entries.into_iter().filter_map(&take));
            if listed.len() > LISTED {
                return Err(self.failed(format!("listing a directory with more than {LISTED} entries"), Status::FBig));
            }
            next = page.next;
        }
        Ok(listed)
    }

    /// A page of a directory's entries, from a position on; 0 is the beginning.
    pub async fn page(&self, dir: &F::Handle, from: Cookie) -> Result<Page> {
        self.fs.readdir(dir, from).await.map_err(|e| self.failed("listing a directory", e))
    }

    /// Whether a directory is empty.
    pub async fn is_empty(&self, dir: &F::Handle) -> Result<bool> {
        let entries = fs::first_entries(&*self.fs, dir).await;
        Ok(entries.map_err(|e| self.failed("listing a directory", e))?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::{MemoryServer, Node};

    #[tokio::test]
    async fn a_directory_whose_first_page_is_empty_is_not_empty() {
        let server = MemoryServer::new();
        let export = reach(&server);
        let root = export.fs().root();
        for number in 0..40 {
            server.plant(format!("{number}"), Node::file(0o600, "")).unwrap();
        }
        for number in 0..39 {
            server.remove(format!("{number}")).unwrap();
        }
        let first = export.fs().readdir(&root, 0).await.unwrap();
        assert!(first.entries.is_empty() && first.next.is_some());
        assert!(!export.is_empty(&root).await.unwrap());
        assert_eq!(export.names(&root).await.unwrap(), [Name::new("39").unwrap()]);
        server.remove("39").unwrap();
        assert!(export.is_empty(&root).await.unwrap());
    }
}
