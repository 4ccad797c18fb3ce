//! Extended attributes, also of objects that are open as places only.

use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::export::fs::{FsResult, Kind, Status, is_tenants_xattr};
use crate::export::kernel::calls::{itself, no_proc, retry};

/// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux.
const MOST: usize = 64 << 10;

/// How the extended attributes of an object are reached.
pub(super) enum Object<'a> {
    /// By path: there are no calls for an O_PATH descriptor.
    Place(String),
    Open(BorrowedFd<'a>),
}

impl<'a> Object<'a> {
    pub(super) fn new(object: BorrowedFd<'a>, kind: Kind, is_open: bool) -> FsResult<Self> {
        match kind {
            Kind::File if is_open => Ok(Self::Open(object)),
            Kind::File | Kind::Directory => Ok(Self::Place(itself(object))),
            // On other objects, Linux does not keep extended attributes for tenants.
            _ => Err(Status::Inval),
        }
    }

    /// listxattr(2).
    pub(super) fn list(&self) -> FsResult<Vec<Vec<u8>>> {
        let names = sized(|buffer| match self {
            Self::Place(path) => rustix::fs::listxattr(&**path, buffer),
            Self::Open(file) => rustix::fs::flistxattr(file, buffer),
        })
        .map_err(no_proc)?;
        Ok(names.split(|byte| *byte == 0).filter(|name| is_tenants_xattr(name)).map(<[u8]>::to_vec).collect())
    }

    /// getxattr(2).
    pub(super) fn get(&self, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        let value = sized(|buffer| match self {
            Self::Place(path) => rustix::fs::getxattr(&**path, name, buffer),
            Self::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
        });
        match value {
            Err(Status::Other(errno)) if errno == Errno::NODATA.raw_os_error() => Ok(None),
            value => value.map(Some).map_err(no_proc),
        }
    }

    /// setxattr(2).
    pub(super) fn set(&self, name: &[u8], value: &[u8]) -> FsResult<()> {
        let flags = XattrFlags::empty();
        retry(|| match self {
            Self::Place(path) => rustix::fs::setxattr(&**path, name, value, flags),
            Self::Open(file) => rustix::fs::fsetxattr(file, name, value, flags),
        })
        .map_err(no_proc)
    }
}

/// What `call` puts into a buffer: first a small one, then, if that is too small, one of the largest size.
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
