//! A directory that is being copied. It is finished when everything in it is.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Copy, attributes};
use crate::export::copy::error::{CopyError, Side, Stop};
use crate::export::fs::{Attr, Fs, FsResult, Kind, Name, SetAttr, Status};

/// The name of the top directory in messages.
pub(super) const ROOT: &str = ".";
/// Directories are kept open down to this level.
pub(super) const OPEN: usize = 64;
/// Paths in messages are shortened to this many bytes of names.
const PATH: usize = 512;

/// A directory of the source and its copy.
pub(super) struct Pair<F: Fs> {
    pub(super) source: F::Handle,
    pub(super) target: F::Handle,
}

impl<F: Fs> Clone for Pair<F> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), target: self.target.clone() }
    }
}

/// A directory that is not finished.
pub(super) struct Dir<F: Fs> {
    parent: Option<Arc<Self>>,
    name: Option<Name>,
    pub(super) depth: usize,
    /// The `fileid` of both directories.
    ids: (u64, u64),
    /// The attributes that the copy gets at the end.
    attr: SetAttr,
    mode: u32,
    /// What is under way: its listing, its entries and its subdirectories.
    pending: AtomicUsize,
    /// The names of the entries under way. A listing may return an entry twice when it is renamed meanwhile.
    under_way: Mutex<HashSet<Name>>,
    /// Kept down to [`OPEN`] levels. Deeper, it is reopened through the parent of the directory below.
    pair: Option<Pair<F>>,
}

impl<F: Fs> Dir<F> {
    pub(super) fn root(pair: Pair<F>, source: Attr, target: Attr) -> Arc<Self> {
        Self::new(None, None, 0, pair, source, target)
    }

    /// A subdirectory, for which this directory waits.
    pub(super) fn child(self: &Arc<Self>, name: Name, pair: Pair<F>, source: Attr, target: Attr) -> Arc<Self> {
        self.expect();
        Self::new(Some(Arc::clone(self)), Some(name), self.depth + 1, pair, source, target)
    }

    fn new(
        parent: Option<Arc<Self>>,
        name: Option<Name>,
        depth: usize,
        pair: Pair<F>,
        source: Attr,
        target: Attr,
    ) -> Arc<Self> {
        Arc::new(Self {
            parent,
            name,
            depth,
            ids: (source.fileid, target.fileid),
            attr: attributes::difference(&source, &target),
            mode: source.mode,
            pending: AtomicUsize::new(1),
            under_way: Mutex::default(),
            pair: (depth < OPEN).then_some(pair),
        })
    }

    /// Adds one thing that is under way in this directory.
    pub(super) fn expect(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Marks an entry as under way. Returns false if it was marked before.
    pub(super) fn entry_begins(&self, name: &Name) -> bool {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone())
    }

    pub(super) fn entry_done(&self, name: Name) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    /// Whether nothing is under way any more.
    fn was_last(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The directory above.
    pub(super) fn parent(&self) -> Option<&Self> {
        self.parent.as_deref()
    }

    /// Whether its handles are kept until it is finished.
    pub(super) fn stays_open(&self) -> bool {
        self.pair.is_some()
    }

    /// The path of an entry in it.
    pub(super) fn path(&self, entry: Option<&Name>) -> String {
        let mut names: Vec<&Name> = entry.into_iter().collect();
        let mut dir = Some(self);
        let mut length = 0;
        while let Some(Self { name: Some(name), parent, .. }) = dir {
            names.push(name);
            length += name.as_bytes().len() + 1;
            dir = parent.as_deref();
            if length > PATH {
                break;
            }
        }
        let shortened = dir.is_some_and(|dir| dir.name.is_some());
        let mut parts: Vec<String> = names.iter().rev().map(|name| name.to_string()).collect();
        if shortened {
            parts.insert(0, "...".to_owned());
        }
        if parts.is_empty() { ROOT.to_owned() } else { parts.join("/") }
    }

    pub(super) fn error(&self, side: Side, action: &'static str, status: Status) -> CopyError {
        CopyError::failed(side, action, self.path(None), status)
    }
}

/// Iterative, since a path may be deeper than the stack allows.
impl<F: Fs> Drop for Dir<F> {
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut dir) = parent.and_then(Arc::into_inner) {
            parent = dir.parent.take();
        }
    }
}

impl<F: Fs> Copy<F> {
    /// Something in the directory is done. After the last thing, the directory is finished, and then its parents where
    /// they are complete; the root is finished separately at the end.
    pub(super) async fn done(&self, dir: Arc<Dir<F>>, pair: Pair<F>) -> Result<(), CopyError> {
        let (mut dir, mut pair) = (dir, pair);
        while dir.was_last() {
            let Some(parent) = dir.parent.clone() else { break };
            let finishing = (Arc::clone(&dir), pair.clone());
            let finished = self.in_one_go(move |copy| async move { copy.finish(&finishing.0, &finishing.1).await });
            finished.await.map_err(|status| dir.error(Side::Target, attributes::SETTING, status))??;
            pair = self.above(&dir, &pair, &parent).await?;
            dir = parent;
        }
        Ok(())
    }

    /// Opens the parent of a directory on both sides.
    pub(super) async fn above(&self, dir: &Dir<F>, pair: &Pair<F>, parent: &Dir<F>) -> Result<Pair<F>, CopyError> {
        if let Some(open) = &parent.pair {
            return Ok(open.clone());
        }
        let known = |above: FsResult<(F::Handle, Attr)>, id: u64, side: Side| match above {
            Ok((handle, attr)) if attr.fileid == id => Ok(handle),
            // The directory was moved meanwhile, so the rest of its former parent cannot be reached from here.
            Ok(_) => Err(dir.error(side, "opening the parent of", Status::Stale)),
            Err(status) => Err(dir.error(side, "opening the parent of", status)),
        };
        let source = known(self.source.parent(&pair.source).await, parent.ids.0, Side::Source)?;
        let target = known(self.target.parent(&pair.target).await, parent.ids.1, Side::Target)?;
        Ok(Pair { source, target })
    }

    /// Sets the attributes of a directory in which nothing changes any more.
    pub(super) async fn finish(&self, dir: &Dir<F>, pair: &Pair<F>) -> Result<(), CopyError> {
        let set = self.target.setattr(&pair.target, dir.attr).await;
        set.map_err(|status| dir.error(Side::Target, attributes::SETTING, status))?;
        let path = || dir.path(None);
        match self.copy_xattrs(&pair.source, &pair.target, (Kind::Directory, dir.mode), &path).await {
            // An object that is gone by now keeps the attributes that were seen.
            Ok(()) | Err(Stop::Gone) => {}
            Err(Stop::Error(error)) => return Err(error),
        }
        self.shared.progress.entry();
        Ok(())
    }
}
