//! The end of publishing, on the thread that made the mount: its root is looked at and given what it has to have, and only
//! then is it put on its target.
//!
//! The server may keep that thread for longer than the call waits. Nothing is put in place after the call has given up:
//! the target may be somebody else's by then.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mount::table::Mount;
use crate::nfs::source::Source;
use crate::node::root::{Identity, Root, RootAttributes};
use crate::node::target::Place;
use crate::node::unpublish::detach;

/// A call that waits for a mount. With its drop it has given up, or has what it wanted.
#[derive(Debug, Default)]
pub struct Call(Arc<Mutex<bool>>);

/// What is to be done with a mount that was made for a call.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Where it goes.
    pub place: Arc<Place>,
    /// What it is a mount of, for messages.
    pub source: Source,
    /// What its root has to have.
    pub attributes: RootAttributes,
    /// Dead mounts that it replaces, the visible one first.
    pub dead: Vec<Mount>,
    over: Arc<Mutex<bool>>,
}

/// What came of it.
#[derive(Debug)]
pub enum Ended {
    /// The mount is on its target.
    Attached {
        /// The directory that it is a mount of.
        root: Identity,
        /// What is left of dead mounts: to be dropped where that may block.
        left: Vec<(Mount, OwnedFd)>,
    },
    /// Its root is gone from the server, and so is the mount.
    Stale,
}

impl Call {
    /// The ending for this call, with nothing to set and nothing to replace.
    pub fn ending(&self, place: Arc<Place>, source: Source) -> Ending {
        Ending { place, source, attributes: RootAttributes::default(), dead: Vec::new(), over: Arc::clone(&self.0) }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Waits for a mount that is being put in place just now, which takes no server.
        *lock(&self.0) = true;
    }
}

impl Ending {
    /// Carries it out on a mount, given by its root. May block.
    ///
    /// # Errors
    /// [`Error::Export`] where the attributes cannot be set; [`Error::Precondition`] and [`Error::Internal`] where the
    /// target cannot take the mount, or the call has given up.
    pub fn carry_out(&self, root: &OwnedFd) -> Result<Ended> {
        let now = Root::ask(root.as_fd());
        if now == Err(Errno::STALE) {
            return Ok(Ended::Stale);
        }
        if self.attributes != RootAttributes::default() {
            self.settle(root, now)?;
        }
        // Whatever else the server says is for those who use the volume.
        let known =
            now.or_else(|_| Root::known(root.as_fd())).map_err(|errno| self.failed("looking at the mount", errno))?;
        let over = lock(&self.over);
        if *over {
            return Err(Error::Internal(format!("{} was mounted too late for {}", self.source, self.place)));
        }
        let mut left = Vec::new();
        for dead in &self.dead {
            left.extend(detach(&self.place, dead)?.map(|root| (dead.clone(), root)));
        }
        self.attach(root)?;
        Ok(Ended::Attached { root: known.identity, left })
    }

    fn settle(&self, root: &OwnedFd, now: rustix::io::Result<Root>) -> Result<()> {
        now.and_then(|now| self.attributes.set(root.as_fd(), now)).map_err(|errno| Error::Export {
            export: self.source.to_string(),
            action: "setting group and mode of the volume's root directory (volume_mount_group, mountPermissions)"
                .to_owned(),
            status: errno.into(),
        })
    }

    fn attach(&self, root: &OwnedFd) -> Result<()> {
        let place = &self.place;
        let made = place.create()?;
        place.attach(root.as_fd()).map_err(|errno| {
            if made && let Err(left) = place.remove() {
                tracing::warn!(target = %place, error = %left, "leaving a target that was made for nothing");
            }
            self.failed("putting the mount there", errno)
        })
    }

    fn failed(&self, action: &str, errno: Errno) -> Error {
        Error::Internal(format!("{}: {action}: {errno}", self.place))
    }
}

fn lock(over: &Mutex<bool>) -> MutexGuard<'_, bool> {
    over.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::source::{Server, Share};
    use crate::node::target::Target;

    fn source() -> Source {
        Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/volume").unwrap())
    }

    #[test]
    fn nothing_is_put_in_place_for_a_call_that_has_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let place = Target::try_from(target.as_path()).unwrap().find().unwrap().unwrap();
        let call = Call::default();
        let ending = call.ending(Arc::new(place), source());
        drop(call);
        let root = std::fs::File::open(dir.path()).unwrap().into();
        assert!(matches!(ending.carry_out(&root), Err(Error::Internal(_))));
        assert!(!target.exists());
    }

    #[test]
    fn a_target_is_not_left_behind_when_the_mount_cannot_be_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let place = Target::try_from(target.as_path()).unwrap().find().unwrap().unwrap();
        let call = Call::default();
        // A directory that is no mount of its own cannot be moved.
        let root = std::fs::File::open(dir.path()).unwrap().into();
        let ended = call.ending(Arc::new(place), source()).carry_out(&root);
        assert!(matches!(ended, Err(Error::Internal(_))), "{ended:?}");
        assert!(!target.exists());
    }
}
