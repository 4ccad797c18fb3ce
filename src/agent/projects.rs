//! Project quotas of a file system: the interface that the agent needs, and its implementation by the kernel.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::agent::calls;
use crate::error::{Error, Result};
use crate::export::fs::{Fs, FsResult, Kind, Status};
use crate::export::kernel::{KernelFs, KernelHandle};
use crate::volume::limits::Limits;

/// A project as the file system accounts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Project {
    /// Its limits.
    pub limits: Limits,
    /// Bytes that belong to it.
    pub bytes: u64,
    /// Inodes that belong to it.
    pub inodes: u64,
}

impl Project {
    /// Whether any object belongs to the project.
    pub fn in_use(&self) -> bool {
        self.bytes > 0 || self.inodes > 0
    }
}

/// The operations on project quotas that the agent needs.
pub trait Projects<F: Fs>: Send + Sync + 'static {
    /// The kind of file system.
    fn kind(&self) -> FileSystem;

    /// The project of a directory or an open file, and whether new objects in it inherit the project.
    fn of(&self, object: &F::Handle) -> impl Future<Output = FsResult<(u32, bool)>> + Send;

    /// Assigns a directory or an open file to a project. New objects in the directory then inherit the project.
    fn assign(&self, object: &F::Handle, kind: Kind, project: u32) -> impl Future<Output = FsResult<()>> + Send;

    /// Takes from a directory that new objects in it inherit its project.
    fn disinherit(&self, directory: &F::Handle) -> impl Future<Output = FsResult<()>> + Send;

    /// A project's limits and usage.
    fn get(&self, project: u32) -> impl Future<Output = FsResult<Project>> + Send;

    /// Sets a project's limits.
    fn limit(&self, project: u32, limits: Limits) -> impl Future<Output = FsResult<()>> + Send;
}

/// The file systems that the agent supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// XFS.
    Xfs,
    /// ext4, whose limits do not apply to a client that writes as root.
    Ext4,
}

impl FileSystem {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
        }
    }

    /// Whether limits apply to a client that writes as root (through `no_root_squash`). ext4 exempts CAP_SYS_RESOURCE,
    /// which knfsd keeps for such a client.
    pub fn holds_root(self) -> bool {
        self == Self::Xfs
    }
}

/// The kernel's project quotas of the file system that contains an exported directory.
#[derive(Debug, Clone)]
pub struct KernelProjects {
    fs: KernelFs,
    kind: FileSystem,
}

const XFS: i64 = 0x5846_5342;
const EXT4: i64 = 0xef53;
/// FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD.
const COUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;

impl KernelProjects {
    /// The project quotas of the file system behind `fs`. Errors call it `path`.
    ///
    /// # Errors
    /// [`Error::Precondition`] if the file system is neither XFS nor ext4, or does not enforce project quotas.
    pub async fn new(fs: KernelFs, path: &str) -> Result<Self> {
        let root = fs.root();
        let state = fs.with(&root, |root| {
            let kind = rustix::fs::fstatfs(root)?.f_type;
            Ok((kind, calls::state(root)))
        });
        let (kind, state) = state.await.map_err(|e| Error::Internal(format!("{path}: {e}")))?;
        let kind = match kind {
            XFS => FileSystem::Xfs,
            EXT4 => FileSystem::Ext4,
            other => {
                return Err(Error::Precondition(format!(
                    "{path} is on a file system of type {other:#x}: the agent needs XFS or ext4"
                )));
            }
        };
        match state {
            Ok(flags) if flags & ENFORCED != 0 => Ok(Self { fs, kind }),
            Ok(flags) if flags & COUNTED != 0 => Err(off(path, kind, "counted but not enforced")),
            Ok(_) | Err(Errno::SRCH) => Err(off(path, kind, "off")),
            Err(Errno::NOSYS) => Err(no_call(path, kind)),
            Err(errno) => Err(Error::Internal(format!("{path}: reading the state of the project quotas: {errno}"))),
        }
    }
}

