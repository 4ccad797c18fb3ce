//! The walk through the source's directories.

use std::sync::Arc;
use std::vec;

use tokio::sync::mpsc;

use super::{Copy, entry};
use crate::export::DEPTH;
use crate::export::copy::directory::{Dir, Pair};
use crate::export::copy::entry::Job;
use crate::export::copy::error::{CopyError, Side, Stop};
use crate::export::fs::{Cookie, Entry, Fs, Kind, Name, Status};

/// The rest of a page is kept down to this level while the walk is below. Deeper, the directory is listed again.
pub(super) const PAGES: usize = 32;

/// How many entries are copied one after the other in one go: switching threads costs as much as an operation on a
/// nearby server. A batch is smaller where fewer than [`Options::in_flight`](super::Options::in_flight) entries would
/// be in flight.
const BATCH: usize = 8;

/// A directory that is being listed.
struct Frame<F: Fs> {
    dir: Arc<Dir<F>>,
    /// `None` while the walk is below, in a directory that is not kept open.
    pair: Option<Pair<F>>,
    page: vec::IntoIter<Entry>,
    /// Where the listing continues after the page.
    next: Option<Cookie>,
    /// The entries that are copied together, and how many there will be.
    batch: Vec<(Name, Kind)>,
    together: usize,
}

impl<F: Fs> Frame<F> {
    fn new(dir: Arc<Dir<F>>, pair: Pair<F>) -> Self {
        Self { dir, pair: Some(pair), page: Vec::new().into_iter(), next: Some(0), batch: Vec::new(), together: 1 }
    }

    /// Takes the entries that are copied together. The directory learns when they are done.
    fn take_batch(&mut self) -> Option<Job<F>> {
        let pair = self.pair.clone().filter(|_| !self.batch.is_empty())?;
        self.dir.expect();
        Some(Job::Entries { dir: Arc::clone(&self.dir), pair, entries: std::mem::take(&mut self.batch) })
    }

    /// The walk enters a subdirectory, after which the listing continues at `cookie`.
    fn leave(&mut self, cookie: Cookie) {
        if self.dir.depth >= PAGES && self.page.len() > 0 {
            self.page = Vec::new().into_iter();
            self.next = Some(cookie);
        }
        if !self.dir.stays_open() {
            self.pair = None;
        }
    }
}

impl<F: Fs> Copy<F> {
    /// Lists the tree, creates its directories, and sends everything else to `jobs`.
    pub(super) async fn walk(
        &self,
        root: &Arc<Dir<F>>,
        pair: &Pair<F>,
        jobs: &mpsc::Sender<Job<F>>,
    ) -> Result<(), CopyError> {
        // Sending fails only when the receiver has ended with an error, and that error is the one to report.
        let give = async |job| jobs.send(job).await.map_err(|_| CopyError::Cancelled);
        let mut stack = vec![Frame::new(Arc::clone(root), pair.clone())];
        while let Some(frame) = stack.last_mut() {
            let Some(pair) = frame.pair.clone() else {
                return Err(frame.dir.error(Side::Source, entry::LISTING, Status::Io));
            };
            let Some(entry) = frame.page.next() else {
                if let Some(job) = frame.take_batch() {
                    give(job).await?;
                    continue;
                }
                if let Some(from) = frame.next {
                    (frame.page, frame.next) = self.list(&frame.dir, &pair, from).await?;
                    frame.together = (frame.page.len() / self.shared.in_flight).clamp(1, BATCH);
                    continue;
                }
                let dir = Arc::clone(&frame.dir);
                stack.pop();
                if let (Some(frame @ Frame { pair: None, .. }), Some(parent)) = (stack.last_mut(), dir.parent()) {
                    frame.pair = Some(self.above(&dir, &pair, parent).await?);
                }
                give(Job::Listed { dir, pair }).await?;
                continue;
            };
            let kind = match entry.kind {
                Some(kind) if kind != Kind::Directory => kind,
                _ => match self.enter(&frame.dir, &pair, &entry).await? {
                    Entered::Directory(dir, pair) => {
                        if let Some(job) = frame.take_batch() {
                            give(job).await?;
                        }
                        frame.leave(entry.cookie);
                        stack.push(Frame::new(dir, pair));
                        continue;
                    }
                    Entered::Other(kind) => kind,
                    Entered::Nothing => continue,
                },
            };
            if frame.dir.entry_begins(&entry.name) {
                frame.batch.push((entry.name, kind));
            }
            if frame.batch.len() >= frame.together
                && let Some(job) = frame.take_batch()
            {
                give(job).await?;
            }
        }
        Ok(())
    }

    /// A page of a directory's listing. The listing of a directory that was removed ends.
    async fn list(
        &self,
        dir: &Dir<F>,
        pair: &Pair<F>,
        from: Cookie,
    ) -> Result<(vec::IntoIter<Entry>, Option<Cookie>), CopyError> {
        match self.source.readdir(&pair.source, from).await {
            Ok(page) => Ok((page.entries.into_iter(), page.next)),
            Err(Status::Stale) if dir.parent().is_some() && self.is_gone(pair).await => {
                Ok((Vec::new().into_iter(), None))
            }
            Err(status) => Err(dir.error(Side::Source, entry::LISTING, status)),
        }
    }

    /// Enters a directory and creates its copy.
    async fn enter(&self, dir: &Arc<Dir<F>>, pair: &Pair<F>, entry: &Entry) -> Result<Entered<F>, CopyError> {
        let failed = |side, action, status| CopyError::failed(side, action, dir.path(Some(&entry.name)), status);
        let (source, attr) = match self.look(pair, &entry.name).await {
            Ok(found) => found,
            Err(Stop::Gone) => {
                self.shared.progress.vanished();
                return Ok(Entered::Nothing);
            }
            Err(Stop::Error(status)) => return Err(failed(Side::Source, entry::LOOKING, status)),
        };
        if attr.kind != Kind::Directory {
            return Ok(Entered::Other(attr.kind));
        }
        if dir.depth + 1 >= DEPTH {
            return Err(failed(Side::Source, "entering the too deeply nested directory", Status::NameTooLong));
        }
        let (target, made) = match self.target.mkdir(&pair.target, &entry.name, 0o700).await {
            Ok(made) => made,
            Err(Status::Exist) if self.is_copied(pair, &entry.name).await => return Ok(Entered::Nothing),
            Err(status) => return Err(failed(Side::Target, "creating directory", status)),
        };
        let pair = Pair { source, target };
        Ok(Entered::Directory(dir.child(entry.name.clone(), pair.clone(), attr, made), pair))
    }
}

/// What an entry that may be a directory turned out to be.
enum Entered<F: Fs> {
    Directory(Arc<Dir<F>>, Pair<F>),
    Other(Kind),
    /// It is gone, or copied already.
    Nothing,
}
