//! The Unix sockets of the driver. Only root can connect. A new instance takes a path over from an earlier instance
//! without a gap, and only the instance that owns a socket removes its path.
//!
//! Two instances of a driver share one path during an update of the node plugin. Each creates its socket under a hidden
//! name and renames it into place. So the path always leads to a listening socket. kubelet watches its plugins_registry
//! directory for new files and ignores hidden names, so it sees exactly one new socket. The old instance compares the
//! inode before it removes the path. Both instances lock the directory (flock(2)) for this, so that nothing happens
//! between the comparison and the removal.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};

/// How often to try the directory's lock, which another instance holds for microseconds.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// The path of a Unix socket: not empty, ends with a name, and is short enough for the kernel (unix(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath(PathBuf);

impl SocketPath {
    /// `sun_path` has 108 bytes: one for the closing NUL, one for the dot of the hidden name.
    pub const MAX: usize = 106;

    /// Parses an absolute or relative path. `field` is the caller's name for it, for the error.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let bad = |reason: &str| Err(Error::invalid(field, format!("`{}`: {reason}", text.escape_debug())));
        if text.contains('\0') {
            return bad("a path cannot contain NUL");
        }
        if text.len() > Self::MAX {
            return bad("the path of a Unix socket has at most 106 bytes");
        }
        if text.ends_with('/') || Path::new(text).file_name().is_none() {
            return bad("not the path of a socket, such as /csi/csi.sock");
        }
        Ok(Self(text.into()))
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    fn directory(&self) -> &Path {
        match self.0.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The hidden name in the same directory under which the socket is created.
    fn hidden(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.0.file_name().unwrap_or_default());
        self.0.with_file_name(name)
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// A listening socket and its claim on the path.
#[derive(Debug)]
pub struct Socket {
    // Dropped in this order; see `into_parts`.
    claim: Claim,
    listener: tokio::net::UnixListener,
}

impl Socket {
    /// Creates the socket with mode 0600 from the start, and replaces an existing socket: a stale one, or that of an
    /// earlier instance. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the path exists and is not a socket. It then stays unchanged.
    pub fn bind(path: &SocketPath) -> Result<Self> {
        let failed = |errno: Errno| Error::Internal(format!("creating socket `{path}`: {errno}"));
        let _lock = lock(path.directory()).map_err(failed)?;
        let hidden = path.hidden();
        if is_taken(&hidden)? {
            rustix::fs::unlink(&hidden).map_err(failed)?;
        }
        is_taken(path.as_path())?;
        let socket = listen(&hidden).map_err(failed)?;
        let made = rustix::fs::statat(CWD, &hidden, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        rustix::fs::rename(&hidden, path.as_path()).map_err(failed)?;
        let claim = Claim { path: path.clone(), device: made.st_dev, inode: made.st_ino };
        let listener = tokio::net::UnixListener::from_std(socket.into())
            .map_err(|error| Error::Internal(format!("serving on socket `{path}`: {error}")))?;
        Ok(Self { claim, listener })
    }

    /// Returns the listener, and the claim, which must be dropped first: while the listener exists, no other socket can
    /// have its inode number.
    pub fn into_parts(self) -> (tokio::net::UnixListener, Claim) {
        (self.listener, self.claim)
    }
}

/// The right to remove a socket's path. The drop removes the path if it still leads to this socket.
#[derive(Debug)]
pub struct Claim {
    path: SocketPath,
    device: u64,
    inode: u64,
}

/// What the path of a socket leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This instance's socket.
    Us,
    /// Something else: another instance has taken the path over.
    Other,
    /// Nothing.
    Nobody,
}

impl Claim {
    /// What the path leads to now.
    pub fn holder(&self) -> Holder {
        match rustix::fs::statat(CWD, self.path.as_path(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == (self.device, self.inode) => Holder::Us,
            Ok(_) => Holder::Other,
            Err(_) => Holder::Nobody,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let path = &self.path;
        let removed = lock(path.directory()).and_then(|_lock| match self.holder() {
            Holder::Us => rustix::fs::unlink(path.as_path()),
            Holder::Other | Holder::Nobody => Ok(()),
        });
        if let Err(errno) = removed {
            // The next instance replaces the socket.
            tracing::warn!(socket = %path, error = %errno, "removing the socket failed; it stays behind");
        }
    }
}

/// Locks the directory until the returned file is closed. The lock is on the directory itself, because a lock file
/// would stay behind.
fn lock(directory: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = File::from(rustix::fs::open(directory, flags, Mode::empty())?);
    for _ in 1..LOCK_TRIES {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            other => return other.map(|()| directory),
        }
    }
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).map(|()| directory)
}

/// Whether the path is a socket. Anything else that exists is an error.
fn is_taken(path: &Path) -> Result<bool> {
    let shown = path.display();
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => Ok(true),
        Ok(_) => {
            let reason = "it exists and is not a socket: remove it, or serve on another path";
            Err(Error::invalid(format!("`{shown}`"), reason))
        }
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::Internal(format!("reading the type of `{shown}`: {errno}"))),
    }
}

fn listen(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the bound name the mode of the socket. So others can never connect, and the umask, which belongs to
    // the whole process, stays unchanged.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    fn path_in(directory: &TempDir) -> SocketPath {
        SocketPath::parse("--endpoint", directory.path().join("csi.sock").to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn only_the_owner_can_connect_to_a_socket_and_its_path_ends_with_its_claim() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        let (listener, claim) = Socket::bind(&path).unwrap().into_parts();
        let metadata = std::fs::symlink_metadata(path.as_path()).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_eq!(claim.holder(), Holder::Us);
        drop(claim);
        drop(listener);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn stale_sockets_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        drop(std::os::unix::net::UnixListener::bind(path.as_path()).unwrap());
        drop(std::os::unix::net::UnixListener::bind(path.hidden()).unwrap());
        let (_listener, claim) = Socket::bind(&path).unwrap().into_parts();
        tokio::net::UnixStream::connect(path.as_path()).await.unwrap();
        drop(claim);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[rstest]
    #[case::a_file(|path: &Path| std::fs::write(path, "kept").unwrap())]
    #[case::a_directory(|path: &Path| std::fs::create_dir(path).unwrap())]
    #[case::a_link(|path: &Path| std::os::unix::fs::symlink("/dev/null", path).unwrap())]
    #[tokio::test]
    async fn a_path_that_is_not_a_socket_stays_unchanged(#[case] make: fn(&Path)) {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        make(path.as_path());
        let before = std::fs::symlink_metadata(path.as_path()).unwrap().ino();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(std::fs::symlink_metadata(path.as_path()).unwrap().ino(), before);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_second_instance_takes_the_path_over_and_the_first_leaves_it_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        let (_first, claim) = Socket::bind(&path).unwrap().into_parts();
        let (second, second_claim) = Socket::bind(&path).unwrap().into_parts();
        assert_eq!(claim.holder(), Holder::Other);
        drop(claim);
        let client = tokio::net::UnixStream::connect(path.as_path());
        let (client, accepted) = tokio::join!(client, second.accept());
        assert!(client.is_ok() && accepted.is_ok());
        drop(second_claim);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_missing_directory_is_an_error_that_names_the_socket() {
        let path = SocketPath::parse("--endpoint", "/nowhere/csi.sock").unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("/nowhere/csi.sock") && error.contains("No such file"), "{error}");
    }

    #[rstest]
    fn an_invalid_socket_path_is_rejected(#[values("", "/", "a/", "..", "a\0b", &"n".repeat(107))] text: &str) {
        assert!(SocketPath::parse("--endpoint", text).is_err(), "{text:?}");
    }
}
