//! Steps that are carried out in order.

use std::os::fd::{AsFd as _, BorrowedFd};

use crate::export::fs::{FsResult, Name, Status, Step, check_new_mode, gone};
use crate::export::kernel::{KernelHandle, calls};
use crate::mount::slow;

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
            let dir = dir.directory()?;
            slow::calls("mkdir", || calls::mkdir(dir.as_fd(), name, *mode))
        }
        Step::Replace { staged, to, mode, content } => {
            check_new_mode(*mode)?;
            let staging = staged.0.directory()?;
            slow::calls("write_file", || write_file(staging.as_fd(), &staged.1, *mode, content))?;
            rename(staged, to)
        }
        Step::Rename { from, to } => rename(from, to),
        Step::Remove { at: (dir, name) } => {
            let dir = dir.directory()?;
            let remove = || match calls::unlink(dir.as_fd(), name) {
                Err(Status::IsDir) => calls::rmdir(dir.as_fd(), name),
                removed => removed,
            };
            gone(slow::calls("remove", remove))
        }
    }
}

fn rename(from: &(KernelHandle, Name), to: &(KernelHandle, Name)) -> FsResult<()> {
    let (from_dir, to_dir) = (from.0.directory()?, to.0.directory()?);
    slow::calls("rename", || calls::rename(from_dir.as_fd(), &from.1, to_dir.as_fd(), &to.1))
}

/// open(2) of a new file, write(2) and fsync(2).
pub(super) fn write_file(dir: BorrowedFd<'_>, name: &Name, mode: u32, content: &[u8]) -> FsResult<()> {
    let (file, _) = calls::create(dir, name, mode)?;
    calls::write(file.as_fd(), 0, content)?;
    calls::commit(file.as_fd())
}
