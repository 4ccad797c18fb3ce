//! Steps that are carried out in order.

use std::os::fd::{AsFd as _, BorrowedFd};

use crate::export::fs::{FsResult, Name, Status, Step, check_new_mode, gone};
use crate::export::kernel::{KernelHandle, calls};

/// The system calls of steps, up to the first that fails. Returns how many are done, and why the next one is not.
pub(super) fn in_order(steps: &[Step<KernelHandle>]) -> (usize, FsResult<()>) {
    for (done, step) in steps.iter().enumerate() {
        if let Err(status) = take(step) {
            return (done, Err(status));
        }
    }
    (steps.len(), Ok(()))
}

fn take(step: &Step<KernelHandle>) -> FsResult<()> {
    match step {
        Step::Mkdir { at: (dir, name), mode } => {
            check_new_mode(*mode)?;
            calls::mkdir(dir.directory()?.as_fd(), name, *mode)
        }
        Step::Replace { staged, to, mode, content } => {
            check_new_mode(*mode)?;
            write_file(staged.0.directory()?.as_fd(), &staged.1, *mode, content)?;
            rename(staged, to)
        }
        Step::Rename { from, to } => rename(from, to),
        Step::Remove { at: (dir, name) } => {
            let dir = dir.directory()?;
            let removed = match calls::unlink(dir.as_fd(), name) {
                Err(Status::IsDir) => calls::rmdir(dir.as_fd(), name),
                removed => removed,
            };
            gone(removed)
        }
    }
}

fn rename(from: &(KernelHandle, Name), to: &(KernelHandle, Name)) -> FsResult<()> {
    calls::rename(from.0.directory()?.as_fd(), &from.1, to.0.directory()?.as_fd(), &to.1)
}

/// open(2) of a new file, write(2) and fsync(2).
pub(super) fn write_file(dir: BorrowedFd<'_>, name: &Name, mode: u32, content: &[u8]) -> FsResult<()> {
    let (file, _) = calls::create(dir, name, mode)?;
    calls::write(file.as_fd(), 0, content)?;
    calls::commit(file.as_fd())
}
