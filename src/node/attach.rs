//! The end of publishing, on the thread that made the mount: the root of the mount gets its group and mode, and only
//! then is the mount attached to its target.
//!
//! The server may keep that thread for longer than the call waits. Nothing is attached after the call has given up: by
//! then the target may belong to another call.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mount::table::Mount;
use crate::node::detach::detach;
use crate::node::publish_intents::PublishIntent;
use crate::node::root::{Identity, Root, RootAttributes};
use crate::node::target::Place;

/// Cancels with its drop what a call wants to attach: the call has given up, or has what it wanted.
#[derive(Debug, Default)]
pub struct AttachCancel(Arc<Mutex<bool>>);

/// How a mount that was made for a call is attached.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Where it is attached.
    place: Arc<Place>,
    /// What it was made for.
    pub intent: PublishIntent,
    /// Dead mounts that it replaces, the visible one first.
    dead: Vec<Mount>,
    cancelled: Arc<Mutex<bool>>,
}

/// How attaching ended.
#[derive(Debug)]
pub enum Outcome {
    /// The mount is on its target.
    Attached {
        /// The root directory of the mount.
        root: Identity,
        /// Dead mounts that were detached, with their roots: [`end`](crate::node::detach::end) ends them.
        detached: Vec<(Mount, OwnedFd)>,
    },
    /// The root directory is gone from the server, and so is the mount.
    Stale,
}

impl AttachCancel {
    /// Attaches a mount for `intent` at `place` in place of `dead` mounts, unless it is cancelled first.
    pub fn attach(&self, place: Arc<Place>, intent: PublishIntent, dead: Vec<Mount>) -> Attach {
        Attach { place, intent, dead, cancelled: Arc::clone(&self.0) }
    }
}

impl Drop for AttachCancel {
    fn drop(&mut self) {
        // This waits for a mount that is being attached just now, which asks no server.
        *lock(&self.0) = true;
    }
}

impl Attach {
    /// Attaches a mount, given by its root. May block.
    ///
    /// # Errors
    /// [`Error::Export`] where the attributes cannot be set; [`Error::Precondition`] and [`Error::Internal`] where the
    /// target cannot take the mount, or where the call has given up.
    pub fn run(&self, root: &OwnedFd) -> Result<Outcome> {
        let now = Root::ask(root.as_fd());
        if now == Err(Errno::STALE) {
            return Ok(Outcome::Stale);
        }
        // A volume that is published for reading is left as it is.
        if !self.intent.options.read_only() && self.intent.root_attributes != RootAttributes::default() {
            self.set_attributes(root, now)?;
        }
        // Any other failure of the server is for the users of the volume to see.
        let known =
            now.or_else(|_| Root::known(root.as_fd())).map_err(|errno| self.failed("looking at the mount", errno))?;
        let cancelled = lock(&self.cancelled);
        if *cancelled {
            return Err(Error::Internal(format!("{} was mounted too late for {}", self.intent.source, self.place)));
        }
        let mut detached = Vec::new();
        for dead in &self.dead {
            detached.extend(detach(&self.place, dead)?.map(|root| (dead.clone(), root)));
        }
        self.attach(root)?;
        Ok(Outcome::Attached { root: known.identity, detached })
    }

    fn set_attributes(&self, root: &OwnedFd, now: rustix::io::Result<Root>) -> Result<()> {
        now.and_then(|now| self.intent.root_attributes.set(root.as_fd(), now)).map_err(|errno| Error::Export {
            export: self.intent.source.to_string(),
            action: "setting group and mode of the volume's root directory (volume_mount_group, mountPermissions)"
                .to_owned(),
            status: errno.into(),
        })
    }

    fn attach(&self, root: &OwnedFd) -> Result<()> {
        let place = &self.place;
        let made = place.create()?;
        place.attach(root.as_fd()).map_err(|errno| {
            if made && let Err(error) = place.remove() {
                tracing::warn!(target = %place, %error, "cannot remove the directory that was made for the mount");
            }
            self.failed("putting the mount there", errno)
        })
    }

    fn failed(&self, action: &str, errno: Errno) -> Error {
        Error::Internal(format!("{}: {action}: {errno}", self.place))
    }
}

fn lock(cancelled: &Mutex<bool>) -> MutexGuard<'_, bool> {
    cancelled.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::options::MountOptions;
    use crate::nfs::source::{Server, Share, Source};
    use crate::node::target::Target;

    fn intent(target: &Target) -> PublishIntent {
        PublishIntent {
            volume_id: "volume".to_owned(),
            source: Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/volume").unwrap()),
            target: target.clone(),
            options: MountOptions::default(),
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        }
    }

    /// What attaches for `cancel` at a path.
    fn attach_at(cancel: &AttachCancel, path: &std::path::Path) -> Attach {
        let target = Target::try_from(path).unwrap();
        let place = Arc::new(target.find().unwrap().unwrap());
        cancel.attach(place, intent(&target), Vec::new())
    }

    #[test]
    fn nothing_is_put_in_place_for_a_call_that_has_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let cancel = AttachCancel::default();
        let attach = attach_at(&cancel, &target);
        drop(cancel);
        let root = std::fs::File::open(dir.path()).unwrap().into();
        assert!(matches!(attach.run(&root), Err(Error::Internal(_))));
        assert!(!target.exists());
    }

    #[test]
    fn a_target_is_not_left_behind_when_the_mount_cannot_be_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let cancel = AttachCancel::default();
        // A directory that is no mount of its own cannot be moved.
        let root = std::fs::File::open(dir.path()).unwrap().into();
        let outcome = attach_at(&cancel, &target).run(&root);
        assert!(matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
        assert!(!target.exists());
    }
}
