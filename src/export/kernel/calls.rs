//! The system calls on an export. Each function is one operation. It may block for as long as the server does, so it
//! runs behind the gate.
//!
//! Every call starts at a descriptor and goes down at most one name. It follows neither symbolic links nor mounts, and
//! does not enter another file system of the server.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    Advice, AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, SeekFrom, Statx, StatxAttributes, StatxFlags, Timespec,
    Timestamps, Uid,
};
use rustix::io::Errno;

use crate::export::fs::{Attr, Cookie, Entry, FsResult, FsStat, Kind, Name, OpenMode, Page, SetAttr, Status, Time};
use crate::mount::beneath;

/// Opens an object as a place only: no device is touched, no FIFO is waited for, and no symbolic link is followed.
pub(super) const OBJECT: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Even if the file turns out to be a FIFO or a device, opening it neither blocks nor acquires a terminal.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// The buffer size for getdents64(2).
const LISTING: usize = 32 * 1024;
/// A buffer for any single entry.
const ONE_ENTRY: usize = 512;
/// Reads and writes of at least this many bytes use the client's cache.
const BUFFERED: usize = 256 << 10;
/// The most that one read(2) is asked for, so that an absurd length does not allocate memory.
const READ: usize = 1 << 20;

/// Opens the object of that name as a place only (O_PATH).
pub(super) fn lookup(dir: BorrowedFd<'_>, name: &Name) -> FsResult<(OwnedFd, Attr)> {
    let object = open_below(dir, name.as_bytes(), OBJECT, 0).map_err(stale_if_removed(dir))?;
    let attr = getattr(object.as_fd())?;
    Ok((object, attr))
}

/// statx(2), answered by the server. Returns [`Status::Stale`] for an object without a name, and [`Status::XDev`] where
/// another file system of the server begins.
pub(super) fn getattr(object: BorrowedFd<'_>) -> FsResult<Attr> {
    stat(object, AtFlags::STATX_FORCE_SYNC)
}

/// statx(2) of an object that was reached just now, with the attributes that came with the server's answer.
pub(super) fn seen(object: BorrowedFd<'_>) -> FsResult<Attr> {
    stat(object, AtFlags::STATX_DONT_SYNC)
}

fn stat(object: BorrowedFd<'_>, sync: AtFlags) -> FsResult<Attr> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT | sync;
    let statx = retry(|| rustix::fs::statx(object, "", flags, StatxFlags::BASIC_STATS))?;
    if statx.stx_attributes.contains(StatxAttributes::AUTOMOUNT) {
        return Err(Status::XDev);
    }
    if statx.stx_nlink == 0 {
        return Err(Status::Stale);
    }
    attr(&statx)
}

