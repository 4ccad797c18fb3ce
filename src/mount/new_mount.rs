//! A new mount of NFS, made by the calls that the kernel has: fsopen(2) and its family, or mount(2).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::mount::fsmount::{self, Failure, LOOK_BELOW, Request};
use crate::mount::older::{self, PrivateDirectories, PrivateDirectory};
use crate::mount::table::Mount;

/// A mount that no other process uses yet. It ends when this is dropped, unless it was attached. All functions here may
/// block until the server answers, so only call them through the gate.
#[derive(Debug)]
pub struct NewMount {
    /// Where the mount is, if the kernel mounts in directories only.
    directory: Option<PrivateDirectory>,
    root: OwnedFd,
}

impl NewMount {
    /// Makes the mount.
    pub fn make(directories: &PrivateDirectories, request: &Request) -> Result<Self, Failure> {
        let has_fsopen = fsmount::has_fsopen();
        let mount = |source: &str, below| match has_fsopen {
            true => fsmount::detached(request, source, below).map(Self::detached),
            false => directories
                .mount(request, source, below)
                .map(|(root, directory)| Self { directory: Some(directory), root }),
        };
        let made = match (mount(&request.source, None), &request.parts) {
            (Err(failure), Some((share, below))) if is_path_refused(failure.errno) => {
                mount(share, Some(below)).map_err(|second| if second.call == LOOK_BELOW { second } else { failure })
            }
            (made, _) => made,
        }?;
        // NFS can also mount a file.
        let attributes = statx(&made, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)
            .map_err(Failure::of("statx"))?;
        match FileType::from_raw_mode(attributes.stx_mode.into()) {
            FileType::Directory => Ok(made),
            _ => Err(Failure::of("statx")(Errno::NOTDIR)),
        }
    }

    /// The mount with this root, which is in no directory.
    pub fn detached(root: OwnedFd) -> Self {
        Self { directory: None, root }
    }

    /// Attaches the mount to the directory `name` in `parent`, and does not follow a symbolic link. The mount then
    /// outlives this value. Does not wait for the server.
    pub fn attach(&self, parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
        match self.directory {
            None => move_mount(&self.root, "", parent, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH),
            Some(_) => older::move_to(self.root.as_fd(), parent, name),
        }
    }

    /// The root of the mount, which from now on ends with its last descriptor and can no longer be attached.
    pub fn into_root(self) -> OwnedFd {
        let Self { directory, root } = self;
        drop(directory);
        root
    }

    /// What the mount table of this process shows of the mount; `None` if it is in no directory.
    pub fn in_table(&self) -> Option<Result<Mount, Failure>> {
        self.directory.as_ref()?;
        Some(older::in_table(self.root.as_fd()).map_err(Failure::of("mountinfo")))
    }
}

impl AsFd for NewMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Whether mountd may have refused the path and not the client: then it may still mount the share.
fn is_path_refused(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::NOTDIR | Errno::INVAL)
}

/// Finds out how this kernel mounts NFS. Loads the kernel's module. Returns the call's name in the man pages.
///
/// # Errors
/// What the kernel lacks, or what this process may not do.
pub fn check_kernel() -> Result<&'static str, Failure> {
    statx(CWD, "/", AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).map_err(Failure::of("statx"))?;
    match fsmount::has_fsopen() {
        true => fsmount::check().map(|()| "fsopen"),
        false => older::check().map(|()| "mount"),
    }
}
