//! The system calls of project quotas that no library wraps safely: quotactl_fd(2), and ioctl_xfs_fsgetxattr(2) with
//! its counterpart. Also the wait for a descriptor, which tokio marks unsafe. Only this file of the crate may use
//! `unsafe`.
#![allow(
    unsafe_code,
    reason = "quotactl_fd(2) and FS_IOC_FS[GS]ETXATTR have no safe form in rustix or nix, AsyncFd none in tokio"
)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use tokio::io::unix::AsyncFd;

/// `struct fsxattr` of linux/fs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Xattr {
    /// FS_XFLAG_….
    pub(super) flags: u32,
    extent_size: u32,
    extents: u32,
    /// The project ID.
    pub(super) project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// FS_XFLAG_PROJINHERIT: new objects in a directory belong to its project.
pub(super) const INHERIT: u32 = 0x200;

const GET: Opcode = opcode::read::<Xattr>(b'X', 31);
const SET: Opcode = opcode::write::<Xattr>(b'X', 32);

/// PRJQUOTA.
const PROJECT: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTATV: u32 = ((b'X' as u32) << 8) + 8;
/// FS_QSTATV_VERSION1.
const STATE_VERSION: u64 = 1;
/// QIF_BLIMITS | QIF_ILIMITS.
const BOTH_LIMITS: u32 = 1 | 4;

/// FS_IOC_FSGETXATTR of an open file or directory.
pub(super) fn xattr(object: BorrowedFd<'_>) -> Result<Xattr, Errno> {
    // SAFETY: the kernel writes one `struct fsxattr` for this opcode. `Xattr` has that layout (the opcode contains its
    // size, and the test below checks it), and every bit pattern is valid.
    unsafe { ioctl(object, Getter::<GET, Xattr>::new()) }
}

/// FS_IOC_FSSETXATTR of an open file or directory.
pub(super) fn set_xattr(object: BorrowedFd<'_>, xattr: Xattr) -> Result<(), Errno> {
    // SAFETY: the kernel reads one `struct fsxattr` for this opcode. `Xattr` has that layout, and its memory lives for
    // the whole call.
    unsafe { ioctl(object, Setter::<SET, Xattr>::new(xattr)) }
}

/// Q_GETQUOTA: the limits and the usage of a project. The fields are those of `struct if_dqblk`: limits in KiB, usage
/// in bytes.
pub(super) fn quota(on: BorrowedFd<'_>, project: u32) -> Result<libc::dqblk, Errno> {
    // SAFETY: all fields of `dqblk` are integers, and zero is valid for each.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    quotactl(on, Q_GETQUOTA, project, &mut quota)?;
    Ok(quota)
}

/// Q_SETQUOTA: sets the hard limits of a project in KiB and in inodes; 0 means no limit.
pub(super) fn set_quota(on: BorrowedFd<'_>, project: u32, kib: u64, inodes: u64) -> Result<(), Errno> {
    // SAFETY: as above.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    (quota.dqb_bhardlimit, quota.dqb_ihardlimit, quota.dqb_valid) = (kib, inodes, BOTH_LIMITS);
    quotactl(on, Q_SETQUOTA, project, &mut quota)
}

/// Q_XGETQSTATV: the flags FS_QUOTA_…, which say whether quotas are accounted and enforced.
pub(super) fn state(on: BorrowedFd<'_>) -> Result<u16, Errno> {
    // Larger than `struct fs_quota_statv`, which has 160 bytes. The version is in byte 0 and the flags are in bytes 2
    // and 3.
    let mut state = [0_u64; 64];
    state[0] = STATE_VERSION.to_le();
    quotactl(on, Q_XGETQSTATV, 0, &mut state)?;
    let bytes = state[0].to_ne_bytes();
    Ok(u16::from_ne_bytes([bytes[2], bytes[3]]))
}

/// Registers a descriptor, so that the caller can wait until it is readable.
pub(super) fn readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// `T` must be the structure that the command reads or writes, or larger.
fn quotactl<T>(on: BorrowedFd<'_>, command: u32, project: u32, argument: &mut T) -> Result<(), Errno> {
    let command = (command << 8) | PROJECT;
    // SAFETY: the three callers are all in this file. Each passes what quotactl(2) documents for its command, in memory
    // that nothing else uses during the call.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, on.as_raw_fd(), command, project, std::ptr::from_mut(argument)) };
    if result == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernel_s_sizes() {
        assert_eq!(size_of::<Xattr>(), 28);
        assert!(size_of::<libc::dqblk>() >= 68);
        assert_eq!((GET, SET), (0x801c_581f, 0x401c_5820));
    }
}
