//! Copies entries that are not directories: files, links, FIFOs, sockets, devices.

use std::future::Future;
use std::sync::Arc;

use super::{Copy, links};
use crate::export::copy::attributes::{SETTING, difference};
use crate::export::copy::directory::{Dir, Pair};
use crate::export::copy::error::{CopyError, Side, Stop};
use crate::export::fs::{Attr, Fs, FsResult, Kind, Name, OpenMode, SetAttr, Status};

/// How often the driver looks at an entry again because somebody replaced it.
const ATTEMPTS: usize = 8;

// Actions, for error messages.

pub(super) const LISTING: &str = "listing";
pub(super) const LOOKING: &str = "looking up";
const CREATING: &str = "creating";
const COPYING: &str = "copying the entries of";

/// Work that the walk hands out.
pub(super) enum Job<F: Fs> {
    /// Copy these entries, which had these kinds when they were listed.
    Entries { dir: Arc<Dir<F>>, pair: Pair<F>, entries: Vec<(Name, Kind)> },
    /// The listing of a directory is complete.
    Listed { dir: Arc<Dir<F>>, pair: Pair<F> },
}

/// The place of an entry.
pub(super) struct Place<'a, F: Fs> {
    pub(super) dir: &'a Dir<F>,
    pub(super) pair: &'a Pair<F>,
    pub(super) name: &'a Name,
}

impl<F: Fs> Place<'_, F> {
    pub(super) fn error(&self, side: Side, action: &'static str, status: Status) -> CopyError {
        CopyError::failed(side, action, self.dir.path(Some(self.name)), status)
    }

    /// The result of an operation on an object of the source.
    pub(super) fn source<T>(&self, action: &'static str, result: FsResult<T>) -> Result<T, Stop> {
        result.map_err(|status| match status {
            Status::NoEnt | Status::Stale => Stop::Gone,
            status => self.error(Side::Source, action, status).into(),
        })
    }

    /// The result of an operation on the target.
    pub(super) fn target<T>(&self, action: &'static str, result: FsResult<T>) -> Result<T, CopyError> {
        result.map_err(|status| self.error(Side::Target, action, status))
    }
}

/// The result of an attempt to copy an entry.
enum Outcome<F: Fs> {
    Copied(F::Handle),
    /// It is copied already: a listing may return an entry twice when it is renamed meanwhile.
    Already,
    /// Something else replaced it, of this kind as far as is known.
    Again(Kind),
    /// It is too large to be copied in one go.
    Later(Kind),
}

/// How an entry is copied.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// In one go, if it takes a few operations only.
    AtOnce,
    /// Operation by operation, so that others run and the copy can end in between.
    Steps,
}

impl<F: Fs> Copy<F> {
    pub(super) async fn perform(&self, job: Job<F>) -> Result<(), CopyError> {
        match job {
            Job::Listed { dir, pair } => self.done(dir, pair).await,
            Job::Entries { dir, pair, entries } => {
                let job = (Arc::clone(&dir), pair.clone());
                let at_once = self.in_one_go(move |copy| async move {
                    let (mut later, cloned) = (Vec::new(), copy.clone_entries(&job.0, &job.1, &entries).await?);
                    for ((name, kind), cloned) in entries.into_iter().zip(cloned) {
                        if cloned {
                            job.0.entry_done(name);
                            continue;
                        }
                        let place = Place { dir: &job.0, pair: &job.1, name: &name };
                        match copy.entry(&place, kind, Pace::AtOnce).await? {
                            Some(kind) => later.push((name, kind)),
                            None => job.0.entry_done(name),
                        }
                    }
                    Ok(later)
                });
                for (name, kind) in at_once.await.map_err(|status| dir.error(Side::Target, COPYING, status))?? {
                    self.entry(&Place { dir: &dir, pair: &pair, name: &name }, kind, Pace::Steps).await?;
                    dir.entry_done(name);
                }
                self.done(dir, pair).await
            }
        }
    }

