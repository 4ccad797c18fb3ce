//! Opens names below a directory without following symbolic links: openat2(2), and what comes close to it on kernels
//! before 5.6, which do not have it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;
use rustix::path::Arg;

/// No symbolic link is followed.
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);
/// One name in this file system, which may be `..`.
const HERE: ResolveFlags = NO_LINKS.union(ResolveFlags::NO_XDEV);
/// One name below the directory, in this file system.
const BELOW: ResolveFlags = HERE.union(ResolveFlags::BENEATH);
/// Any path below the directory.
const PATH_BELOW: ResolveFlags = NO_LINKS.union(ResolveFlags::BENEATH);

/// Opens one name in `dir`, in the same file system. `flags` must have O_NOFOLLOW.
pub fn open_below(dir: impl AsFd, name: impl Arg + Copy, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    or_step(openat2(&dir, name, flags, mode, BELOW), || step(&dir, name, flags, mode))
}

/// Opens `.` or `..` of `dir`, in the same file system. `flags` must have O_NOFOLLOW.
pub fn open_here(dir: impl AsFd, name: impl Arg + Copy, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    or_step(openat2(&dir, name, flags, Mode::empty(), HERE), || step(&dir, name, flags, Mode::empty()))
}

/// Opens a directory by its path below `dir`, as a place only (O_PATH). It may be in another file system.
pub fn open_directory(dir: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    or_step(openat2(&dir, path, flags, Mode::empty(), PATH_BELOW), || {
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(Errno::INVAL);
        }
        let mut names = path.split('/');
        let first = directory(dir.as_fd(), names.next().unwrap_or_default())?;
        names.try_fold(first, |dir, name| directory(dir.as_fd(), name))
    })
}

/// Opens one name, which must be a directory and not a symbolic link.
fn directory(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).map_err(|errno| {
        let unfollowed = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        match statx(dir, name, unfollowed, StatxFlags::TYPE) {
            Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()).is_symlink() => Errno::LOOP,
            _ => errno,
        }
    })
}

fn or_step(
    opened: rustix::io::Result<OwnedFd>,
    step: impl FnOnce() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    if opened.as_ref().err() == Some(&Errno::NOSYS) { step() } else { opened }
}

/// Opens one name as openat(2) can: it enters another file system first, and then finds that out.
fn step(dir: impl AsFd, name: impl Arg, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let opened = openat(&dir, name, flags | OFlags::NOFOLLOW, mode)?;
    if file_system(&opened)? != file_system(&dir)? {
        return Err(Errno::XDEV);
    }
    Ok(opened)
}

/// `st_dev`, without asking a server.
fn file_system(object: impl AsFd) -> rustix::io::Result<(u32, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(object, "", flags, StatxFlags::TYPE)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use rstest::rstest;

    use super::*;

    const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

    fn errno<T>(result: rustix::io::Result<T>) -> Option<Errno> {
        result.err()
    }

    #[rstest]
    #[case::openat2(|dir: &File, name: &str, flags: OFlags| open_below(dir, name, flags, Mode::empty()))]
    #[case::older_kernels(|dir: &File, name: &str, flags: OFlags| step(dir, name, flags, Mode::empty()))]
    fn one_name_leads_neither_through_a_link_nor_out_of_the_file_system(
        #[case] open: fn(&File, &str, OFlags) -> rustix::io::Result<OwnedFd>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inside")).unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let here = File::open(dir.path()).unwrap();
        open(&here, "inside", PLACE | OFlags::DIRECTORY).unwrap();
        assert!(errno(open(&here, "link", PLACE | OFlags::DIRECTORY)).is_some());
        let link = open(&here, "link", PLACE).unwrap();
        let kind = statx(&link, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).unwrap().stx_mode;
        assert!(FileType::from_raw_mode(kind.into()).is_symlink(), "the link itself, as a place");
        assert_eq!(errno(open(&File::open("/").unwrap(), "proc", PLACE)), Some(Errno::XDEV));
        assert_eq!(errno(open(&here, "missing", PLACE)), Some(Errno::NOENT));
    }

    #[test]
    fn a_path_is_opened_one_name_at_a_time_where_openat2_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("/", dir.path().join("a/link")).unwrap();
        let here = File::open(dir.path()).unwrap();
        open_directory(&here, "a/b").unwrap();
        for refused in ["a/link", "a/link/proc", "../b", "a/missing"] {
            assert!(open_directory(&here, refused).is_err(), "{refused}");
        }
        let a = directory(here.as_fd(), "a").unwrap();
        directory(a.as_fd(), "b").unwrap();
        assert_eq!(errno(directory(a.as_fd(), "link")), Some(Errno::LOOP));
        assert_eq!(errno(directory(a.as_fd(), "missing")), Some(Errno::NOENT));
    }
}
