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

pub use crate::nfs::attributes::{Attr, Kind, SetAttr, Time};
pub use crate::nfs::name::Name;
pub use crate::nfs::status::{FsResult, Status, gone};

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its kind, where the server says so with the name.
    pub kind: Option<Kind>,
    /// The object's number.
    pub fileid: u64,
    /// Where the listing goes on after it.
    pub cookie: Cookie,
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

/// What is looked for in a sparse file (`data_content4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// NFS4_CONTENT_DATA.
    Data,
    /// NFS4_CONTENT_HOLE. The end of a file is one.
    Hole,
}

/// [`Status::Inval`] where the mode is none that a new object may get: more than the permission bits.
pub(crate) fn check_new_mode(mode: u32) -> FsResult<()> {
    if mode <= 0o777 { Ok(()) } else { Err(Status::Inval) }
}

/// [`Status::Inval`] where an object of that kind is made in another way than by [`Fs::mknod`].
pub(crate) fn check_special(kind: Kind) -> FsResult<()> {
    match kind {
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Ok(()),
        Kind::File | Kind::Directory | Kind::Symlink => Err(Status::Inval),
    }
}

/// PATH_MAX less the NUL: the longest target of a symbolic link that Linux makes.
pub const SYMLINK_MAX: usize = 4095;

/// [`Status::Inval`] or [`Status::NameTooLong`] where the bytes are not what a symbolic link can point to.
pub(crate) fn check_symlink_target(target: &[u8]) -> FsResult<()> {
    match target {
        _ if target.is_empty() || target.contains(&0) => Err(Status::Inval),
        _ if target.len() > SYMLINK_MAX => Err(Status::NameTooLong),
        _ => Ok(()),
    }
}

/// The extended attributes by which a mount of Linux carries access control lists: NFSv4's as they are, NFSv3's as POSIX
/// draft ones.
pub const ACLS: [&[u8]; 3] = [b"system.nfs4_acl", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Whether an extended attribute is one that the driver reads and sets.
pub(crate) fn is_tenants_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.") || ACLS.contains(&name)
}

/// The byte that is locked for a key: its low 62 bits, which fit every offset on the way.
pub(crate) fn lock_offset(key: u64) -> i64 {
    (key & (u64::MAX >> 2)).cast_signed()
}

