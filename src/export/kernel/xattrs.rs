//! Extended attributes, of objects that are held as places too.

use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::calls::{itself, no_proc, retry};
use crate::export::fs::{FsResult, Kind, Status, is_tenants_xattr};

/// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux.
const MOST: usize = 64 << 10;

/// listxattr(2).
pub(super) fn list(object: BorrowedFd<'_>, kind: Kind) -> FsResult<Vec<Vec<u8>>> {
    check(kind)?;
    let path = itself(object);
    let names = sized(|buffer| rustix::fs::listxattr(&*path, buffer)).map_err(no_proc)?;
    Ok(names.split(|byte| *byte == 0).filter(|name| is_tenants_xattr(name)).map(<[u8]>::to_vec).collect())
}

/// getxattr(2).
pub(super) fn get(object: BorrowedFd<'_>, kind: Kind, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
    check(kind)?;
    let path = itself(object);
    match sized(|buffer| rustix::fs::getxattr(&*path, name, buffer)) {
        Err(Status::Other(errno)) if errno == Errno::NODATA.raw_os_error() => Ok(None),
        value => value.map(Some).map_err(no_proc),
    }
}

/// setxattr(2).
pub(super) fn set(object: BorrowedFd<'_>, kind: Kind, name: &[u8], value: &[u8]) -> FsResult<()> {
    check(kind)?;
    let path = itself(object);
    retry(|| rustix::fs::setxattr(&*path, name, value, XattrFlags::empty())).map_err(no_proc)
}

/// On anything else Linux keeps none for tenants.
fn check(kind: Kind) -> FsResult<()> {
    if matches!(kind, Kind::File | Kind::Directory) { Ok(()) } else { Err(Status::Inval) }
}

/// What `call` puts into a buffer: a small one, and where that is too small the largest.
fn sized(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> FsResult<Vec<u8>> {
    let mut buffer = vec![0; 1 << 10];
    let length = match rustix::io::retry_on_intr(|| call(&mut buffer)) {
        Err(Errno::RANGE) => {
            buffer.resize(MOST, 0);
            retry(|| call(&mut buffer))?
        }
        length => length?,
    };
    buffer.truncate(length);
    Ok(buffer)
}
