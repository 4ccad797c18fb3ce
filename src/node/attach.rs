//! The last step of publishing, on the thread that made the mount: it sets the group and mode of the mount's root, and
//! then attaches the mount to its target.
//!
//! The server may block this thread for longer than the call waits. The thread does not attach the mount after the call
//! has given up, because the target may then belong to another call.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mount::gate::{Gate, Held};
use crate::mount::new_mount::NewMount;
use crate::mount::selinux;
use crate::mount::table::Mount;
use crate::nfs::status::Status;
use crate::node::detach::detach;
use crate::node::publish_intents::PublishIntent;
use crate::node::root::{Identity, Root, RootAttributes, is_refused};
use crate::node::target::{Place, mount_ids};

/// Cancels the attaching for a call when it is dropped: the call has given up, or is done.
#[derive(Debug, Default)]
pub struct AttachCancel(Arc<Mutex<bool>>);

/// How to attach the mount that was made for a call.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Where to attach the mount.
    place: Arc<Place>,
    /// The request that the mount is for.
    pub intent: PublishIntent,
    /// The dead mounts that the mount replaces, the visible one first.
    dead: Vec<Mount>,
    /// Whether the volume's files have the group that was requested, as far as the server allows it.
    regrouped: bool,
    cancelled: Arc<Mutex<bool>>,
}

/// How attaching ended.
#[derive(Debug)]
pub enum Outcome {
    /// The mount is attached to its target.
    Attached {
        /// The root directory of the mount.
        root: Identity,
        /// The dead mounts that were detached, with their roots. [`end`](crate::node::detach::end) ends them.
        detached: Vec<(Mount, OwnedFd)>,
        /// Why the server refused to set the group or mode of the root.
        refused: Option<Status>,
        /// The unique ID of the mount, if the kernel has it, and the ID that the mount table shows.
        ids: (Option<u64>, u64),
    },
    /// The root directory has another group than requested, and so may the volume's files. The mount is not attached.
    OtherGroup(Held<NewMount>),
    /// The root directory no longer exists on the server, and the mount was dropped.
    Stale,
}

impl AttachCancel {
    /// Prepares to attach a mount for `intent` at `place`, in place of the `dead` mounts, unless this is cancelled
    /// first.
    pub fn attach(&self, place: Arc<Place>, intent: PublishIntent, dead: Vec<Mount>) -> Attach {
        Attach { place, intent, dead, regrouped: false, cancelled: Arc::clone(&self.0) }
    }
}

impl Drop for AttachCancel {
    fn drop(&mut self) {
        // The lock waits while a mount is being attached, which asks no server.
        *lock(&self.0) = true;
    }
}

impl Attach {
    /// The same, once the volume's files have the group that was requested.
    pub fn regrouped(self) -> Self {
        Self { regrouped: true, ..self }
    }

    /// Where the mount is to be attached.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Attaches the mount, for whose server `gate` is. May block.
    ///
    /// # Errors
    /// [`Error::Export`] if the server fails to set the attributes, other than by refusing it; [`Error::Precondition`]
    /// and [`Error::Internal`] if the target cannot take the mount, or if the call has given up.
    pub fn run(&self, gate: &Gate, mount: NewMount) -> Result<Outcome> {
        let now = Root::ask(mount.as_fd());
        if now == Err(Errno::STALE) {
            return Ok(Outcome::Stale);
        }
        let mut refused = None;
        // A volume that is published read-only is not changed.
        if !self.intent.options.read_only() && self.intent.root_attributes != RootAttributes::default() {
            let other_group = now.is_ok_and(|now| self.intent.root_attributes.other_group(now).is_some());
            if other_group && !self.regrouped {
                return Ok(Outcome::OtherGroup(gate.hold(mount)));
            }
            refused = self.set_attributes(&mount, now)?;
        }
        // Other failures of the server do not stop publishing; the volume's users see them.
        let known = now
            .or_else(|_| Root::known(mount.as_fd()))
            .map_err(|errno| self.failed("reading the root directory of the mount", errno))?;
        let cancelled = lock(&self.cancelled);
        if *cancelled {
            return Err(Error::Internal(format!(
                "{} was mounted too late: the call for {} has ended",
                self.intent.source, self.place
            )));
        }
        let mut detached = Vec::new();
        for dead in &self.dead {
            detached.extend(detach(&self.place, dead)?.map(|root| (dead.clone(), root)));
        }
        self.attach(&mount)?;
        Ok(Outcome::Attached { root: known.identity, detached, refused, ids: mount_ids(mount.as_fd()) })
    }

