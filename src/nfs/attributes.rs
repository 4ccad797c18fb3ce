//! What an object is, and its attributes.

use crate::nfs::status::{FsResult, Status};

/// What an object is (`nfs_ftype4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// NF4REG.
    File,
    /// NF4DIR.
    Directory,
    /// NF4LNK.
    Symlink,
    /// NF4FIFO.
    Fifo,
    /// NF4SOCK.
    Socket,
    /// NF4CHR.
    CharDevice,
    /// NF4BLK.
    BlockDevice,
}

/// A point in time as an NFS server keeps it (`nfstime4`), since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds; before 1970 negative.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// An object's attributes, as of the server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Bytes allocated on the server.
    pub used: u64,
    /// Hard links.
    pub links: u64,
    /// The object's number, unique in the export's file system (`fileid`).
    pub fileid: u64,
    /// Device number (major, minor) of a device node.
    pub device: (u32, u32),
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
}

/// Attributes to set; `None` leaves one as it is.
///
/// They are set in this order: size, owner and group (which clears the special bits of the mode), mode, times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Bytes of content, for a file that is open for writing: it is cut off there, or grows by a hole.
    pub size: Option<u64>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of content.
    pub mtime: Option<Time>,
}

impl SetAttr {
    /// [`Status::Inval`] where a value is none that an object can have: both implementations ask this first.
    pub fn check(&self) -> FsResult<()> {
        let mode = self.mode.is_none_or(|mode| mode <= 0o7777);
        // chown(2) takes the largest number for "leave it", utimensat(2) some nanoseconds for "now".
        let owner = [self.uid, self.gid].iter().flatten().all(|id| *id != u32::MAX);
        let times = [self.atime, self.mtime].iter().flatten().all(|time| time.nanoseconds < 1_000_000_000);
        if mode && owner && times { Ok(()) } else { Err(Status::Inval) }
    }
}