    /// Copies an entry. Returns its kind if it has to be copied at another pace.
    async fn entry(&self, place: &Place<'_, F>, listed: Kind, pace: Pace) -> Result<Option<Kind>, CopyError> {
        let mut kind = listed;
        for _ in 0..ATTEMPTS {
            match self.attempt(place, kind, pace).await {
                Ok(Outcome::Copied(_)) => {
                    self.shared.progress.entry();
                    return Ok(None);
                }
                Ok(Outcome::Already) => return Ok(None),
                Ok(Outcome::Later(kind)) => return Ok(Some(kind)),
                Ok(Outcome::Again(now)) => kind = now,
                Err(Stop::Gone) => {
                    self.shared.progress.vanished();
                    return Ok(None);
                }
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Err(place.error(Side::Source, "copying the constantly replaced entry", Status::Stale))
    }

    async fn attempt(&self, place: &Place<'_, F>, kind: Kind, pace: Pace) -> Result<Outcome<F>, Stop> {
        let Place { pair, name, .. } = place;
        match kind {
            Kind::File => match self.source.open(&pair.source, name, OpenMode::Read).await {
                Ok((_, attr)) if pace == Pace::AtOnce && (attr.links > 1 || !self.is_quick(&attr)) => {
                    Ok(Outcome::Later(kind))
                }
                Ok((file, attr)) => self.linked(place, &attr, self.copy_file(place, &file, &attr)).await,
                Err(Status::NoEnt) => Err(Stop::Gone),
                Err(Status::Symlink | Status::WrongType | Status::IsDir | Status::Stale) => {
                    Ok(Outcome::Again(self.look_at(place).await?.1.kind))
                }
                Err(status) => Err(place.error(Side::Source, "opening", status).into()),
            },
            Kind::Directory => {
                // The walk has passed this directory. The caller may retry the copy.
                Err(place.error(Side::Source, "copying the entry that became a directory", Status::IsDir).into())
            }
            _ => match self.look_at(place).await? {
                (_, attr) if pace == Pace::AtOnce && attr.links > 1 => Ok(Outcome::Later(attr.kind)),
                (object, attr) if attr.kind == kind => {
                    self.linked(place, &attr, self.copy_other(place, &object, &attr)).await
                }
                (_, attr) => Ok(Outcome::Again(attr.kind)),
            },
        }
    }

    /// Copies an object, or links to the copy that was made for another of its names.
    async fn linked(
        &self,
        place: &Place<'_, F>,
        attr: &Attr,
        copy: impl Future<Output = Result<Outcome<F>, Stop>> + Send,
    ) -> Result<Outcome<F>, Stop> {
        if attr.links < 2 {
            return copy.await;
        }
        let Place { pair, name, .. } = place;
        let _held = self.shared.links.hold(attr.fileid).await;
        match self.shared.links.link(&self.target, attr, &pair.target, name).await {
            Ok(Some(made)) => return Ok(Outcome::Copied(made)),
            Ok(None) => {}
            Err(Status::Exist) if self.is_copied(pair, name).await => return Ok(Outcome::Already),
            Err(status) => return Err(place.error(Side::Target, links::LINKING, status).into()),
        }
        let outcome = copy.await?;
        if let Outcome::Copied(made) = &outcome {
            place.target(links::LINKING, self.shared.links.remember(&self.target, attr, made).await)?;
        }
        Ok(outcome)
    }

    async fn copy_file(&self, place: &Place<'_, F>, file: &F::Handle, attr: &Attr) -> Result<Outcome<F>, Stop> {
        let Place { pair, name, .. } = place;
        let mode = attr.mode & 0o777;
        let created = if self.shared.one_export {
            // Nobody else creates names here, and names that existed were noticed when they were listed.
            match self.target.open_or_create(&pair.target, name, mode).await {
                Ok((_, made)) if made.size > 0 || made.links > 1 => Err(Status::Exist),
                Err(Status::IsDir | Status::Symlink | Status::WrongType) => Err(Status::Exist),
                created => created,
            }
        } else {
            self.target.create(&pair.target, name, mode).await
        };
        let Some((target, made)) = self.unless_copied(place, created).await? else { return Ok(Outcome::Already) };
        let fill = async {
            let size = self.copy_content(place, file, attr, &target).await?;
            let set = SetAttr { size, ..difference(attr, &made) };
            place.target(SETTING, self.target.setattr(&target, set).await)?;
            let path = || place.dir.path(Some(place.name));
            self.copy_xattrs(file, &target, (Kind::File, attr.mode), &path).await
        };
        match fill.await {
            Ok(()) => Ok(Outcome::Copied(target)),
            Err(Stop::Gone) => {
                drop(target);
                place.target("removing", self.target.unlink(&pair.target, name).await)?;
                Ok(Outcome::Again(Kind::File))
            }
            Err(error) => Err(error),
        }
    }

    async fn copy_other(&self, place: &Place<'_, F>, object: &F::Handle, attr: &Attr) -> Result<Outcome<F>, Stop> {
        let Place { pair, name, .. } = place;
        let created = if attr.kind == Kind::Symlink {
            let target = match self.source.readlink(object).await {
                Err(Status::Stale) => return Ok(Outcome::Again(Kind::Symlink)),
                read => place.source("reading symbolic link", read)?,
            };
            self.target.symlink(&pair.target, name, &target).await
        } else {
            self.target.mknod(&pair.target, name, attr.kind, attr.mode & 0o777, attr.device).await
        };
        let Some((target, made)) = self.unless_copied(place, created).await? else { return Ok(Outcome::Already) };
        place.target(SETTING, self.target.setattr(&target, difference(attr, &made)).await)?;
        Ok(Outcome::Copied(target))
    }

    /// What was created; `None` if the entry was copied before.
    async fn unless_copied<T>(&self, place: &Place<'_, F>, created: FsResult<T>) -> Result<Option<T>, CopyError> {
        match created {
            Err(Status::Exist) if self.is_copied(place.pair, place.name).await => Ok(None),
            created => place.target(CREATING, created).map(Some),
        }
    }

    /// Whether the target has exactly this name, and not one that its file system takes for equal, such as another
    /// case.
    pub(super) async fn is_copied(&self, pair: &Pair<F>, name: &Name) -> bool {
        let mut next = Some(0);
        while let Some(from) = next {
            let Ok(page) = self.target.readdir(&pair.target, from).await else { return false };
            if page.entries.iter().any(|entry| entry.name == *name) {
                return true;
            }
            next = page.next;
        }
        false
    }

    async fn look_at(&self, place: &Place<'_, F>) -> Result<(F::Handle, Attr), Stop> {
        self.look(place.pair, place.name).await.map_err(|stop| match stop {
            Stop::Gone => Stop::Gone,
            Stop::Error(status) => place.error(Side::Source, LOOKING, status).into(),
        })
    }

    /// The object of that name in the source now.
    pub(super) async fn look(&self, pair: &Pair<F>, name: &Name) -> Result<(F::Handle, Attr), Stop<Status>> {
        let mut status = Status::Stale;
        for _ in 0..ATTEMPTS {
            match self.source.lookup(&pair.source, name).await {
                Ok(found) => return Ok(found),
                Err(Status::NoEnt) => return Err(Stop::Gone),
                // Another object took its place between LOOKUP and GETATTR, or the directory is gone.
                Err(Status::Stale) if self.is_gone(pair).await => return Err(Stop::Gone),
                Err(Status::Stale) => {}
                Err(other) => {
                    status = other;
                    break;
                }
            }
        }
        Err(Stop::Error(status))
    }

    /// Whether a directory of the source has been removed.
    pub(super) async fn is_gone(&self, pair: &Pair<F>) -> bool {
        self.source.getattr(&pair.source).await == Err(Status::Stale)
    }
}
