//! The interface to an NFS export: what the driver needs of it, and nothing about how it is reached.
//!
//! Operations start at handles, never at paths. Names are bytes. Terms and errors are those of NFS (RFC 8881, section
//! 18). [`kernel`](super::kernel) implements the interface on a mount of the kernel's NFS client,
//! [`user`](super::user) by a client of its own, and `testing/memory` in memory.
//!
//! Every implementation guarantees that an operation on a directory (create, mkdir, rename, remove, link) or on
//! attributes is on stable storage when it returns. Data written to a file is on stable storage only after
//! [`Fs::commit`].

use std::fmt;
use std::future::Future;

use crate::export::features::Features;
pub use crate::export::step::Step;
pub use crate::nfs::attributes::{Attr, Kind, SetAttr, Time};
pub use crate::nfs::name::Name;
pub use crate::nfs::status::{FsResult, Status, gone};

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its kind, if the server returns the kind with the name.
    pub kind: Option<Kind>,
    /// The object's number.
    pub fileid: u64,
    /// Where the listing continues after this entry.
    pub cookie: Cookie,
}

/// A position in the listing of a directory; `0` is the beginning. It is valid for that directory only.
pub type Cookie = u64;

/// A part of a directory's listing (READDIR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Some entries in the server's order, without `.` and `..`.
    pub entries: Vec<Entry>,
    /// Where the next page starts; `None` on the last page.
    pub next: Option<Cookie>,
}

/// The size of the file system behind a directory (`space_*`, `files_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsStat {
    /// The total in bytes.
    pub total_bytes: u64,
    /// Free bytes, including those reserved for root.
    pub free_bytes: u64,
    /// Free bytes that every user may write.
    pub available_bytes: u64,
    /// The total number of inodes; 0 if the file system has no limit on inodes.
    pub total_inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

/// The access that a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// OPEN4_SHARE_ACCESS_READ.
    Read,
    /// OPEN4_SHARE_ACCESS_BOTH.
    ReadWrite,
}

/// How a byte is locked (`nfs_lock_type4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockMode {
    /// READ_LT: others may hold the byte in this mode, too.
    Shared,
    /// WRITE_LT: nobody else holds the byte.
    Exclusive,
}

/// What to look for in a sparse file (`data_content4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// NFS4_CONTENT_DATA.
    Data,
    /// NFS4_CONTENT_HOLE. The end of a file counts as a hole.
    Hole,
}

/// One step, by the operations that it stands for.
async fn take<F: Fs>(fs: &F, step: &Step<F::Handle>) -> FsResult<()> {
    match step {
        Step::Mkdir { at: (dir, name), mode } => fs.mkdir(dir, name, *mode).await.map(drop),
        Step::Replace { staged: (staging, staged), to: (dir, name), mode, content } => {
            fs.write_file(staging, staged, *mode, content.clone()).await?;
            fs.rename(staging, staged, dir, name).await
        }
        Step::Rename { from: (from_dir, from), to: (to_dir, to) } => fs.rename(from_dir, from, to_dir, to).await,
        Step::Remove { at: (dir, name) } => fs.remove(dir, std::slice::from_ref(name)).await.1,
    }
}

/// Returns [`Status::Inval`] if `mode` has more than the permission bits, which is all that a new object may get.
pub(crate) fn check_new_mode(mode: u32) -> FsResult<()> {
    if mode <= 0o777 { Ok(()) } else { Err(Status::Inval) }
}

/// Returns [`Status::Inval`] if objects of this kind are not made by [`Fs::mknod`].
pub(crate) fn check_special(kind: Kind) -> FsResult<()> {
    match kind {
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Ok(()),
        Kind::File | Kind::Directory | Kind::Symlink => Err(Status::Inval),
    }
}

/// The longest target of a symbolic link on Linux: PATH_MAX without the NUL.
pub const SYMLINK_MAX: usize = 4095;

/// Returns [`Status::Inval`] or [`Status::NameTooLong`] if a symbolic link cannot have this target.
pub(crate) fn check_symlink_target(target: &[u8]) -> FsResult<()> {
    match target {
        _ if target.is_empty() || target.contains(&0) => Err(Status::Inval),
        _ if target.len() > SYMLINK_MAX => Err(Status::NameTooLong),
        _ => Ok(()),
    }
}

/// The extended attributes in which a Linux mount presents access control lists: NFSv4 ACLs as they are, NFSv3 ACLs as
/// POSIX draft ACLs.
pub const ACLS: [&[u8]; 3] = [b"system.nfs4_acl", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Whether the driver reads and sets this extended attribute.
pub(crate) fn is_tenants_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.") || ACLS.contains(&name)
}

