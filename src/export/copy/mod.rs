//! Copying a tree, within an export or from one to another: exact, and as fast as the server can.
//!
//! One walker goes through the source's directories, depth first, makes those of the target and hands out what else it
//! finds; up to [`Options::in_flight`] entries are copied at once. A directory gets its attributes after all that is in it
//! is there.
//!
//! - **Content** ([`content`]) is cloned where the server can (CLONE), otherwise copied, holes left out.
//! - **Exact**: modes with setuid, setgid and sticky, owners, times, extended attributes and access control lists where the
//!   mounts carry them, hard links inside the tree, holes, symbolic links, FIFOs, sockets, device nodes, names of any bytes.
//! - **Memory** does not grow with the tree: a page of a listing for each of the first [`walk::PAGES`] levels, a few hundred
//!   bytes a level below, at most [`walk::DEPTH`] levels; what is known of hard links is kept on the target ([`links`]).
//!   Descriptors: two for each of [`directory::OPEN`] levels, for each entry in flight, and four for each entry in flight.
//! - **Tenants may be writing meanwhile.** What is gone when its turn comes is left out, what is replaced is copied as what
//!   it is then, what is open is copied up to the size it had; nothing but a regular file is ever opened, no link followed.
//!   All else that cannot be copied ends the copy with an error that names the path: there are no silent gaps.
//! - **On stable storage** is all of it when [`copy_tree`] answers `Ok`: each file was committed or cloned, and a failed
//!   write is reported by its commit.

use std::future::Future;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::export::fs::{Fs, FsResult, Status};

mod attributes;
mod content;
mod directory;
mod entry;
mod error;
mod links;
mod progress;
mod walk;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use attributes::difference;
pub use error::{CopyError, Side};
pub use progress::{Progress, Totals};

use attributes::Attributes;
use content::Ways;
use directory::{Dir, Pair};
use links::Links;

/// How a tree is copied.
#[derive(Debug, Clone)]
pub struct Options {
    /// Entries that are copied at once, at least 1.
    pub in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { in_flight: 16 }
    }
}

/// A copy under way. A clone is the same.
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

/// Copies all that is below the directory `from` of `source` into the directory `to` of `target`, which is empty, and gives
/// `to` the attributes of `from`. With `source` and `target` the same value, the server is asked to do the copying.
///
/// Whoever calls it keeps others away from `to`, and clears it away after an error. Dropping the future stops the copy as
/// `cancel` does: at once, but for the operations that are with the server already.
///
/// # Errors
/// [`CopyError::Failed`] with the path and what the server said, also when `from` is gone or in another directory at the end,
/// or [`CopyError::Cancelled`].
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
        () = progress.tell() => Err(CopyError::Cancelled),
        done = copy.run(from, to) => done.map(|()| progress.totals()),
    }
}

impl<F: Fs> Copy<F> {
    /// Does work that consists of a few operations in one go, where both exports are one.
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
        // Were it gone, or on its way through a trash, all that had vanished would not have been copied.
        match self.source.parent(from).await {
            Ok((_, attr)) if attr.fileid == place => Ok(()),
            Ok(_) => Err(root.error(Side::Source, "what was moved meanwhile: copying", Status::Stale)),
            Err(status) => Err(root.error(Side::Source, "copying", status)),
        }
    }

    /// The directories that the copy starts at.
    async fn root(&self, pair: &Pair<F>) -> Result<Arc<Dir<F>>, CopyError> {
        let failed = |side, status| CopyError::failed(side, "opening", directory::ROOT.to_owned(), status);
        let source = self.source.getattr(&pair.source).await.map_err(|status| failed(Side::Source, status))?;
        let target = self.target.getattr(&pair.target).await.map_err(|status| failed(Side::Target, status))?;
        let listed = self.target.readdir(&pair.target, 0).await.map_err(|status| failed(Side::Target, status))?;
        if !listed.entries.is_empty() || listed.next.is_some() {
            return Err(failed(Side::Target, Status::NotEmpty));
        }
        Ok(Dir::root(pair.clone(), source, target))
    }
}
