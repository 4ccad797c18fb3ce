//! Objects that are made neither by open(2) nor by mkdir(2): links, FIFOs, sockets, devices.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, makedev};

use crate::export::fs::{Attr, FsResult, Kind, Name, Status};
use crate::export::kernel::calls::{self, OBJECT, itself, no_proc, open_below, retry, stale_if_removed};

/// symlink(2), then opens the new link.
pub(super) fn symlink(dir: BorrowedFd<'_>, name: &Name, target: &[u8]) -> FsResult<(OwnedFd, Attr)> {
    retry(|| rustix::fs::symlinkat(target, dir, name.as_bytes())).map_err(stale_if_removed(dir))?;
    made(dir, name)
}

/// mknod(2), then opens the new object.
pub(super) fn mknod(
    dir: BorrowedFd<'_>,
    name: &Name,
    kind: Kind,
    mode: u32,
    (major, minor): (u32, u32),
) -> FsResult<(OwnedFd, Attr)> {
    let (file_type, device) = match kind {
        Kind::Fifo => (FileType::Fifo, 0),
        Kind::Socket => (FileType::Socket, 0),
        Kind::CharDevice => (FileType::CharacterDevice, makedev(major, minor)),
        Kind::BlockDevice => (FileType::BlockDevice, makedev(major, minor)),
        Kind::File | Kind::Directory | Kind::Symlink => return Err(Status::Inval),
    };
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::mknodat(dir, name.as_bytes(), file_type, mode, device)).map_err(stale_if_removed(dir))?;
    made(dir, name)
}

/// linkat(2) of the object itself.
pub(super) fn link(object: BorrowedFd<'_>, kind: Kind, dir: BorrowedFd<'_>, name: &Name) -> FsResult<()> {
    if kind == Kind::Directory {
        return Err(Status::IsDir);
    }
    let path = itself(object);
    retry(|| rustix::fs::linkat(CWD, &*path, dir, name.as_bytes(), AtFlags::SYMLINK_FOLLOW))
        .map_err(calls::other_project)
        .map_err(stale_if_removed(dir))
        .map_err(stale_if_removed(object))
        .map_err(no_proc)
}

/// readlink(2) of the link itself.
pub(super) fn readlink(link: BorrowedFd<'_>, kind: Kind) -> FsResult<Vec<u8>> {
    if kind != Kind::Symlink {
        return Err(Status::Inval);
    }
    let target = retry(|| rustix::fs::readlinkat(link, "", Vec::new()))?;
    Ok(target.into_bytes())
}

fn made(dir: BorrowedFd<'_>, name: &Name) -> FsResult<(OwnedFd, Attr)> {
    let object = open_below(dir, name.as_bytes(), OBJECT, 0)?;
    let attr = calls::seen(object.as_fd())?;
    Ok((object, attr))
}
