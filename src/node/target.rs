//! The target where a volume is published: a path that the CO names, and the directory there.
//!
//! The driver opens the parent of a target once and uses its descriptor. So every step works on the same directory,
//! even if something is renamed meanwhile. If the target itself is a symbolic link, the driver does not follow it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mount::new_mount::NewMount;
use crate::mount::selinux;
use crate::nfs::name::Name;
use crate::nfs::text::excerpt;

/// PATH_MAX of Linux without the closing NUL.
const PATH_MAX: usize = 4095;

/// The mode of a target that the driver creates. kubelet uses the same mode.
const DIRECTORY_MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);

/// STATX_MNT_ID_UNIQUE of statx(2).
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// An absolute path below the root, without `.` and `..`: CSI's `target_path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target(PathBuf);

impl Target {
    /// Parses a path; `field` is the caller's name for it, for the error.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let bad = |reason: &str| Err(Error::invalid(field, format!("`{}`: {reason}", excerpt(text))));
        if text.is_empty() {
            return Err(Error::invalid(field, "missing: an absolute path on this node"));
        }
        if text.len() > PATH_MAX {
            return bad("a path has at most 4095 bytes");
        }
        if text.contains('\0') {
            return bad("a path cannot contain NUL");
        }
        if !text.starts_with('/') {
            return bad("not an absolute path");
        }
        if text.split('/').any(|name| name == "." || name == "..") {
            return bad("`.` and `..` cannot be components of the path");
        }
        if text.split('/').any(|name| name.len() > Name::MAX) {
            return bad("a component of a path has at most 255 bytes");
        }
        let path: PathBuf = Path::new(text).components().collect();
        if path.file_name().is_none() {
            return bad("the root directory cannot hold a volume");
        }
        Ok(Self(path))
    }

    /// Finds the place on this node's file system. Returns `None` if the parent directory does not exist. Blocks.
    pub fn find(&self) -> Result<Option<Place>> {
        let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name()) else {
            return Err(Error::Internal(format!("{self} has no parent directory")));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
            Ok(parent) => parent,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(self, "opening its parent directory", error)),
        };
        let real = std::fs::read_link(descriptor_path(&parent))
            .map_err(|error| Error::Internal(format!("{self}: reading the path of its parent directory: {error}")))?;
        Ok(Some(Place { path: real.join(name), name: name.to_owned(), parent }))
    }
}

impl TryFrom<&Path> for Target {
    type Error = Error;

