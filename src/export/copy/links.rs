//! Hard links inside the tree.
//!
//! The copy of an object with several names gets one more name, in a directory of its own in the copy, which is derived
//! from the `fileid` of the original. The other names of the object find it there, so that any number of hard links
//! needs no memory. The directory is removed before the copy is finished.
//!
//! The name also contains the size and the modification time. So an object that is changed, or replaced by another with
//! the same `fileid`, between two of its names is copied again.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use uuid::Uuid;

use crate::export::fs::{Attr, Entry, Fs, FsResult, Name, Status, first_entries};

// Actions, for error messages.

pub(super) const LINKING: &str = "linking";
pub(super) const CLEARING: &str = "removing the hard link directory from";

/// The number of locks of [`Links::hold`], each for a part of the objects.
const HOLDS: u64 = 64;

/// The objects with several names that are copied already.
pub(super) struct Links<F: Fs> {
    /// Where the directory is created when it is needed.
    parent: F::Handle,
    dir: OnceCell<(F::Handle, Name)>,
    holds: [Mutex<()>; HOLDS as usize],
}

impl<F: Fs> Links<F> {
    pub(super) fn new(parent: F::Handle) -> Self {
        Self { parent, dir: OnceCell::new(), holds: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Keeps others from copying this object while the guard lives.
    pub(super) async fn hold(&self, fileid: u64) -> MutexGuard<'_, ()> {
        self.holds[(fileid % HOLDS) as usize].lock().await
    }

    /// Gives the copy of an object another name. Returns `None` if the object is not copied yet.
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
            // The object has as many names as possible. The name in the directory for links is one too many, and this
            // name is the last that the copy needs.
            Err(Status::MLink) => fs.rename(links, &key, dir, name).await?,
            linked => linked?,
        }
        Ok(Some(made))
    }

    /// Records that the copy of an object is complete.
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
            let entries = first_entries(fs, links).await?;
            if entries.is_empty() {
                return fs.rmdir(&self.parent, name).await;
            }
            let unlink = |entry: Entry| async move { fs.unlink(links, &entry.name).await };
            stream::iter(entries).map(unlink).buffer_unordered(in_flight).try_collect::<()>().await?;
        }
    }
}

/// The name under which the copy of an object is found.
fn key(object: &Attr) -> FsResult<Name> {
    let Attr { fileid, size, mtime, .. } = object;
    Name::new(format!("{fileid:x}-{size:x}-{:x}-{:x}", mtime.seconds, mtime.nanoseconds))
}
