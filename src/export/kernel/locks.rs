//! Byte-range locks, and the order in which they are asked for.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::io::Errno;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::export::fs::{FsResult, LockMode, Status};

/// How long a LOCK or LOCKU waits for its turn. On an export that hangs all wait for the server instead, and so the gate
/// learns that it hangs.
const TURN: Duration = Duration::from_millis(500);

/// Turns to ask for a lock or to give one back. A LOCK or LOCKU changes the state that the next one names (RFC 8881,
/// section 9.1.4). The kernel sends two of them at once, and repeats the one that the server refuses, with its old state,
/// until the other is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<()>>);

impl Turns {
    /// The next turn; `None` if those before take too long.
    pub(super) async fn next(&self) -> Option<OwnedMutexGuard<()>> {
        timeout(TURN, self.0.clone().lock_owned()).await.ok()
    }
}

/// fcntl(2), F_OFD_SETLK of one byte. Returns whether the lock was granted.
pub(super) fn lock(file: BorrowedFd<'_>, byte: i64, mode: LockMode) -> FsResult<bool> {
    let mode = match mode {
        LockMode::Shared => libc::F_RDLCK,
        LockMode::Exclusive => libc::F_WRLCK,
    };
    match set_lock(file, byte, mode) {
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        set => set.map(|()| true).map_err(Status::from),
    }
}

/// fcntl(2), F_OFD_SETLK with F_UNLCK of one byte.
pub(super) fn unlock(file: BorrowedFd<'_>, byte: i64) -> FsResult<()> {
    set_lock(file, byte, libc::F_UNLCK).map_err(Status::from)
}

fn set_lock(file: BorrowedFd<'_>, byte: i64, what: i32) -> Result<(), Errno> {
    let lock = libc::flock {
        l_type: what as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    rustix::io::retry_on_intr(|| match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
    })
}