    /// Returns why the server refuses it, if it does: the volume is published all the same.
    fn set_attributes(&self, mount: &NewMount, now: rustix::io::Result<Root>) -> Result<Option<Status>> {
        let RootAttributes { group, mode } = self.intent.root_attributes;
        match now.and_then(|now| self.intent.root_attributes.set(mount.as_fd(), now)) {
            Ok(()) => Ok(None),
            Err(errno) if is_refused(errno) => {
                let status = Status::from(errno);
                tracing::warn!(
                    source = %self.intent.source, target = %self.place, %status, group,
                    mode = mode.map(|mode| format!("{mode:o}")),
                    "the server refuses to set group and mode of the volume's root directory (fsGroup, \
                     mountPermissions); the volume is published without them"
                );
                Ok(Some(status))
            }
            Err(errno) => Err(Error::Export {
                export: self.intent.source.to_string(),
                action: "setting group and mode of the volume's root directory (volume_mount_group, mountPermissions)"
                    .to_owned(),
                status: errno.into(),
            }),
        }
    }

    fn attach(&self, mount: &NewMount) -> Result<()> {
        let place = &self.place;
        let made = place.create()?;
        place.attach(mount).map_err(|errno| {
            if made && let Err(error) = place.remove() {
                tracing::warn!(target = %place, %error, "cannot remove the directory that was created for the mount");
            }
            self.failed("attaching the mount", errno)
        })
    }

    fn failed(&self, action: &str, errno: Errno) -> Error {
        Error::Internal(format!("{}: {action}: {errno}{}", self.place, selinux::hint(errno)))
    }
}

fn lock(cancelled: &Mutex<bool>) -> MutexGuard<'_, bool> {
    cancelled.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
            read_only_by_mode: false,
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        }
    }

    /// An `Attach` for a path that `cancel` cancels.
    fn attach_at(cancel: &AttachCancel, path: &std::path::Path) -> Attach {
        let target = Target::try_from(path).unwrap();
        let place = Arc::new(target.find().unwrap().unwrap());
        cancel.attach(place, intent(&target), Vec::new())
    }

    #[test]
    fn nothing_is_attached_for_a_call_that_has_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let cancel = AttachCancel::default();
        let attach = attach_at(&cancel, &target);
        drop(cancel);
        let root = NewMount::detached(std::fs::File::open(dir.path()).unwrap().into());
        assert!(matches!(attach.run(&Gate::of_this_machine(), root), Err(Error::Internal(_))));
        assert!(!target.exists());
    }

    #[test]
    fn a_created_target_is_removed_if_the_mount_cannot_be_attached() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let cancel = AttachCancel::default();
        // A directory that is not a mount cannot be moved.
        let root = NewMount::detached(std::fs::File::open(dir.path()).unwrap().into());
        let outcome = attach_at(&cancel, &target).run(&Gate::of_this_machine(), root);
        assert!(matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
        assert!(!target.exists());
    }

    #[test]
    fn the_root_directory_has_the_requested_mode_before_it_is_attached_unless_the_volume_is_read_only() {
        for (options, mode) in [("", 0o750), ("ro", 0o700)] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
            let cancel = AttachCancel::default();
            let mut attach = attach_at(&cancel, &dir.path().join("target"));
            attach.intent.root_attributes.mode = Some(0o750);
            attach.intent.options = MountOptions::parse("", [options]).unwrap();
            // A directory that is not a mount is not attached.
            let root = NewMount::detached(std::fs::File::open(dir.path()).unwrap().into());
            attach.run(&Gate::of_this_machine(), root).unwrap_err();
            assert_eq!(dir.path().metadata().unwrap().permissions().mode() & 0o7777, mode, "{options}");
        }
    }
}
