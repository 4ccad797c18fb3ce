//! Handles of objects on an export: descriptors, with the mount that they need.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::export::fs::{FsResult, Kind, OpenMode, Status};
use crate::export::kernel::xattrs;
use crate::mount::gate::Held;

/// Keeps the mount open for as long as a handle needs it. Closing it may block.
pub(super) type Mount = Arc<Held<OwnedFd>>;

/// An object on an export, held by a descriptor.
#[derive(Clone)]
pub struct KernelHandle(pub(super) Arc<Object>);

pub(super) struct Object {
    pub(super) kind: Kind,
    descriptor: Descriptor,
}

pub(super) enum Descriptor {
    Root(Mount),
    /// Opened with O_PATH. Fields are dropped in this order, the mount last.
    Place(OwnedFd, #[expect(dead_code, reason = "held, not used")] Mount),
    File(File, OpenMode, #[expect(dead_code, reason = "held, not used")] Mount),
}

/// An open file. Closing it may block.
pub(super) enum File {
    Held(Held<OwnedFd>),
    /// Opened, used and closed on one thread of the gate.
    Here(OwnedFd),
}

impl AsFd for KernelHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0.descriptor {
            Descriptor::Root(mount) => mount.as_fd(),
            Descriptor::Place(place, _) => place.as_fd(),
            Descriptor::File(File::Held(file), ..) => file.as_fd(),
            Descriptor::File(File::Here(file), ..) => file.as_fd(),
        }
    }
}

impl fmt::Debug for KernelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at descriptor {}", self.0.kind, self.as_fd().as_raw_fd())
    }
}

impl KernelHandle {
    pub(super) fn new(kind: Kind, descriptor: Descriptor) -> Self {
        Self(Arc::new(Object { kind, descriptor }))
    }

    pub(super) fn directory(&self) -> FsResult<Self> {
        if self.0.kind == Kind::Directory { Ok(self.clone()) } else { Err(Status::NotDir) }
    }

    pub(super) fn xattrs(&self) -> FsResult<xattrs::Object<'_>> {
        xattrs::Object::new(self.as_fd(), self.0.kind, matches!(self.0.descriptor, Descriptor::File(..)))
    }

    /// The open file. Returns an error if `writing` is needed and it is not open for writing.
    pub(super) fn file(&self, writing: bool) -> FsResult<Self> {
        match &self.0.descriptor {
            Descriptor::File(_, mode, _) if !writing || *mode == OpenMode::ReadWrite => Ok(self.clone()),
            _ => Err(Status::Inval),
        }
    }
}
