//! Kinds and attributes of objects.

use crate::nfs::status::{FsResult, Status};

/// The kind of an object (`nfs_ftype4`).
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

/// A point in time (`nfstime4`), counted from the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// The attributes of an object, as the server returned them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The kind of the object.
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

/// Attributes to set; `None` leaves an attribute unchanged.
///
/// They are set in this order: size, owner and group (which clears the special bits of the mode), mode, times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Bytes of content, for a file that is open for writing. The file is truncated, or extended by a hole.
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
    /// Returns [`Status::Inval`] if no object can have one of these values. Every implementation checks this first.
    pub fn check(&self) -> FsResult<()> {
        let mode = self.mode.is_none_or(|mode| mode <= 0o7777);
        // chown(2) takes the largest number for "unchanged"; utimensat(2) takes some numbers of nanoseconds for "now".
        let owner = [self.uid, self.gid].iter().flatten().all(|id| *id != u32::MAX);
        let times = [self.atime, self.mtime].iter().flatten().all(|time| time.nanoseconds < 1_000_000_000);
        if mode && owner && times { Ok(()) } else { Err(Status::Inval) }
    }
}