/// The error for a file system whose project quotas are not on.
fn off(path: &str, kind: FileSystem, what: &str) -> Error {
    Error::Precondition(match kind {
        FileSystem::Xfs => format!(
            "{path} is on XFS, and its project quotas are {what}: unmount it, and mount it with the option \
             `prjquota` (a remount does not turn quotas on)"
        ),
        FileSystem::Ext4 => format!(
            "{path} is on ext4, and its project quotas are {what}: unmount it, run \
             `tune2fs -O project,quota -Q prjquota DEVICE`, and mount it with the option `prjquota`"
        ),
    })
}

/// The error for ENOSYS: the kernel returns it for a call that it does not have, and where quotas are off.
fn no_call(path: &str, kind: FileSystem) -> Error {
    Error::Precondition(format!("{}; the kernel must be Linux 5.14 or newer (quotactl_fd(2))", off(path, kind, "off")))
}

impl Projects<KernelFs> for KernelProjects {
    fn kind(&self) -> FileSystem {
        self.kind
    }

    async fn of(&self, object: &KernelHandle) -> FsResult<(u32, bool)> {
        self.fs
            .with(object, |object| {
                let opened = opened(object)?;
                let xattr = calls::xattr(opened.as_ref().map_or(object, AsFd::as_fd))?;
                Ok((xattr.project, xattr.flags & calls::INHERIT != 0))
            })
            .await
    }

    async fn assign(&self, object: &KernelHandle, kind: Kind, project: u32) -> FsResult<()> {
        self.fs
            .with(object, move |object| {
                let opened = opened(object)?;
                let object = opened.as_ref().map_or(object, AsFd::as_fd);
                let mut xattr = calls::xattr(object)?;
                let before = xattr;
                xattr.project = project;
                if kind == Kind::Directory {
                    xattr.flags |= calls::INHERIT;
                }
                if xattr == before { Ok(()) } else { Ok(calls::set_xattr(object, xattr)?) }
            })
            .await
    }

    async fn disinherit(&self, directory: &KernelHandle) -> FsResult<()> {
        self.fs
            .with(directory, |directory| {
                let opened = opened(directory)?;
                let directory = opened.as_ref().map_or(directory, AsFd::as_fd);
                let mut xattr = calls::xattr(directory)?;
                if xattr.flags & calls::INHERIT == 0 {
                    return Ok(());
                }
                xattr.flags &= !calls::INHERIT;
                Ok(calls::set_xattr(directory, xattr)?)
            })
            .await
    }

    async fn get(&self, project: u32) -> FsResult<Project> {
        let root = self.fs.root();
        let quota = self.fs.with(&root, move |root| match calls::quota(root, project) {
            Ok(quota) => Ok(Some(quota)),
            // XFS has no quota record for a project that never had an object or a limit.
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        });
        let Some(quota) = quota.await? else { return Ok(Project::default()) };
        let limit = |limit: u64| Some(limit).filter(|&limit| limit > 0);
        Ok(Project {
            limits: Limits {
                bytes: limit(quota.dqb_bhardlimit.saturating_mul(1024)),
                inodes: limit(quota.dqb_ihardlimit),
            },
            bytes: quota.dqb_curspace,
            inodes: quota.dqb_curinodes,
        })
    }

    async fn limit(&self, project: u32, limits: Limits) -> FsResult<()> {
        let (kib, inodes) = (limits.bytes.unwrap_or(0).div_ceil(1024), limits.inodes.unwrap_or(0));
        self.fs.with(&self.fs.root(), move |root| Ok(calls::set_quota(root, project, kib, inodes)?)).await
    }
}

/// Opens the directory of an O_PATH descriptor, because that descriptor does not support ioctl(2). Returns `None` for
/// any other descriptor.
fn opened(object: BorrowedFd<'_>) -> FsResult<Option<std::os::fd::OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(object)?;
    if !flags.contains(OFlags::PATH) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(object, ".", flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(errno) => Err(Status::from(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_once_what_is_off() {
        for kind in [FileSystem::Xfs, FileSystem::Ext4] {
            let error = no_call("/srv", kind).to_string();
            assert_eq!((error.matches("/srv").count(), error.matches("quotas are off").count()), (1, 1), "{error}");
            assert!(error.contains("prjquota") && error.contains("5.14"), "{error}");
        }
    }
}
