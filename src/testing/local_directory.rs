//! A local directory in place of an export, for tests.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::export::kernel::KernelFs;
use crate::mount::gate::Gates;
use crate::mount::reachability::Reachability;

/// A new directory, on a file system in memory if possible, and a client of it.
pub(crate) fn local() -> (TempDir, KernelFs) {
    rustix::process::umask(Mode::empty());
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let fs = export(&place);
    (place, fs)
}

/// Another client of the directory.
pub(crate) fn export(place: &TempDir) -> KernelFs {
    let root: OwnedFd = rustix::fs::open(place.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let gate = Gates::new(Reachability::new()).get([127, 0, 0, 1].into(), 2049);
    KernelFs::new(gate.hold(root), gate, true)
}
