//! The boundary that everything on an export goes through: what the driver needs of an NFS export, and nothing of how it
//! gets it.
//!
//! Operations start at handles, never at paths; names are bytes; terms and errors are those of NFS (RFC 8881, section
//! 18). [`kernel`](super::kernel) implements it on a mount of the kernel's client, [`memory`](super::memory) in memory
//! for tests.
//!
//! What a server promises, and both implementations keep: an operation on a directory (create, mkdir, rename, remove,
//! link) or on attributes is on stable storage when it answers; data written to a file is only after [`Fs::commit`].

use std::fmt;
use std::future::Future;

/// The result of an operation on an export.
pub type FsResult<T> = Result<T, Status>;

/// Why an operation failed, in NFS's terms (RFC 8881, section 15.1).
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
    /// NFS4ERR_SYMLINK: a symbolic link stands where a directory or a file was asked for; it is never followed.
    #[error("is a symbolic link")]
    Symlink,
    /// NFS4ERR_WRONG_TYPE: a FIFO, socket or device stands where a regular file was asked for.
    #[error("not a regular file")]
    WrongType,
    /// NFS4ERR_XDEV: the other side of the operation is in another file system (or another quota project).
    #[error("crosses into another file system")]
    XDev,
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
    /// NFS4ERR_LOCKED, NFS4ERR_DENIED: somebody else holds it.
    #[error("held by another client")]
    Locked,
    /// The server did not answer in time.
    #[error("the server does not answer")]
    TimedOut,
    /// NFS4ERR_IO.
    #[error("input/output error")]
    Io,
    /// Anything else, by its errno(3).
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl Status {
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

/// One name in a directory: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// NAME_MAX of Linux, and of every file system that is exported over NFS in practice.
    pub const MAX: usize = 255;

    /// A name, or [`Status::Inval`] ([`Status::NameTooLong`] beyond 255 bytes) where the bytes are not one.
    pub fn new(bytes: impl AsRef<[u8]>) -> FsResult<Self> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(Status::Inval);
        }
        if bytes.len() > Self::MAX {
            return Err(Status::NameTooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    /// The name as text; bytes that are not printable ASCII or UTF-8 are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits with setuid, setgid and sticky. Set after the owner, whose change clears the special bits.
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

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its kind, where the server says so with the name.
    pub kind: Option<Kind>,
    /// The object's number.
    pub fileid: u64,
}

/// Where a listing of a directory goes on; `0` is its beginning. Valid for the same directory only.
pub type Cookie = u64;

/// A part of a directory's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Some entries, without `.` and `..`, in the server's order.
    pub entries: Vec<Entry>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<Cookie>,
}

/// The size of the file system behind a directory (`space_*`, `files_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsStat {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes free, reserved ones included.
    pub free_bytes: u64,
    /// Bytes free for everybody.
    pub available_bytes: u64,
    /// Inodes in all; 0 where the file system has no such limit.
    pub total_inodes: u64,
    /// Inodes free.
    pub free_inodes: u64,
}

/// What an open file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// OPEN4_SHARE_ACCESS_READ.
    Read,
    /// OPEN4_SHARE_ACCESS_BOTH.
    ReadWrite,
}

/// [`Status::Inval`] where the mode is none that a new object may get: more than the permission bits.
pub(super) fn check_new_mode(mode: u32) -> FsResult<()> {
    if mode <= 0o777 { Ok(()) } else { Err(Status::Inval) }
}

/// The byte that is locked for a key: its low 62 bits, which fit every offset on the way.
pub(super) fn lock_offset(key: u64) -> i64 {
    (key & (u64::MAX >> 2)).cast_signed()
}

