//! Why an operation failed.

/// The result of an operation on an export.
pub type FsResult<T> = Result<T, Status>;

/// Treats a missing object as removed, because another client may have removed it.
pub fn gone(removed: FsResult<()>) -> FsResult<()> {
    match removed {
        Err(Status::NoEnt) => Ok(()),
        removed => removed,
    }
}

/// Why an operation failed, in the terms of NFS (RFC 8881, section 15.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Status {
    /// NFS4ERR_PERM: not the owner.
    #[error("operation not permitted")]
    Perm,
    /// NFS4ERR_ACCESS: the mode, an ACL or root squashing forbids it.
    #[error("permission denied")]
    Access,
    /// NFS4ERR_NOENT.
    #[error("no such file or directory")]
    NoEnt,
    /// NFS4ERR_EXIST.
    #[error("exists already")]
    Exist,
    /// NFS4ERR_NOTDIR.
    #[error("not a directory")]
    NotDir,
    /// NFS4ERR_ISDIR.
    #[error("is a directory")]
    IsDir,
    /// NFS4ERR_NOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// NFS4ERR_SYMLINK: a symbolic link has the name of a requested directory or file. The driver never follows it.
    #[error("is a symbolic link")]
    Symlink,
    /// NFS4ERR_WRONG_TYPE: a FIFO, socket or device has the name of a requested regular file.
    #[error("not a regular file")]
    WrongType,
    /// NFS4ERR_XDEV: another file system of the server begins there.
    #[error("crosses into another file system")]
    XDev,
    /// NFS4ERR_XDEV of a rename or a link within one file system: the target directory hands down a quota project, and
    /// the object belongs to another one.
    #[error("the directory takes nothing of another quota project")]
    OtherProject,
    /// NFS4ERR_INVAL.
    #[error("invalid argument")]
    Inval,
    /// NFS4ERR_FBIG.
    #[error("file too large")]
    FBig,
    /// NFS4ERR_MLINK.
    #[error("too many hard links")]
    MLink,
    /// NFS4ERR_NAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// NFS4ERR_NOSPC: the file system is full, in bytes or in inodes.
    #[error("no space left on the export")]
    NoSpc,
    /// NFS4ERR_DQUOT.
    #[error("quota exceeded")]
    DQuot,
    /// NFS4ERR_ROFS.
    #[error("the export is read-only")]
    RoFs,
    /// NFS4ERR_STALE: the object behind the handle is gone on the server.
    #[error("stale file handle")]
    Stale,
    /// NFS4ERR_NOTSUPP.
    #[error("not supported by the server or the protocol version")]
    NotSupp,
    /// NFS4ERR_LOCKED, NFS4ERR_DENIED: another client holds the lock.
    #[error("held by another client")]
    Locked,
    /// The server did not answer in time.
    #[error("the server does not answer")]
    TimedOut,
    /// The server answers, but has not answered earlier calls for this export for some time. This call was not made, or it
    /// has no answer either.
    #[error("the server answers, but not for this export")]
    Stuck,
    /// NFS4ERR_IO.
    #[error("input/output error")]
    Io,
    /// Any other errno(3).
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl Status {
    /// Whether there is no answer: the server may or may not carry out the call, and another call has to wait, too.
    pub fn is_unanswered(self) -> bool {
        matches!(self, Self::TimedOut | Self::Stuck)
    }

    /// The status for an errno(3).
    pub fn from_errno(errno: i32) -> Self {
        use rustix::io::Errno;
        match Errno::from_raw_os_error(errno) {
            Errno::PERM => Self::Perm,
            Errno::ACCESS => Self::Access,
            Errno::NOENT => Self::NoEnt,
            Errno::EXIST => Self::Exist,
            Errno::NOTDIR => Self::NotDir,
            Errno::ISDIR => Self::IsDir,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::LOOP => Self::Symlink,
            Errno::XDEV => Self::XDev,
            Errno::INVAL => Self::Inval,
            Errno::FBIG => Self::FBig,
            Errno::MLINK => Self::MLink,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::NOSPC => Self::NoSpc,
            Errno::DQUOT => Self::DQuot,
            Errno::ROFS => Self::RoFs,
            Errno::STALE => Self::Stale,
            Errno::OPNOTSUPP | Errno::NOSYS => Self::NotSupp,
            Errno::TIMEDOUT | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN => {
                Self::TimedOut
            }
            Errno::IO => Self::Io,
            _ => Self::Other(errno),
        }
    }
}

impl From<rustix::io::Errno> for Status {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_errno(errno.raw_os_error())
    }
}
