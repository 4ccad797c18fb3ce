//! A walk through a tree that gives everything in it a project ID. It goes on in slices, so that what somebody waits
//! for is done between them.
//!
//! Tenants decide how deep and how wide a tree is, so the walk keeps little of it: a page of a listing for each of the
//! first [`PAGES`] levels, a descriptor for each of the first [`OPEN`], and a few words for each level below. Coming
//! back up to a level below these, it opens the parent and lists on from where it was.

use std::vec;

use crate::agent::projects::Projects;
use crate::export::DEPTH;
use crate::export::fs::{Cookie, Entry, Fs, FsResult, Kind, Name, OpenMode, Status};
use crate::export::progress::{Figures, Progress};

/// The rest of a page is kept down to this level while the walk is below.
const PAGES: usize = 8;
/// Directories are kept open down to this level while the walk is below.
const OPEN: usize = 64;

/// What a walk does to the objects that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Assigns them to a project.
    Assign(u32),
    /// Takes from directories that new objects inherit their project.
    Disinherit,
}

/// A walk under way.
pub(super) struct Walk<F: Fs> {
    purpose: Purpose,
    path: Vec<Level<F>>,
    progress: Progress,
}

/// A directory on the path of a walk.
struct Level<F: Fs> {
    fileid: u64,
    /// `None` while the walk is below, in a directory that is not kept open.
    dir: Option<F::Handle>,
    page: vec::IntoIter<Entry>,
    /// Where the listing continues after the page.
    next: Option<Cookie>,
}

impl<F: Fs> Level<F> {
    fn new(dir: F::Handle, fileid: u64) -> Self {
        Self { fileid, dir: Some(dir), page: Vec::new().into_iter(), next: Some(0) }
    }
}

impl<F: Fs> Walk<F> {
    /// A walk through everything below `root`, but not `root` itself. Repeating an interrupted walk is cheap, because
    /// objects that are as they should be are only read.
    pub(super) fn new(root: F::Handle, purpose: Purpose) -> Self {
        let progress = Progress::default();
        progress.begin();
        // Nothing is above the root, so nobody compares its number.
        Self { purpose, path: vec![Level::new(root, 0)], progress }
    }

    /// What the walk does.
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// How far the walk is.
    pub(super) fn figures(&self) -> Figures {
        self.progress.figures()
    }

    /// Goes on for `steps` steps: an object or a page each. Returns whether the walk has ended.
    ///
    /// # Errors
    /// [`Status::NameTooLong`] if the tree has more than [`DEPTH`] levels; [`Status::Stale`] if `root` was removed, or
    /// if a directory on the path was moved; and what an operation returns.
    pub(super) async fn slice<P: Projects<F>>(&mut self, fs: &F, projects: &P, steps: usize) -> FsResult<bool> {
        for _ in 0..steps {
            if !self.step(fs, projects).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether there is more to do.
    async fn step<P: Projects<F>>(&mut self, fs: &F, projects: &P) -> FsResult<bool> {
        let is_root = self.path.len() == 1;
        let Some(level) = self.path.last_mut() else { return Ok(false) };
        let dir = level.dir.clone().ok_or(Status::Stale)?;
        let Some(entry) = level.page.next() else {
            let Some(from) = level.next.take() else { return self.up(fs, &dir).await };
            match fs.readdir(&dir, from).await {
                Ok(page) => (level.page, level.next) = (page.entries.into_iter(), page.next),
                // Somebody removed the directory, so it has no more entries.
                Err(Status::NoEnt | Status::Stale) if !is_root => {}
                Err(status) => return Err(status),
            }
            return Ok(true);
        };
        match entry.kind {
            Some(Kind::Directory) => self.enter(fs, projects, &dir, &entry.name, entry.cookie).await?,
            // Links and devices have no content to account, and opening them has side effects.
            Some(Kind::File) | None => match self.file(fs, projects, &dir, &entry.name).await {
                Err(Status::IsDir) => self.enter(fs, projects, &dir, &entry.name, entry.cookie).await?,
                Ok(()) | Err(Status::NoEnt | Status::Stale | Status::Symlink | Status::WrongType) => {}
                Err(status) => return Err(status),
            },
            Some(_) => {}
        }
        self.progress.entry();
        Ok(true)
    }

    async fn file<P: Projects<F>>(&self, fs: &F, projects: &P, dir: &F::Handle, name: &Name) -> FsResult<()> {
        let (file, _) = fs.open(dir, name, OpenMode::Read).await?;
        match self.purpose {
            Purpose::Assign(project) => projects.assign(&file, Kind::File, project).await,
            Purpose::Disinherit => Ok(()),
        }
    }

    /// Enters a directory, after which the listing of the one above continues at `cookie`.
    async fn enter<P: Projects<F>>(
        &mut self,
        fs: &F,
        projects: &P,
        dir: &F::Handle,
        name: &Name,
        cookie: Cookie,
    ) -> FsResult<()> {
        let (child, attr) = match fs.lookup(dir, name).await {
            Err(Status::NoEnt | Status::Stale) => return Ok(()),
            found => found?,
        };
        if attr.kind != Kind::Directory {
            return Ok(());
        }
        // First the directory, then its content: what is new in it meanwhile inherits the ID.
        match self.purpose {
            Purpose::Assign(project) => projects.assign(&child, Kind::Directory, project).await?,
            Purpose::Disinherit => projects.disinherit(&child).await?,
        }
        let depth = self.path.len();
        if depth >= DEPTH {
            return Err(Status::NameTooLong);
        }
        if let Some(level) = self.path.last_mut() {
            if depth > PAGES && level.page.len() > 0 {
                (level.page, level.next) = (Vec::new().into_iter(), Some(cookie));
            }
            if depth > OPEN {
                level.dir = None;
            }
        }
        self.path.push(Level::new(child, attr.fileid));
        Ok(())
    }

    /// Leaves the directory in which the walk is. Returns whether there is one above.
    async fn up(&mut self, fs: &F, left: &F::Handle) -> FsResult<bool> {
        self.path.pop();
        let Some(level) = self.path.last_mut() else { return Ok(false) };
        if level.dir.is_none() {
            let (parent, attr) = fs.parent(left).await?;
            if attr.fileid != level.fileid {
                return Err(Status::Stale);
            }
            level.dir = Some(parent);
        }
        Ok(true)
    }
}