    fn try_from(path: &Path) -> Result<Self> {
        let text = path.to_str().ok_or_else(|| Error::Internal(format!("{} is not UTF-8", path.display())))?;
        Self::parse("path", text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

/// A target on this node's file system: its open parent, and its name in the parent. Its methods block.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    /// The path with resolved symbolic links, as the mount table shows it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path for system calls that take no descriptor. It goes through the open parent and not through the parent's
    /// name.
    pub fn call_path(&self) -> PathBuf {
        descriptor_path(&self.parent).join(&self.name)
    }

    /// Whether something may be mounted at the target. Since Linux 5.8 the kernel says this without the mount table; on
    /// older kernels the result is true. Asks no server.
    pub fn may_be_mount(&self) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.parent, &self.name, flags, StatxFlags::TYPE) {
            Ok(stat) if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
                stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            }
            Err(Errno::NOENT) => false,
            Ok(_) | Err(_) => true,
        }
    }

    /// The unique ID of the visible mount at the target, and the ID that the mount table shows. Asks no server. See
    /// [`mount_ids`].
    pub fn mount_ids(&self) -> (Option<u64>, u64) {
        ids(self.parent.as_fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Whether the target is a directory. Anything else that exists is an error: the driver must not touch it.
    ///
    /// Asks no server, even if the directory is the root of an NFS mount.
    pub fn is_directory(&self) -> Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let stat = match rustix::fs::statx(&self.parent, &self.name, flags, StatxFlags::TYPE) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(failed(self, "reading its type", error)),
        };
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Ok(true),
            FileType::Symlink => Err(occupied(self, "a symbolic link")),
            _ => Err(occupied(self, "a file")),
        }
    }

    /// Creates the directory, as CSI requires of the driver. Returns true if it did not exist.
    pub fn create(&self) -> Result<bool> {
        match rustix::fs::mkdirat(&self.parent, &self.name, DIRECTORY_MODE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if self.is_directory()? => Ok(false),
            Err(error) => Err(failed(self, "creating the directory", error)),
        }
    }

    /// Attaches the mount to the directory: see [`NewMount::attach`].
    pub fn attach(&self, mount: &NewMount) -> rustix::io::Result<()> {
        mount.attach(self.parent.as_fd(), &self.name)
    }

    /// Removes the directory. Returns true if it existed. A directory that is not empty is an error, and stays.
    pub fn remove(&self) -> Result<bool> {
        match rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTEMPTY) => Err(Error::Precondition(format!(
                "{self} is not a mount and not empty: something wrote there while no volume was mounted; save its \
                 content and empty the directory, which the driver does not delete"
            ))),
            Err(Errno::NOTDIR) => Err(occupied(self, "a file or a symbolic link")),
            Err(error) => Err(failed(self, "removing the directory", error)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// The unique ID of the mount with this root, which no other mount ever gets, and the ID that the mount table shows.
/// Linux has the first one since 6.8, and the second one since 5.8; older kernels say 0. Asks no server.
pub fn mount_ids(root: BorrowedFd<'_>) -> (Option<u64>, u64) {
    ids(root, OsStr::new(""), AtFlags::EMPTY_PATH)
}

fn ids(dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> (Option<u64>, u64) {
    let flags = flags | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let id = |field: StatxFlags| {
        let stat = rustix::fs::statx(dir, name, flags, field).ok()?;
        let is_known = stat.stx_mask & field.bits() != 0;
        let is_mount = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        (is_known && is_mount).then_some(stat.stx_mnt_id)
    };
    (id(UNIQUE_ID), id(StatxFlags::MNT_ID).unwrap_or_default())
}

fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

fn occupied(place: &Place, what: &str) -> Error {
    Error::Precondition(format!("{place} is {what}, not a directory: a volume cannot be mounted there; move it away"))
}

fn failed(path: &impl fmt::Display, action: &str, error: Errno) -> Error {
    Error::Internal(format!("{path}: {action}: {error}{}", selinux::hint(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rstest::rstest;

    use super::*;

    fn target(path: &Path) -> Target {
        Target::parse("target_path", path.to_str().unwrap()).unwrap()
    }

    fn place(path: &Path) -> Place {
        target(path).find().unwrap().unwrap()
    }

    #[rstest]
    fn an_invalid_target_is_rejected(
        #[values("", "/", "//", "a", "./a", "../a", "/..", "/a/../b", "/a/.", "/a\0", "--bind")] text: &str,
    ) {
        assert!(matches!(Target::parse("target_path", text), Err(Error::Invalid { .. })), "{text:?}");
    }

    #[test]
    fn a_path_that_is_too_long_for_linux_is_rejected() {
        assert!(Target::parse("target_path", &"/n".repeat(2047)).is_ok());
        assert!(Target::parse("target_path", &"/n".repeat(2500)).is_err());
        assert!(Target::parse("target_path", &format!("/{}", "n".repeat(256))).is_err());
    }

    #[test]
    fn doubled_and_closing_slashes_do_not_matter() {
        assert_eq!(Target::parse("t", "//a//b/").unwrap(), Target::parse("t", "/a/b").unwrap());
    }

    #[test]
    fn symbolic_links_above_the_target_are_resolved_in_its_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let place = place(&dir.path().join("link/target"));
        assert_eq!(place.path(), dir.path().canonicalize().unwrap().join("real/target"));
    }

    #[test]
    fn a_missing_parent_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        assert!(target(&dir.path().join("missing/target")).find().unwrap().is_none());
        assert!(!dir.path().join("missing").exists());
    }

    #[test]
    fn a_directory_is_created_for_owner_and_group_and_removed_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir.path().join("target"));
        assert!(!place.is_directory().unwrap());
        assert!(place.create().unwrap());
        assert!(!place.create().unwrap());
        assert_eq!(std::fs::metadata(place.path()).unwrap().permissions().mode() & 0o007, 0);
        assert!(place.remove().unwrap());
        assert!(!place.remove().unwrap());
    }

    #[rstest]
    #[case("/", "proc", true)]
    #[case("/proc", "self", false)]
    #[case("/", "no such name", false)]
    fn a_mount_is_distinguished_from_a_directory_without_the_table(
        #[case] parent: &str,
        #[case] name: &str,
        #[case] mount: bool,
    ) {
        assert_eq!(place(&Path::new(parent).join(name)).may_be_mount(), mount);
    }

    #[test]
    fn data_in_a_target_is_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir.path().join("target"));
        place.create().unwrap();
        std::fs::write(place.path().join("data"), "kept").unwrap();
        assert!(matches!(place.remove(), Err(Error::Precondition(_))));
        assert_eq!(std::fs::read(place.path().join("data")).unwrap(), b"kept");
    }

    #[test]
    fn a_file_or_a_symbolic_link_at_a_target_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "kept").unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        for name in ["file", "link"] {
            let place = place(&dir.path().join(name));
            assert!(matches!(place.is_directory(), Err(Error::Precondition(_))), "{name}");
            assert!(matches!(place.create(), Err(Error::Precondition(_))), "{name}");
            assert!(matches!(place.remove(), Err(Error::Precondition(_))), "{name}");
            assert!(dir.path().join(name).symlink_metadata().is_ok(), "{name}");
        }
    }

    #[test]
    fn a_place_stays_the_same_directory_when_its_parent_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("old")).unwrap();
        let place = place(&dir.path().join("old/target"));
        std::fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
        place.create().unwrap();
        assert!(dir.path().join("new/target").is_dir());
        assert_eq!(
            std::fs::canonicalize(place.call_path()).unwrap(),
            dir.path().canonicalize().unwrap().join("new/target")
        );
    }
}
