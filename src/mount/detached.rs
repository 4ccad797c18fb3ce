//! Detached mounts: the kernel's mount calls, fsopen(2), fsconfig(2) and fsmount(2).
//!
//! A detached mount hangs in no directory and is seen by nobody; it lives as long as its descriptor, at most as long as
//! the process. Everything here may block as long as the server pleases: it is called through the gate alone.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, open_tree,
};

/// The kernel's one name for all versions.
const NFS: &str = "nfs";
/// Bytes of the longest value that fsconfig(2) takes.
pub const VALUE_MAX: usize = 255;
/// Where the one mount is made that cannot be made without a path: a directory that every container has.
const PLACE: &str = "/proc";

/// A mount to be made.
#[derive(Debug, Clone)]
pub struct Request {
    /// `SERVER:/PATH`.
    pub source: String,
    /// For the file system: flags and `key=value`.
    pub parameters: Vec<(&'static str, Option<String>)>,
    /// For the mount.
    pub attributes: MountAttrFlags,
}

/// Why a mount was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed, as the man pages call it.
    pub call: String,
    /// Its errno(3).
    pub errno: Errno,
    /// What the file system said beside it; empty for nothing.
    pub log: String,
}

impl Failure {
    fn of(call: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        |errno| Self { call: call.into(), errno, log: String::new() }
    }
}

/// Makes the mount; the descriptor is that of its root.
pub fn detached(request: &Request) -> Result<OwnedFd, Failure> {
    if request.source.len() > VALUE_MAX { with_long_source(request) } else { with_context(request) }
}

fn with_context(request: &Request) -> Result<OwnedFd, Failure> {
    let context = fsopen(NFS, FsOpenFlags::FSOPEN_CLOEXEC).map_err(Failure::of("fsopen"))?;
    let said = |failure: Failure| Failure { log: log(context.as_fd()), ..failure };
    fsconfig_set_string(context.as_fd(), "source", &request.source)
        .map_err(|errno| said(Failure::of("fsconfig source")(errno)))?;
    for (key, value) in &request.parameters {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, value),
            None => fsconfig_set_flag(context.as_fd(), *key),
        }
        .map_err(|errno| said(Failure::of(format!("fsconfig {key}"))(errno)))?;
    }
    fsconfig_create(context.as_fd()).map_err(|errno| said(Failure::of("fsconfig create")(errno)))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, request.attributes)
        .map_err(|errno| said(Failure::of("fsmount")(errno)))
}

/// What the file system says about the last calls: one message a read, `e TEXT` for an error.
fn log(context: BorrowedFd<'_>) -> String {
    let mut messages: Vec<String> = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]);
        let message = message.trim_end();
        let text = message.split_once(' ').map_or(message, |(_severity, text)| text).escape_debug().to_string();
        if !messages.contains(&text) {
            messages.push(text);
        }
    }
    messages.join("; ")
}

/// fsconfig(2) takes no source of more than 255 bytes; mount(2) does, but needs a path. It gets one in a mount namespace
/// that one thread makes for itself, where nobody sees the mount, and which ends with the thread; the mount is taken out
/// of it as a descriptor.
fn with_long_source(request: &Request) -> Result<OwnedFd, Failure> {
    let data = request
        .parameters
        .iter()
        .map(|(key, value)| value.as_ref().map_or_else(|| (*key).to_owned(), |value| format!("{key}={value}")))
        .collect::<Vec<_>>()
        .join(",");
    // No checked parameter holds a NUL.
    let data = CString::new(data).map_err(|_| Failure::of("mount")(Errno::INVAL))?;
    let in_own_namespace = || {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|errno| Failure::of("unshare")(Errno::from_raw_os_error(errno as i32)))?;
        // A mount spreads the way that the mount under it does.
        mount_change(PLACE, MountPropagationFlags::PRIVATE).map_err(Failure::of("mount private"))?;
        mount(&request.source, PLACE, NFS, flags(request.attributes), data.as_c_str()).map_err(Failure::of("mount"))?;
        open_tree(CWD, PLACE, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(Failure::of("open_tree"))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, in_own_namespace);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::of("thread")(Errno::AGAIN)),
        }
    })
}

/// The attributes as mount(2) takes them.
fn flags(attributes: MountAttrFlags) -> MountFlags {
    [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ]
    .into_iter()
    .filter(|(attribute, _)| attributes.contains(*attribute))
    .fold(MountFlags::empty(), |flags, (_, flag)| flags.union(flag))
}
