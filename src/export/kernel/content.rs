//! What a server can do with content by itself: find holes, clone, copy.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::export::fs::{FsResult, Seek, Status};
use crate::export::kernel::calls::{retry, seen};

/// lseek(2) with SEEK_DATA or SEEK_HOLE.
pub(super) fn seek(file: BorrowedFd<'_>, offset: u64, what: Seek) -> FsResult<Option<u64>> {
    // Linux uses signed file offsets.
    if i64::try_from(offset).is_err() {
        return Ok(None);
    }
    let whence = match what {
        Seek::Data => SeekFrom::Data(offset),
        Seek::Hole => SeekFrom::Hole(offset),
    };
    match rustix::io::retry_on_intr(|| rustix::fs::seek(file, whence)) {
        Err(Errno::NXIO) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// ioctl(2), FICLONE. The attributes of the target came with the server's answer.
pub(super) fn clone_file(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> FsResult<u64> {
    retry(|| rustix::fs::ioctl_ficlone(target, source)).map_err(unsupported)?;
    seen(target.as_fd()).map(|attr| attr.size)
}

/// One copy_file_range(2).
pub(super) fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>, offset: u64, length: u64) -> FsResult<u64> {
    if i64::try_from(offset).is_err() {
        return Err(Status::Inval);
    }
    // The server would copy more than this in parts anyway.
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
    let (mut from, mut to) = (offset, offset);
    let copied = retry(|| rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length))?;
    Ok(copied as u64)
}

/// File systems that cannot clone return one of several errors.
fn unsupported(status: Status) -> Status {
    match status {
        Status::Inval => Status::NotSupp,
        Status::Other(errno) if errno == Errno::NOTTY.raw_os_error() => Status::NotSupp,
        other => other,
    }
}
