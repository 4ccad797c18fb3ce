//! Mounts on kernels that have neither fsopen(2) nor move_mount(2), such as the 4.18 of RHEL 8: mount(2) at a private
//! directory, which MS_MOVE then moves to the target.
//!
//! mount(2) needs a path. So the process mounts a tmpfs of its own, on a directory that every container has and none
//! uses, and each new mount gets a directory in it. All paths go through a descriptor of that tmpfs. A process that is
//! killed leaves the tmpfs to its mount namespace, which in a container ends with it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, mkdir, open, openat, rmdir};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move, unmount,
};

use crate::mount::beneath;
use crate::mount::fsmount::{Failure, LOOK_BELOW, NFS, Request, data, flags};
use crate::mount::table::{Mount, Table};
use crate::nfs::source::SubDir;

/// Where the tmpfs is.
const BASE: &str = "/proc/driver";
/// A directory as a place only.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The private directories of a process; none before the first mount.
#[derive(Debug, Default)]
pub struct PrivateDirectories(Mutex<Option<Arc<Tmpfs>>>);

/// The tmpfs with the directories. Dropping it unmounts it.
#[derive(Debug)]
struct Tmpfs {
    root: OwnedFd,
    last: AtomicU64,
}

/// A private directory, and what is mounted there. Dropping it detaches the mount, unless it was moved.
#[derive(Debug)]
pub struct PrivateDirectory {
    name: String,
    tmpfs: Arc<Tmpfs>,
}

impl PrivateDirectories {
    /// Mounts `source`, or the directory `below` it. Returns a descriptor of the root directory, and where the mount
    /// is.
    ///
    /// # Errors
    /// The call that failed; [`LOOK_BELOW`] if the server mounts the source, but has no such directory below it.
    pub fn mount(
        &self,
        request: &Request,
        source: &str,
        below: Option<&SubDir>,
    ) -> Result<(OwnedFd, PrivateDirectory), Failure> {
        let tmpfs = self.tmpfs()?;
        let directory = PrivateDirectory::make(&tmpfs)?;
        let data = data(request)?;
        mount(source, directory.path(), NFS, flags(request.attributes), data.as_c_str())
            .map_err(Failure::of("mount"))?;
        let root = directory.root().map_err(Failure::of("open"))?;
        let Some(below) = below else { return Ok((root, directory)) };
        let part = beneath::open_directory(&root, below.as_str()).map_err(Failure::of(LOOK_BELOW))?;
        // Only the root of a mount can be moved.
        let directory = PrivateDirectory::make(&tmpfs)?;
        mount_bind(path_of(part.as_fd()), directory.path()).map_err(Failure::of("mount --bind"))?;
        Ok((directory.root().map_err(Failure::of("open"))?, directory))
    }

    fn tmpfs(&self) -> Result<Arc<Tmpfs>, Failure> {
        let mut mounted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match mounted.as_ref() {
            Some(tmpfs) => Ok(Arc::clone(tmpfs)),
            None => Ok(Arc::clone(mounted.insert(Arc::new(Tmpfs::mount()?)))),
        }
    }
}

impl Tmpfs {
    fn mount() -> Result<Self, Failure> {
        let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("csi-nfs", BASE, "tmpfs", harmless, Some(c"mode=0700")).map_err(Failure::of("mount"))?;
        let root = open(BASE, PLACE, Mode::empty()).map_err(Failure::of("open"))?;
        let tmpfs = Self { root, last: AtomicU64::new(0) };
        // Nothing that is mounted in it is seen elsewhere, and the kernel moves mounts out of private mounts only.
        mount_change(tmpfs.path(), MountPropagationFlags::PRIVATE).map_err(Failure::of("mount"))?;
        Ok(tmpfs)
    }

    fn path(&self) -> PathBuf {
        path_of(self.root.as_fd())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(errno) = unmount(self.path(), UnmountFlags::DETACH) {
            tracing::warn!(%errno, BASE, "cannot unmount the directory for new mounts");
        }
    }
}

impl PrivateDirectory {
    fn make(tmpfs: &Arc<Tmpfs>) -> Result<Self, Failure> {
        let name = tmpfs.last.fetch_add(1, Ordering::Relaxed).to_string();
        let directory = Self { name, tmpfs: Arc::clone(tmpfs) };
        mkdir(directory.path(), Mode::RWXU).map_err(Failure::of("mkdir"))?;
        Ok(directory)
    }