/// An export: a tree of objects on an NFS server. A clone is the same.
///
/// No operation follows a symbolic link or leaves the export's file system. Every one ends: with
/// [`Status::TimedOut`] when the server is gone, and may then, or when its future is dropped, yet be carried out.
///
/// A directory that has been removed is [`Status::Stale`], for itself and for every name in it; what is no directory has
/// no names: [`Status::NotDir`]. The checks in [`conformance`](super::conformance) are this contract, line by line.
pub trait Fs: Clone + Send + Sync + 'static {
    /// An object by its identity, whatever its name has become. Cheap to clone. A file that was opened is closed soon after
    /// the last clone is gone.
    type Handle: Clone + fmt::Debug + Send + Sync + 'static;

    /// Does several operations in one go, where that is cheaper than one by one: what `work` gives, with an export to do them
    /// on. It waits for nothing else than the server, and keeps what it opened to itself.
    fn in_one_go<T, W>(&self, work: impl FnOnce(Self) -> W + Send + 'static) -> impl Future<Output = FsResult<T>> + Send
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let work = work(self.clone());
        async { Ok(work.await) }
    }

    /// The export's root directory.
    fn root(&self) -> Self::Handle;

    /// LOOKUP and GETATTR: the object of that name; [`Status::XDev`] where another file system of the server begins.
    fn lookup(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// LOOKUPP: the directory that this one is in now, whoever moved it; the root's is the root.
    fn parent(&self, dir: &Self::Handle) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// GETATTR, from the server, not from a cache. (Size and links of a directory may be old: Linux 7 answers for them itself
    /// while it holds a delegation.)
    fn getattr(&self, object: &Self::Handle) -> impl Future<Output = FsResult<Attr>> + Send;

    /// SETATTR, in the order that [`SetAttr`] says; what was set before an error stays set. A symbolic link has no mode:
    /// [`Status::NotSupp`]; and some servers keep times of their own for it. A size is for a file that this handle has open for
    /// writing: otherwise [`Status::Inval`].
    fn setattr(&self, object: &Self::Handle, attr: SetAttr) -> impl Future<Output = FsResult<()>> + Send;

    /// CREATE of a directory; [`Status::Exist`] when the name is taken. `mode` at most 0o777; in a directory with setgid,
    /// group and setgid are inherited.
    fn mkdir(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// OPEN with EXCLUSIVE4: a new, empty regular file, open for reading and writing; [`Status::Exist`] when the name is
    /// taken. `mode` at most 0o777.
    fn create(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// OPEN with UNCHECKED4: like [`Fs::create`], but where a regular file has the name, that is opened, as it is. For a
    /// directory that nobody else works in: it takes one operation of the server less.
    fn open_or_create(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// CREATE of a symbolic link to `target`, which is any bytes but NUL: [`Status::Inval`] with none at all,
    /// [`Status::NameTooLong`] beyond [`SYMLINK_MAX`]; [`Status::Exist`] when the name is taken.
    fn symlink(
        &self,
        dir: &Self::Handle,
        name: &Name,
        target: &[u8],
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// CREATE of a FIFO, a socket or a device node, which has the numbers `device`; [`Status::Inval`] for another kind,
    /// [`Status::Exist`] when the name is taken. `mode` at most 0o777. A device node takes the capability CAP_MKNOD here, and
    /// root not squashed there: otherwise [`Status::Perm`].
    fn mknod(
        &self,
        dir: &Self::Handle,
        name: &Name,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// LINK: one more name for an object that is no directory ([`Status::IsDir`]); [`Status::Exist`] when the name is taken.
    fn link(&self, object: &Self::Handle, dir: &Self::Handle, name: &Name)
    -> impl Future<Output = FsResult<()>> + Send;

    /// READLINK: the target's bytes; [`Status::Inval`] for what is no symbolic link.
    fn readlink(&self, link: &Self::Handle) -> impl Future<Output = FsResult<Vec<u8>>> + Send;

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

    /// SEEK (RFC 7862, section 15.11): the first offset from `offset` on where there is what is looked for; `None` where
    /// there is none up to the end of the file. Where holes cannot be asked for, all of the file is data.
    fn seek(&self, file: &Self::Handle, offset: u64, what: Seek) -> impl Future<Output = FsResult<Option<u64>>> + Send;

    /// CLONE (RFC 7862, section 15.13) of all of `source` into `target`, an empty file that is open for writing: its content
    /// in one step, holes included, on stable storage. Answers its size. [`Status::NotSupp`] or [`Status::XDev`] where the
    /// server cannot; then nothing was done.
    fn clone_file(&self, source: &Self::Handle, target: &Self::Handle) -> impl Future<Output = FsResult<u64>> + Send;

    /// COPY (RFC 7862, section 15.2), done by the server, of up to `length` bytes at `offset` to the same place in `target`,
    /// another file, which is open for writing: how many were copied, fewer than asked or none where the source ends. Not yet on stable
    /// storage. [`Status::NotSupp`] or [`Status::XDev`] where the server cannot.
    fn copy(
        &self,
        source: &Self::Handle,
        target: &Self::Handle,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = FsResult<u64>> + Send;

    /// LISTXATTRS (RFC 8276), of a regular file or a directory: the names of the extended attributes that tenants set
    /// (`user.*`) and of access control lists ([`ACLS`]). [`Status::NotSupp`] where there are none at all.
    fn list_xattrs(&self, object: &Self::Handle) -> impl Future<Output = FsResult<Vec<Vec<u8>>>> + Send;

    /// GETXATTR: the value of an attribute that [`Self::list_xattrs`] named; `None` where it is gone.
    fn get_xattr(&self, object: &Self::Handle, name: &[u8]) -> impl Future<Output = FsResult<Option<Vec<u8>>>> + Send;

    /// SETXATTR: makes the attribute, or gives it another value.
    fn set_xattr(&self, object: &Self::Handle, name: &[u8], value: &[u8]) -> impl Future<Output = FsResult<()>> + Send;

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
            let (file, _) = self.create(dir, name, mode).await?;
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