fn attr(statx: &Statx) -> FsResult<Attr> {
    let time = |time: rustix::fs::StatxTimestamp| Time { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    let mode = u32::from(statx.stx_mode);
    Ok(Attr {
        kind: kind(FileType::from_raw_mode(mode)).ok_or(Status::Io)?,
        mode: mode & 0o7777,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        size: statx.stx_size,
        used: statx.stx_blocks.saturating_mul(512),
        links: statx.stx_nlink.into(),
        fileid: statx.stx_ino,
        device: (statx.stx_rdev_major, statx.stx_rdev_minor),
        atime: time(statx.stx_atime),
        mtime: time(statx.stx_mtime),
    })
}

fn kind(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// The parent directory, as the directory itself names it, so that the name cannot lead elsewhere. `root` is its own
/// parent.
pub(super) fn parent(root: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> FsResult<(OwnedFd, Attr)> {
    let known = |dir| stat(dir, AtFlags::STATX_DONT_SYNC).map(|attr| attr.fileid);
    let name: &[u8] = if known(dir)? == known(root)? { b"." } else { b".." };
    let flags = OBJECT | OFlags::DIRECTORY;
    let parent = retry(|| beneath::open_here(dir, name, flags))?;
    let attr = getattr(parent.as_fd())?;
    Ok((parent, attr))
}

/// ftruncate(2), chown(2), chmod(2), utimensat(2). Each one may change what a later one sets, so the order matters.
pub(super) fn setattr(object: BorrowedFd<'_>, kind: Kind, set: SetAttr) -> FsResult<()> {
    if let Some(size) = set.size {
        // Linux uses signed file offsets.
        let size = i64::try_from(size).map_err(|_| Status::FBig)?.cast_unsigned();
        retry(|| rustix::fs::ftruncate(object, size))?;
    }
    if set.uid.is_some() || set.gid.is_some() {
        let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
        retry(|| rustix::fs::chownat(object, "", uid, gid, AtFlags::EMPTY_PATH))?;
    }
    if let Some(mode) = set.mode {
        if kind == Kind::Symlink {
            return Err(Status::NotSupp);
        }
        let (itself, mode) = (itself(object), Mode::from_raw_mode(mode));
        retry(|| rustix::fs::chmodat(CWD, &*itself, mode, AtFlags::empty())).map_err(no_proc)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let time = |time: Option<Time>| match time {
            Some(Time { seconds, nanoseconds }) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
            None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        };
        let times = Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
        retry(|| rustix::fs::utimensat(object, "", &times, AtFlags::EMPTY_PATH))?;
    }
    Ok(())
}

/// mkdir(2).
pub(super) fn mkdir(dir: BorrowedFd<'_>, name: &Name, mode: u32) -> FsResult<()> {
    retry(|| rustix::fs::mkdirat(dir, name.as_bytes(), Mode::from_raw_mode(mode))).map_err(stale_if_removed(dir))
}

/// The directory of that name.
pub(super) fn directory(dir: BorrowedFd<'_>, name: &Name) -> FsResult<(OwnedFd, Attr)> {
    let found = open_below(dir, name.as_bytes(), OBJECT | OFlags::DIRECTORY, 0)?;
    let attr = seen(found.as_fd())?;
    Ok((found, attr))
}

/// open(2) of a new file.
pub(super) fn create(dir: BorrowedFd<'_>, name: &Name, mode: u32) -> FsResult<(OwnedFd, Attr)> {
    let flags = FILE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = undelegated(flags, |flags| open_below(dir, name.as_bytes(), flags, mode));
    let file = file.map_err(stale_if_removed(dir))?;
    let attr = seen(file.as_fd())?;
    Ok((file, attr))
}

/// open(2) of a regular file, which is created if it is missing.
pub(super) fn open_or_create(dir: BorrowedFd<'_>, name: &Name, mode: u32) -> FsResult<(OwnedFd, Attr)> {
    open_regular(dir, name, OFlags::RDWR | OFlags::CREATE, mode)
}

/// open(2) of an existing regular file.
pub(super) fn open(dir: BorrowedFd<'_>, name: &Name, mode: OpenMode) -> FsResult<(OwnedFd, Attr)> {
    let access = match mode {
        OpenMode::Read => OFlags::RDONLY,
        OpenMode::ReadWrite => OFlags::RDWR,
    };
    open_regular(dir, name, access, 0)
}

/// Opens what should be a regular file, and returns an error for its kind if it is not. The server opens regular files
/// only. If this client knows the object already, it may open a FIFO; that neither blocks nor has an effect, since the
/// other end of the FIFO would be in this very mount. Devices are not opened, since the mount is `nodev`.
fn open_regular(dir: BorrowedFd<'_>, name: &Name, access: OFlags, mode: u32) -> FsResult<(OwnedFd, Attr)> {
    let regular = |attr: Attr| match attr.kind {
        Kind::File => Ok(attr),
        Kind::Directory => Err(Status::IsDir),
        Kind::Symlink => Err(Status::Symlink),
        _ => Err(Status::WrongType),
    };
    match undelegated(FILE | access, |flags| open_below(dir, name.as_bytes(), flags, mode)) {
        Ok(file) => {
            let attr = regular(seen(file.as_fd())?)?;
            Ok((file, attr))
        }
        Err(status @ (Status::NoEnt | Status::Stale)) => Err(stale_if_removed(dir)(status)),
        Err(status) => {
            // The object is missing if it could not be created, for example because the server is full.
            if let Ok(object) = open_below(dir, name.as_bytes(), OBJECT, 0) {
                regular(seen(object.as_fd())?)?;
            }
            Err(status)
        }
    }
}

/// Opens a file so that the client does not ask the server for a delegation.
///
/// With a delegation, Linux (6.13 to 7.2 at least) keeps the times that are set to itself. A Linux server then ignores
/// them because they are older than the delegation (RFC 9754, section 5). Also, whoever else opens the file has to wait
/// until the delegation is returned. With O_DIRECT the client does not ask for a delegation; [`buffered`] clears the
/// flag where it would do harm.
fn undelegated(flags: OFlags, open: impl Fn(OFlags) -> FsResult<OwnedFd>) -> FsResult<OwnedFd> {
    match open(flags | OFlags::DIRECT) {
        // File systems other than NFS may not support O_DIRECT.
        Err(Status::Inval) => open(flags),
        opened => opened,
    }
}

/// From now on, the client reads ahead and writes back through its cache.
fn buffered(file: BorrowedFd<'_>) -> FsResult<()> {
    retry(|| rustix::fs::fcntl_setfl(file, OFlags::empty()))
}

/// Reads or writes a part of a file: directly, which takes the fewest operations, or through the client's cache.
fn transfer(file: BorrowedFd<'_>, length: usize, call: impl FnMut() -> rustix::io::Result<usize>) -> FsResult<usize> {
    let mut call = call;
    if length >= BUFFERED {
        buffered(file)?;
    }
    match retry(&mut call) {
        // File systems other than NFS may require aligned offsets and lengths.
        Err(Status::Inval) => {
            buffered(file)?;
            retry(&mut call)
        }
        done => done,
    }
}

/// pread(2), until `length` or the end of the file.
pub(super) fn read(file: BorrowedFd<'_>, offset: u64, length: usize) -> FsResult<Vec<u8>> {
    let mut data = Vec::new();
    while data.len() < length {
        let have = data.len();
        data.resize(length.min(have + READ), 0);
        let got = transfer(file, length, || rustix::io::pread(file, &mut data[have..], offset + have as u64))?;
        data.truncate(have + got);
        if got == 0 {
            break;
        }
    }
    Ok(data)
}

/// pwrite(2), until everything is written.
pub(super) fn write(file: BorrowedFd<'_>, offset: u64, data: &[u8]) -> FsResult<()> {
    let mut written = 0;
    while written < data.len() {
        let at = offset + written as u64;
        match transfer(file, data.len(), || rustix::io::pwrite(file, &data[written..], at))? {
            0 => return Err(Status::Io),
            more => written += more,
        }
    }
    Ok(())
}

/// fsync(2). It reports every write that failed since the file was opened, including write-back by the kernel.
pub(super) fn commit(file: BorrowedFd<'_>) -> FsResult<()> {
    retry(|| rustix::fs::fsync(file))
}

/// rename(2).
pub(super) fn rename(from_dir: BorrowedFd<'_>, from: &Name, to_dir: BorrowedFd<'_>, to: &Name) -> FsResult<()> {
    retry(|| rustix::fs::renameat(from_dir, from.as_bytes(), to_dir, to.as_bytes()))
        .map_err(not_empty)
        .map_err(other_project)
        .map_err(stale_if_removed(from_dir))
        .map_err(stale_if_removed(to_dir))
}

/// unlink(2).
pub(super) fn unlink(dir: BorrowedFd<'_>, name: &Name) -> FsResult<()> {
    retry(|| rustix::fs::unlinkat(dir, name.as_bytes(), AtFlags::empty())).map_err(stale_if_removed(dir))
}

/// rmdir(2).
pub(super) fn rmdir(dir: BorrowedFd<'_>, name: &Name) -> FsResult<()> {
    retry(|| rustix::fs::unlinkat(dir, name.as_bytes(), AtFlags::REMOVEDIR))
        .map_err(not_empty)
        .map_err(stale_if_removed(dir))
}

/// One getdents64(2), from the position of the cookie.
pub(super) fn readdir(dir: BorrowedFd<'_>, from: Cookie) -> FsResult<Page> {
    let listed = open_below(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, 0)?;
    let seek = |cookie| retry(|| rustix::fs::seek(&listed, SeekFrom::Start(cookie)));
    if from == 0 {
        // The client's cached listing may be outdated: it trusts a delegation (Linux 7) although another mount of this
        // machine, which is the same client to the server, has changed the directory since.
        retry(|| rustix::fs::fadvise(&listed, 0, None, Advice::DontNeed))?;
    } else {
        seek(from)?;
    }
    let mut buffer = vec![MaybeUninit::uninit(); LISTING];
    let mut listing = RawDir::new(&listed, &mut buffer);
    let (mut entries, mut last) = (Vec::new(), None);
    while last.is_none() || !listing.is_buffer_empty() {
        let entry = match listing.next() {
            None => return Ok(Page { entries, next: None }),
            Some(Err(Errno::INTR)) => continue,
            Some(Err(errno)) => return Err(stale_if_removed(dir)(errno.into())),
            Some(Ok(entry)) => entry,
        };
        last = Some(entry.next_entry_cookie());
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let name = Name::new(name).map_err(|_| Status::Io)?;
            entries.push(Entry {
                name,
                kind: kind(entry.file_type()),
                fileid: entry.ino(),
                cookie: entry.next_entry_cookie(),
            });
        }
    }
    // Most directories fit into one page. Finding that out here saves the caller another call.
    let mut buffer = [MaybeUninit::uninit(); ONE_ENTRY];
    let more = RawDir::new(&listed, &mut buffer).next().is_some();
    Ok(Page { entries, next: last.filter(|_| more) })
}

/// statfs(2).
pub(super) fn statfs(dir: BorrowedFd<'_>) -> FsResult<FsStat> {
    let stat = retry(|| rustix::fs::fstatvfs(dir))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(FsStat {
        total_bytes: bytes(stat.f_blocks),
        free_bytes: bytes(stat.f_bfree),
        available_bytes: bytes(stat.f_bavail),
        total_inodes: stat.f_files,
        free_inodes: stat.f_ffree,
    })
}

/// A path to an open object, for calls that take a path. Their forms for an O_PATH descriptor came late (chmod(2) in
/// Linux 6.6) or need a capability (link(2)). This path works as long as O_PATH exists.
pub(super) fn itself(object: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", object.as_raw_fd())
}

/// The error of a call on [`itself`] if /proc is missing.
pub(super) fn no_proc(status: Status) -> Status {
    if status == Status::NoEnt { Status::NotSupp } else { status }
}

pub(super) fn open_below(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: u32) -> FsResult<OwnedFd> {
    retry(|| beneath::open_below(dir, name, flags, Mode::from_raw_mode(mode)))
}

pub(super) fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> FsResult<T> {
    rustix::io::retry_on_intr(call).map_err(Status::from)
}

/// In a directory that this client removed, Linux returns ENOENT; the server would return ESTALE.
pub(super) fn stale_if_removed(dir: BorrowedFd<'_>) -> impl Fn(Status) -> Status {
    move |status| match status {
        // From the client's cache, since the server was not asked for the name either.
        Status::NoEnt if stat(dir, AtFlags::STATX_DONT_SYNC) == Err(Status::Stale) => Status::Stale,
        other => other,
    }
}

/// EXDEV of rename(2) or link(2): both directories are on one file system, because no operation leaves it, so XFS
/// compared their projects.
pub(super) fn other_project(status: Status) -> Status {
    if status == Status::XDev { Status::OtherProject } else { status }
}

/// Depending on the file system, rename(2) and rmdir(2) return EEXIST or ENOTEMPTY.
fn not_empty(status: Status) -> Status {
    if status == Status::Exist { Status::NotEmpty } else { status }
}