    fn path(&self) -> PathBuf {
        self.tmpfs.path().join(&self.name)
    }

    /// A descriptor of what is mounted here.
    fn root(&self) -> rustix::io::Result<OwnedFd> {
        openat(CWD, self.path(), PLACE, Mode::empty())
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        match unmount(self.path(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // The mount was moved, or was not made.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => tracing::warn!(%errno, "cannot detach a mount that was not attached to its target"),
        }
        // The tmpfs ends with the process.
        let _ = rmdir(self.path());
    }
}

/// Moves the mount with this root to a directory, and does not follow a symbolic link there.
pub fn move_to(root: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    // A path through the descriptor leads to the directory itself, whatever has its name by now.
    let target = openat(parent, name, PLACE, Mode::empty())?;
    mount_move(path_of(root), path_of(target.as_fd()))
}

/// What the mount table of this process shows of the mount with this root.
pub fn in_table(root: BorrowedFd<'_>) -> rustix::io::Result<Mount> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd())).map_err(errno_of)?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    let table = Table::read_at(CWD, "/proc/self/mountinfo")?;
    table.mounts().find(|mount| Some(mount.id) == id).cloned().ok_or(Errno::NOENT)
}

/// Whether the kernel has an NFS client that mount(2) finds.
///
/// # Errors
/// What mount(2) answers if it has none, or if this process may not mount.
pub fn check() -> Result<(), Failure> {
    // NFS always refuses a mount without options, and loads its module first.
    match mount("none", BASE, NFS, MountFlags::empty(), None) {
        Err(errno @ (Errno::NODEV | Errno::PERM | Errno::NOSYS | Errno::ACCESS)) => Err(Failure::of("mount")(errno)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn path_of(descriptor: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tmpfs in a private directory, as NFS would be.
    fn mounted(directories: &PrivateDirectories) -> (OwnedFd, PrivateDirectory) {
        let directory = PrivateDirectory::make(&directories.tmpfs().unwrap()).unwrap();
        mount("mark", directory.path(), "tmpfs", MountFlags::RDONLY, None).unwrap();
        (directory.root().unwrap(), directory)
    }

    /// Runs in a mount namespace of its own, so that the tests do not see each other's mounts.
    fn alone(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            crate::mount::fsmount::unshare_mounts().unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            test();
        });
        thread.join().unwrap();
    }

    fn count() -> usize {
        Table::read_at(CWD, "/proc/thread-self/mountinfo").unwrap().mounts().count()
    }

    #[test]
    fn a_mount_is_moved_to_its_target_and_stays_there() {
        alone(|| {
            let before = count();
            let place = tempfile::tempdir().unwrap();
            std::fs::create_dir(place.path().join("target")).unwrap();
            let parent = std::fs::File::open(place.path()).unwrap();
            let directories = PrivateDirectories::default();
            let (root, directory) = mounted(&directories);
            move_to(root.as_fd(), parent.as_fd(), OsStr::new("target")).unwrap();
            drop((root, directory, directories));
            assert_eq!(count(), before + 1);
            unmount(place.path().join("target"), UnmountFlags::empty()).unwrap();
        });
    }

    #[test]
    fn a_mount_that_is_not_moved_ends_with_its_last_descriptor_and_leaves_nothing() {
        alone(|| {
            let before = count();
            let directories = PrivateDirectories::default();
            let (root, directory) = mounted(&directories);
            drop(directory);
            assert_eq!(count(), before + 1, "only the private tmpfs");
            rustix::fs::fstatfs(&root).unwrap();
            drop(directories);
            assert_eq!(count(), before);
        });
    }

    #[test]
    fn a_symbolic_link_in_place_of_the_target_is_not_followed() {
        alone(|| {
            let place = tempfile::tempdir().unwrap();
            std::fs::create_dir(place.path().join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("elsewhere", place.path().join("target")).unwrap();
            let parent = std::fs::File::open(place.path()).unwrap();
            let directories = PrivateDirectories::default();
            let (root, _directory) = mounted(&directories);
            move_to(root.as_fd(), parent.as_fd(), OsStr::new("target")).unwrap_err();
            assert!(std::fs::read_dir(place.path().join("elsewhere")).unwrap().next().is_none());
        });
    }
}
