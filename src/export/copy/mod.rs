//! Copies a tree, within an export or from one to another: exactly, and as fast as the server can.
//!
//! One walker goes through the source's directories depth first, creates those of the target, and hands out everything
//! else. Up to [`Options::in_flight`] entries are copied at the same time. A directory gets its attributes when
//! everything in it is complete.
//!
//! - **Content** ([`content`]) is cloned where the server can (CLONE), and otherwise copied without the holes.
//! - **The copy is exact**: it has the modes with setuid, setgid and sticky, owners, times, extended attributes and
//!   access control lists where the mounts carry them, hard links inside the tree, holes, symbolic links, FIFOs,
//!   sockets, device nodes, and names of any bytes.
//! - **Memory** does not grow with the tree. The walk keeps a page of a listing for each of the first [`walk::PAGES`]
//!   levels, and a few hundred bytes for each level below, up to [`DEPTH`](super::DEPTH) levels. Hard links are
//!   recorded on the target ([`links`]). The copy holds two descriptors for each of [`directory::OPEN`] levels and for each entry in
//!   flight, and four more for each entry in flight.
//! - **Tenants may write meanwhile.** An entry that is gone when its turn comes is left out. An entry that was replaced
//!   is copied as what it is then. An open file is copied up to the size that it had. Only regular files are ever
//!   opened, and no link is followed. Any other entry that cannot be copied fails the copy, with an error that names
//!   its path: there are no silent gaps.
//! - **Everything is on stable storage** when [`copy_tree`] returns `Ok`: each file was committed or cloned, and a
//!   commit reports failed writes.

use std::future::Future;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::export::fs::{Fs, FsResult, Status, first_entries};
use crate::export::progress::{Progress, Totals};

pub(crate) mod acl;
mod attributes;
mod content;
mod count;
mod directory;
mod entry;
mod error;
mod links;
mod walk;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use attributes::difference;
pub use error::{CopyError, Side};

use attributes::Attributes;
use content::Ways;
use directory::{Dir, Pair};
use links::Links;

/// How a tree is copied.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many entries are copied at the same time; at least 1.
    pub in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { in_flight: 16 }
    }
}

/// A running copy. A clone refers to the same copy.
#[derive(Clone)]
struct Copy<F: Fs> {
    source: F,
    target: F,
    shared: Arc<Shared<F>>,
}

struct Shared<F: Fs> {
    /// Source and target are the same export.
    one_export: bool,
    in_flight: usize,
    progress: Progress,
    ways: Ways,
    attributes: Attributes,
    links: Links<F>,
}

/// Copies everything below the directory `from` of `source` into the empty directory `to` of `target`, and gives `to`
/// the attributes of `from`. If `source` and `target` are the same value, the server is asked to do the copying.
///
/// The caller keeps others away from `to`, and removes it after an error. Dropping the future stops the copy just as
/// `cancel` does: at once, except for operations that the server is already carrying out.
///
/// # Errors
/// [`CopyError::Failed`] with the path and the server's error, also if `from` was removed or moved to another
/// directory before the end; or [`CopyError::Cancelled`].
pub async fn copy_tree<F: Fs>(
    source: &F,
    from: &F::Handle,
    target: &F,
    to: &F::Handle,
    how: &Options,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Totals, CopyError> {
    let one_export = std::ptr::eq(source, target);
    let progress = progress.part();
    let shared = Shared {
        one_export,
        in_flight: how.in_flight.max(1),
        progress: progress.clone(),
        ways: Ways::new(one_export),
        attributes: Attributes::default(),
        links: Links::new(to.clone()),
    };
    let copy = Copy { source: source.clone(), target: target.clone(), shared: Arc::new(shared) };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(CopyError::Cancelled),
        never = count::ahead(source, from, &progress) => match never {},
        done = copy.run(from, to) => done.map(|()| {
            let totals = progress.totals();
            progress.expect(totals.entries);
            totals
        }),
    }
}

impl<F: Fs> Copy<F> {
    /// Runs a few operations in one go if source and target are one export.
    async fn in_one_go<T, W>(&self, work: impl FnOnce(Self) -> W + Send + 'static) -> FsResult<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let copy = self.clone();
        if self.shared.one_export {
            self.source.in_one_go(move |fs| work(Self { source: fs.clone(), target: fs, ..copy })).await
        } else {
            Ok(work(copy).await)
        }
    }

    async fn run(&self, from: &F::Handle, to: &F::Handle) -> Result<(), CopyError> {
        let pair = Pair { source: from.clone(), target: to.clone() };
        let root = self.root(&pair).await?;
        let above = self.source.parent(from).await;
        let place = above.map_err(|status| root.error(Side::Source, "opening", status))?.1.fileid;
        let (jobs, queue) = mpsc::channel(1);
        let walk = async {
            let jobs = jobs;
            self.walk(&root, &pair, &jobs).await
        };
        let queue = futures_util::stream::unfold(queue, async |mut queue| queue.recv().await.map(|job| (job, queue)));
        let work = async {
            let mut done = std::pin::pin!(queue.map(|job| self.perform(job)).buffer_unordered(self.shared.in_flight));
            while let Some(result) = done.next().await {
                result?;
            }
            Ok(())
        };
        futures_util::future::try_join(walk, work).await?;
        self.shared
            .links
            .clear(&self.target, self.shared.in_flight)
            .await
            .map_err(|status| root.error(Side::Target, links::CLEARING, status))?;
        self.finish(&root, &pair).await?;
        // If the source was removed or moved to a trash, entries that vanished on the way are missing from the copy.
        match self.source.parent(from).await {
            Ok((_, attr)) if attr.fileid == place => Ok(()),
            Ok(_) => Err(root.error(Side::Source, "copying the directory that was moved meanwhile,", Status::Stale)),
            Err(status) => Err(root.error(Side::Source, "copying", status)),
        }
    }

    /// The two directories at which the copy starts.
    async fn root(&self, pair: &Pair<F>) -> Result<Arc<Dir<F>>, CopyError> {
        let failed = |side, status| CopyError::failed(side, "opening", directory::ROOT.to_owned(), status);
        let source = self.source.getattr(&pair.source).await.map_err(|status| failed(Side::Source, status))?;
        // Before the mode is read, which the list is a part of.
        self.clear_inherited(&pair.target).await.map_err(|status| {
            CopyError::failed(Side::Target, attributes::SETTING_XATTRS, directory::ROOT.to_owned(), status)
        })?;
        let target = self.target.getattr(&pair.target).await.map_err(|status| failed(Side::Target, status))?;
        let listed = first_entries(&self.target, &pair.target).await.map_err(|status| failed(Side::Target, status))?;
        if !listed.is_empty() {
            return Err(failed(Side::Target, Status::NotEmpty));
        }
        Ok(Dir::root(pair.clone(), source, target))
    }
}