/// The byte that is locked for a key: the low 62 bits of the key, which fit every offset type on the way.
pub(crate) fn lock_offset(key: u64) -> i64 {
    (key & (u64::MAX >> 2)).cast_signed()
}

/// An export: a tree of objects on an NFS server. A clone refers to the same export.
///
/// No operation follows a symbolic link or leaves the export's file system. Every operation ends. When the server is
/// gone it ends with [`Status::TimedOut`]; then, or when the caller drops the future, the server may still carry it
/// out.
///
/// An operation on a removed directory, or on a name in one, returns [`Status::Stale`]. An operation on a name in an
/// object that is not a directory returns [`Status::NotDir`]. `testing/conformance` checks this contract line by line.
pub trait Fs: Clone + Send + Sync + 'static {
    /// An object, identified independently of its name. A handle is cheap to clone. An open file is closed soon after
    /// its last clone is dropped.
    type Handle: Clone + fmt::Debug + Send + Sync + 'static;

    /// Runs `work`, several operations on the export that it is given, in one go where that is cheaper than one by one.
    /// `work` may wait for this server only, and must not hand out what it opens.
    fn in_one_go<T, W>(&self, work: impl FnOnce(Self) -> W + Send + 'static) -> impl Future<Output = FsResult<T>> + Send
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let work = work(self.clone());
        async { Ok(work.await) }
    }

    /// The root directory of the export.
    fn root(&self) -> Self::Handle;

    /// LOOKUP and GETATTR: the object of that name. Returns [`Status::XDev`] if another file system of the server
    /// begins there.
    fn lookup(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// LOOKUPP: the directory that now contains this one, even after a move. The parent of the root is the root.
    fn parent(&self, dir: &Self::Handle) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// GETATTR, answered by the server and not by a cache. (The size and link count of a directory may be outdated:
    /// Linux 7 answers them from its cache while it holds a delegation.)
    fn getattr(&self, object: &Self::Handle) -> impl Future<Output = FsResult<Attr>> + Send;

    /// SETATTR, in the order that [`SetAttr`] documents. What was set before an error stays set. A symbolic link has no
    /// mode ([`Status::NotSupp`]), and some servers do not take its times from clients. The size can only be set
    /// through a handle that has the file open for writing (otherwise [`Status::Inval`]).
    fn setattr(&self, object: &Self::Handle, attr: SetAttr) -> impl Future<Output = FsResult<()>> + Send;

    /// CREATE of a directory. Returns [`Status::Exist`] if the name is taken. `mode` is at most 0o777. In a directory
    /// with setgid, the new one inherits the group and setgid.
    fn mkdir(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// OPEN with EXCLUSIVE4: creates an empty regular file and opens it for reading and writing. Returns
    /// [`Status::Exist`] if the name is taken. `mode` is at most 0o777.
    fn create(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// OPEN with UNCHECKED4: like [`Fs::create`], but if a regular file has the name already, opens that file
    /// unchanged. It costs the server one operation less, and is for directories in which nobody else works.
    fn open_or_create(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: u32,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// CREATE of a symbolic link to `target`, any bytes except NUL. Returns [`Status::Inval`] if `target` is empty,
    /// [`Status::NameTooLong`] if it is longer than [`SYMLINK_MAX`], and [`Status::Exist`] if the name is taken.
    fn symlink(
        &self,
        dir: &Self::Handle,
        name: &Name,
        target: &[u8],
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// CREATE of a FIFO, a socket, or a device node with the number `device`. Returns [`Status::Inval`] for any other
    /// kind and [`Status::Exist`] if the name is taken. `mode` is at most 0o777. A device node needs the capability
    /// CAP_MKNOD here and an export without root squashing there; otherwise the result is [`Status::Perm`].
    fn mknod(
        &self,
        dir: &Self::Handle,
        name: &Name,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// LINK: gives an object another name. Returns [`Status::IsDir`] for a directory and [`Status::Exist`] if the name
    /// is taken.
    fn link(&self, object: &Self::Handle, dir: &Self::Handle, name: &Name)
    -> impl Future<Output = FsResult<()>> + Send;

    /// READLINK: the bytes of the target. Returns [`Status::Inval`] if the object is not a symbolic link.
    fn readlink(&self, link: &Self::Handle) -> impl Future<Output = FsResult<Vec<u8>>> + Send;

    /// OPEN of an existing regular file. If the name is anything else, returns [`Status::Symlink`], [`Status::IsDir`]
    /// or [`Status::WrongType`] and does not touch the object.
    fn open(
        &self,
        dir: &Self::Handle,
        name: &Name,
        mode: OpenMode,
    ) -> impl Future<Output = FsResult<(Self::Handle, Attr)>> + Send;

    /// READ: up to `length` bytes from `offset`; fewer only at the end of the file. Like the operations below, down to
    /// [`Self::commit`], it returns [`Status::Inval`] if the handle is not an open file.
    fn read(&self, file: &Self::Handle, offset: u64, length: usize) -> impl Future<Output = FsResult<Vec<u8>>> + Send;

    /// WRITE of all of `data`. It is not yet on stable storage.
    fn write(&self, file: &Self::Handle, offset: u64, data: Vec<u8>) -> impl Future<Output = FsResult<()>> + Send;

    /// COMMIT: afterwards, everything written to the file is on stable storage. A failed write is reported here and
    /// nowhere later.
    fn commit(&self, file: &Self::Handle) -> impl Future<Output = FsResult<()>> + Send;

    /// SEEK (RFC 7862, section 15.11): the first offset at or after `offset` that has data or a hole, as `what` says;
    /// `None` if there is none before the end of the file. If the server does not support SEEK, the whole file counts
    /// as data.
    fn seek(&self, file: &Self::Handle, offset: u64, what: Seek) -> impl Future<Output = FsResult<Option<u64>>> + Send;

    /// CLONE (RFC 7862, section 15.13) of all of `source` into `target`, an empty file open for writing. The content,
    /// holes included, is there in one step and on stable storage. Returns the size. Returns [`Status::NotSupp`] or
    /// [`Status::XDev`], without having done anything, if the server cannot clone.
    fn clone_file(&self, source: &Self::Handle, target: &Self::Handle) -> impl Future<Output = FsResult<u64>> + Send;

    /// COPY (RFC 7862, section 15.2) by the server: up to `length` bytes at `offset` go to the same offset of `target`,
    /// another file that is open for writing. Returns the number of bytes copied, which is smaller than `length` or 0
    /// where the source ends. The data is not yet on stable storage. Returns [`Status::NotSupp`] or [`Status::XDev`] if
    /// the server cannot copy.
    fn copy(
        &self,
        source: &Self::Handle,
        target: &Self::Handle,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = FsResult<u64>> + Send;

    /// Copies files to the same names in another directory of the export, in fewer requests than the single operations take:
    /// content (CLONE), owner, mode, times and access control list, on stable storage. Returns what each file was, in the
    /// order of the names, up to the first that is an error.
    ///
    /// There is `None`, or nothing at the end, for what the caller has to copy in steps: anything but a regular file with one
    /// name and without extended attributes, a file whose name is taken in `to`, and whatever the client or the server cannot
    /// do. Then nothing was done with it, or an empty file was made in `to`.
    fn clone_entries(
        &self,
        from: &Self::Handle,
        to: &Self::Handle,
        names: &[Name],
    ) -> impl Future<Output = Vec<FsResult<Option<Attr>>>> + Send {
        let _ = (from, to, names);
        std::future::ready(Vec::new())
    }

    /// LISTXATTRS (RFC 8276) of a regular file or a directory: the names of extended attributes that tenants can set
    /// (`user.*`) and of access control lists ([`ACLS`]). Returns [`Status::NotSupp`] if the export has no extended
    /// attributes.
    fn list_xattrs(&self, object: &Self::Handle) -> impl Future<Output = FsResult<Vec<Vec<u8>>>> + Send;

    /// GETXATTR: the value of an attribute that [`Self::list_xattrs`] returned; `None` if it has been removed since.
    fn get_xattr(&self, object: &Self::Handle, name: &[u8]) -> impl Future<Output = FsResult<Option<Vec<u8>>>> + Send;

    /// SETXATTR: creates the attribute, or changes its value.
    fn set_xattr(&self, object: &Self::Handle, name: &[u8], value: &[u8]) -> impl Future<Output = FsResult<()>> + Send;

    /// The whole content of a regular file of at most `limit` bytes. Returns [`Status::FBig`] for a larger file, and
    /// otherwise fails like [`Fs::open`] and [`Fs::read`].
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

    /// Reads a file like [`Fs::read_file`] if the same request shows that the directory `lacking` has few entries, and none
    /// of `names`, in whatever case. After `None`, the caller has to read the file and to look for the names.
    fn read_file_if_lacking(
        &self,
        file: (&Self::Handle, &Name, usize),
        lacking: (&Self::Handle, &[Name]),
    ) -> impl Future<Output = FsResult<Option<FsResult<Vec<u8>>>>> + Send {
        let _ = (file, lacking);
        std::future::ready(Ok(None))
    }

    /// Creates a regular file with that content, on stable storage when this returns: [`Fs::create`], [`Fs::write`] and
    /// [`Fs::commit`]. After a failure, a part of the file may be there.
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

    /// Carries out steps, each after the one before it, up to the first that fails. Returns how many are done, and why the
    /// next one is not. After [`Status::is_unanswered`], it and further ones may be done, or will be.
    fn in_order(&self, steps: &[Step<Self::Handle>]) -> impl Future<Output = (usize, FsResult<()>)> + Send {
        async move {
            for (done, step) in steps.iter().enumerate() {
                if let Err(status) = take(self, step).await {
                    return (done, Err(status));
                }
            }
            (steps.len(), Ok(()))
        }
    }

    /// RENAME: replaces a file by a file, or an empty directory by a directory, in one step. Otherwise returns
    /// [`Status::IsDir`], [`Status::NotDir`] or [`Status::NotEmpty`], depending on the existing object; and
    /// [`Status::Inval`] when a directory is moved into itself, and [`Status::OtherProject`] where the target directory
    /// hands down a quota project that is not the object's.
    fn rename(
        &self,
        from_dir: &Self::Handle,
        from: &Name,
        to_dir: &Self::Handle,
        to: &Name,
    ) -> impl Future<Output = FsResult<()>> + Send;

    /// REMOVE of anything except a directory, for which it returns [`Status::IsDir`].
    ///
    /// While this client holds the file, even by a handle from [`Self::lookup`], the client may keep it under a name
    /// that begins with `.nfs`. Then the directory is not empty: drop the handle first. The same is true of a file that
    /// a rename replaces.
    fn unlink(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<()>> + Send;

    /// REMOVE of an empty directory. Otherwise returns [`Status::NotEmpty`] or [`Status::NotDir`].
    fn rmdir(&self, dir: &Self::Handle, name: &Name) -> impl Future<Output = FsResult<()>> + Send;

    /// REMOVE of several names in a directory, in their order, of anything but a directory with entries. Returns how many
    /// are gone, those included that were not there, and why the next one is not.
    fn remove(&self, dir: &Self::Handle, names: &[Name]) -> impl Future<Output = (usize, FsResult<()>)> + Send {
        async move {
            for (gone, name) in names.iter().enumerate() {
                let removed = match self.unlink(dir, name).await {
                    Err(Status::IsDir) => self.rmdir(dir, name).await,
                    removed => removed,
                };
                match removed {
                    Ok(()) | Err(Status::NoEnt) => {}
                    Err(status) => return (gone, Err(status)),
                }
            }
            (names.len(), Ok(()))
        }
    }

    /// READDIR: a page of the directory's entries, which may be empty. Entries that exist throughout the listing appear
    /// exactly once. Removing listed entries between two pages does not disturb the rest.
    fn readdir(&self, dir: &Self::Handle, from: Cookie) -> impl Future<Output = FsResult<Page>> + Send;

    /// The figures of the file system, or of the quota, that the directory is in.
    fn statfs(&self, dir: &Self::Handle) -> impl Future<Output = FsResult<FsStat>> + Send;

    /// LOCK (without waiting) of the byte at `key` (its low 62 bits) of a file that is open for writing. Returns true
    /// if this handle or a clone of it holds the lock now, even if it did so before. A holder has one lock of a byte,
    /// in the mode that it was last granted. Another open of the same file is another holder, also in this process. A
    /// lock ends with one [`Fs::unlock`], however often it was taken, or when its holder closes the file or crashes.
    fn try_lock(&self, file: &Self::Handle, key: u64, mode: LockMode) -> impl Future<Output = FsResult<bool>> + Send;

    /// LOCKU of the byte at `key`.
    fn unlock(&self, file: &Self::Handle, key: u64) -> impl Future<Output = FsResult<()>> + Send;

    /// Whether other clients of the server see the locks of this one: false for NFSv3 without lockd.
    fn locks_are_shared(&self) -> bool;

    /// The client that reaches the export: `kernel`, or `own` for the driver's.
    fn client(&self) -> &'static str {
        "kernel"
    }

    /// What an operator would want to know of the connection, if this client knows it.
    fn connection(&self) -> Option<String> {
        None
    }

    /// The version of NFS, such as `4.2`, if it is known.
    fn version(&self) -> Option<&str> {
        None
    }

    /// What the server has shown so far that it can do.
    fn features(&self) -> Features {
        Features::default()
    }
}

/// Returns the entries of a directory's first page that has any; none if the directory is empty.
///
/// A page without entries is not the end of a directory: removed names, `.` and `..` may fill it.
pub async fn first_entries<F: Fs>(fs: &F, dir: &F::Handle) -> FsResult<Vec<Entry>> {
    let mut page = fs.readdir(dir, 0).await?;
    while let (true, Some(next)) = (page.entries.is_empty(), page.next) {
        page = fs.readdir(dir, next).await?;
    }
    Ok(page.entries)
}
