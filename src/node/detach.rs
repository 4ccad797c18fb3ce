//! Detaches a mount: removes it from its target at once, without waiting for its server (umount2(2), MNT_DETACH).
//!
//! The driver never uses MNT_FORCE, which makes all calls of a *superblock* fail. Other mounts share the superblock:
//! other volumes of the export, mounts of the host that this container does not see, and mounts that were detached.
//!
//! The driver unmounts with rustix and not with sys-mount: the `NOFOLLOW` of sys-mount 3.1 is O_NOFOLLOW of open(2),
//! which umount2(2) rejects with EINVAL. Without UMOUNT_NOFOLLOW, a symbolic link in place of the target would lead to
//! another mount.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Error, Result};
use crate::mount::gate::Gates;
use crate::mount::table::{Mount, Table};
use crate::node::target::Place;

/// Detaches the mount if it is still at `place`, without waiting for its server. Returns a descriptor of its root. The
/// descriptor keeps the mount alive, so this call does not wait for the end of the mount: see [`end`].
pub fn detach(place: &Place, mount: &Mount) -> Result<Option<OwnedFd>> {
    let visible = match place.mount_ids().1 {
        0 => Table::read()?.top(place.path()).map(|top| top.id),
        id => Some(id),
    };
    if visible != Some(mount.id) {
        // An earlier call has unmounted it, and now waits until the kernel has written all data.
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno| Error::Internal(format!("{place}: detaching the mount: {errno}"));
    let root = rustix::fs::openat(CWD, place.call_path(), flags, Mode::empty()).map_err(failed)?;
    match unmount(place.call_path(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(Some(root)),
        Err(errno) => Err(failed(errno)),
    }
}

/// Ends the detached mount with this root. The end may wait for the server, so it runs on a thread of the server's
/// gate.
pub fn end(gates: &Gates, mount: &Mount, root: OwnedFd) {
    if let Some(address) = mount.address() {
        drop(gates.get(address, mount.tcp_port()).of_mount(mount).hold(root));
    }
}