/// An export: a tree of objects on an NFS server.
///
/// No operation follows a symbolic link or leaves the export's file system. Every one ends: with
/// [`Status::TimedOut`] when the server is gone, and may then, or when its future is dropped, yet be carried out.
///
/// A directory that has been removed is [`Status::Stale`], for itself and for every name in it; what is no directory has
/// no names: [`Status::NotDir`]. The checks in [`conformance`](super::conformance) are this contract, line by line.
pub trait Fs: Send + Sync + 'static {
    /// An object by its identity, whatever its name has become. Cheap to clone. A file that was opened is closed soon after
    /// the last clone is gone.
    type Handle: Clone + fmt::Debug + Send + Sync + 'static;

    /// The export's root directory.
    fn root(&self) -> Self::Handle;

    /// LOOKUP and GETATTR: the object of that name; [`Status::XDev`] where another file system of the server begins.
    fn lookup(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// GETATTR, from the server, not from a cache. (Size and links of a directory may be old: Linux 7 answers for them itself
    /// while it holds a delegation.)
    fn getattr(&self, object: &Self::Handle) -> impl Future<Output = FsResult<Attr>> + Send;

    /// SETATTR: owner and group first, then mode, then times; what was set before an error stays set. A symbolic link has
    /// no mode: [`Status::NotSupp`].
    fn setattr(&self, object: &Self::Handle, attr: SetAttr) -> impl Future<Output = FsResult<()>> + Send;

    /// CREATE of a directory; [`Status::Exist`] when the name is taken. `mode` at most 0o777; in a directory with setgid,
    /// group and setgid are inherited.
    fn mkdir(&self, dir: &Self::Handle, name: &Name, mode: u32) -> impl Future<Output = FsResult<Self::Handle>> + Send;

    /// OPEN with EXCLUSIVE4: a new, empty regular file, open for reading and writing; [`Status::Exist`] when the name is
    /// taken. `mode` at most 0o777.
    fn create(&self, dir: &Self::Handle, name: &Name, mode: u32)
    -> impl Future<Output = FsResult<Self::Handle>> + Send;

    /// OPEN of an existing regular file; [`Status::Symlink`], [`Status::IsDir`] or [`Status::WrongType`] when the name is
    /// something else, which is then not touched.
    fn open(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: OpenMode,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// READ: up to `length` bytes from `offset`; fewer only at the end of the file. [`Status::Inval`] for a handle that
    /// is not of an open file; so in all that follows down to [`Self::commit`].
    fn read(&self, file: &Self::Handle, offset: u64, length: usize) -> impl Future<Output = FsResult<Vec<u8>>> + Send;

    /// WRITE of all of `data`; not yet on stable storage.
    fn write(&self, file: &Self::Handle, offset: u64, data: Vec<u8>) -> impl Future<Output = FsResult<()>> + Send;

    /// COMMIT: what was written to the file is on stable storage. Reports every failed write; nothing later does.
    fn commit(&self, file: &Self::Handle) -> impl Future<Output = FsResult<()>> + Send;

    /// The whole content of a regular file of at most `limit` bytes; [`Status::FBig`] for a larger one. Otherwise like
    /// [`Fs::open`] and [`Fs::read`].
    fn read_file(
        &self,
        dir: &Self::Handle,
        name: &Name,
        limit: usize,
    ) -> impl Future<Output = FsResult<Vec<u8>>> + Send {
        async move {
            let (file, attr) = self.open(dir, name, OpenMode::Read).await?;
            if attr.size > limit as u64 { Err(Status::FBig) } else { self.read(&file, 0, limit).await }
        }
    }

    /// A new regular file with that content, on stable storage when this answers: like [`Fs::create`], [`Fs::write`] and
    /// [`Fs::commit`]. Where it fails, a part of the file may be there.
    fn write_file(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
        content: Vec<u8>,
    ) -> impl Future<Output = FsResult<()>> + Send {
        async move {
            let file = self.create(dir, name, mode).await?;
            self.write(&file, 0, content).await?;
            self.commit(&file).await
        }
    }

    /// RENAME; replaces a file by a file, and an empty directory by a directory, in one step. Otherwise [`Status::IsDir`],
    /// [`Status::NotDir`] or [`Status::NotEmpty`], by what stands there; [`Status::Inval`] for a directory into itself.
    fn rename(
        &self,
        from_dir: &Self::Handle,
        from: &Name,
        to_dir: &Self::Handle,
        to: &Name,
    ) -> impl Future<Output = FsResult<()>> + Send;

    /// REMOVE of anything but a directory; [`Status::IsDir`] for one.
    ///
    /// As long as this client holds the file, even by a handle from [`Self::lookup`], the directory may keep it under a name
    /// that begins with `.nfs`, and is not empty: let go of it first. The same goes for a file that a rename replaces.
    fn unlink(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<()>> + Send;

    /// REMOVE of an empty directory; [`Status::NotEmpty`], [`Status::NotDir`] otherwise.
    fn rmdir(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<()>> + Send;

    /// READDIR: a page of the directory's entries, which may be empty. Entries that are neither made nor removed between two
    /// pages come once; removing what was listed does not disturb the rest.
    fn readdir(&self, dir: &Self::Handle, from: Cookie) -> impl Future<Output = FsResult<Page>> + Send;

    /// The figures of the file system (or the quota) that the directory is in.
    fn statfs(&self, dir: &Self::Handle) -> impl Future<Output = FsResult<FsStat>> + Send;

    /// LOCK (exclusive, not waiting) of the byte at `key` (its low 62 bits) of a file that is open for writing: true when
    /// this handle or a clone of it now holds it. One that it holds already is granted again; another opening of the file
    /// is another holder, in this process too. A lock ends with [`Fs::unlock`] or with its holder, crashed or closed.
    fn try_lock(&self, file: &Self::Handle, key: u64) -> impl Future<Output = FsResult<bool>> + Send;

    /// LOCKU of the byte at `key`.
    fn unlock(&self, file: &Self::Handle, key: u64) -> impl Future<Output = FsResult<()>> + Send;

    /// Whether other clients of the server see this one's locks: false for NFSv3 without lockd.
    fn locks_are_shared(&self) -> bool;
}
