//! Hard links inside the tree.
//!
//! What was copied of an object with several names gets one name more, in a directory of its own in the copy, after the
//! object that it was copied from. There the object's other names find it, and no memory is taken for it, however many there
//! are. The directory is removed before the copy is finished.
//!
//! An object that is changed, or replaced by another with the same number, between two of its names is copied again: the
//! name in the directory holds its size and its time of change.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use uuid::Uuid;

use crate::export::fs::{Attr, Fs, FsResult, Name, Status};

// What is tried, for errors.

pub(super) const LINKING: &str = "linking";
pub(super) const CLEARING: &str = "removing what was noted of hard links in";

/// So many objects are told apart by [`Links::hold`].
const HOLDS: u64 = 64;

/// The objects with several names that are copied already.
pub(super) struct Links<F: Fs> {
    /// Where the directory is made when it is needed.
    parent: F::Handle,
    dir: OnceCell<(F::Handle, Name)>,
    holds: [Mutex<()>; HOLDS as usize],
}

impl<F: Fs> Links<F> {
    pub(super) fn new(parent: F::Handle) -> Self {
        Self { parent, dir: OnceCell::new(), holds: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Keeps others from copying that object as long as the guard lives.
    pub(super) async fn hold(&self, fileid: u64) -> MutexGuard<'_, ()> {
        self.holds[(fileid % HOLDS) as usize].lock().await
    }

    /// Gives the copy of the source's object one name more, and answers it; `None` where it is not copied yet.
    pub(super) async fn link(
        &self,
        fs: &F,
        object: &Attr,
        dir: &F::Handle,
        name: &Name,
    ) -> FsResult<Option<F::Handle>> {
        let Some((links, _)) = self.dir.get() else { return Ok(None) };
        let key = key(object)?;
        let (made, _) = match fs.lookup(links, &key).await {
            Err(Status::NoEnt) => return Ok(None),
            found => found?,
        };
        match fs.link(&made, dir, name).await {
            // The name that was one more is the one that is too many: the object has no other left that is not copied.
            Err(Status::MLink) => fs.rename(links, &key, dir, name).await?,
            linked => linked?,
        }
        Ok(Some(made))
    }

    /// The copy of the source's object is whole.
    pub(super) async fn remember(&self, fs: &F, object: &Attr, made: &F::Handle) -> FsResult<()> {
        let make = async || {
            let name = Name::new(format!(".csi-nfs-links-{}", Uuid::new_v4()))?;
            fs.mkdir(&self.parent, &name, 0o700).await.map(|(dir, _)| (dir, name))
        };
        let (links, _) = self.dir.get_or_try_init(make).await?;
        fs.link(made, links, &key(object)?).await
    }

    /// Removes the directory.
    pub(super) async fn clear(&self, fs: &F, in_flight: usize) -> FsResult<()> {
        let Some((links, name)) = self.dir.get() else { return Ok(()) };
        loop {
            let page = fs.readdir(links, 0).await?;
            if page.entries.is_empty() {
                return fs.rmdir(&self.parent, name).await;
            }
            let unlink = |entry: crate::export::fs::Entry| async move { fs.unlink(links, &entry.name).await };
            stream::iter(page.entries).map(unlink).buffer_unordered(in_flight).try_collect::<()>().await?;
        }
    }
}

/// The name that an object's copy is found by.
fn key(object: &Attr) -> FsResult<Name> {
    let Attr { fileid, size, mtime, .. } = object;
    Name::new(format!("{fileid:x}-{size:x}-{:x}-{:x}", mtime.seconds, mtime.nanoseconds))
}
