//! Detached mounts: the kernel's mount calls, fsopen(2), fsconfig(2) and fsmount(2).
//!
//! A detached mount is in no directory, so no other process sees it. It ends with its descriptor, or at the latest with
//! the process. All functions here may block until the server answers, so only call them through the gate.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, open_tree,
};

use crate::error::Error;
use crate::mount::{beneath, security, selinux};
use crate::nfs::option_table::{VALUE_MAX, quoted};
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Source, SubDir};

/// The kernel's name of the file system, for all versions of NFS.
pub const NFS: &str = "nfs";
/// The mount point for mount(2), which needs a path: a directory that every container has.
const PLACE: &str = "/proc";
/// The call that fails if the server mounts the share, and has no such directory below it.
pub const LOOK_BELOW: &str = "openat";

/// One parameter of fsconfig(2): a flag, or a key and its value.
pub type Parameter = (&'static str, Option<String>);

/// The arguments of a mount.
#[derive(Debug, Clone)]
pub struct Request {
    /// `SERVER:/PATH`.
    pub source: String,
    /// `SERVER:/SHARE` and the path below it, if the server may mount the share alone, as some do with version 3.
    pub parts: Option<(String, SubDir)>,
    /// The parameters of the file system.
    pub parameters: Vec<Parameter>,
    /// The attributes of the mount.
    pub attributes: MountAttrFlags,
}

/// Why a mount failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The call that failed, by its name in the man pages.
    pub call: String,
    /// Its errno(3).
    pub errno: Errno,
    /// The message of the file system or of the server; empty if there is none.
    pub log: String,
    /// What this node adds to the advice, after `; `; empty if it adds nothing.
    pub hint: &'static str,
}

/// Why one attempt at a mount failed.
#[derive(Debug)]
pub enum Attempt {
    /// The kernel rejected the mount, or the server failed a check before the mount.
    Refused(Failure),
    /// Another error.
    Other(Error),
}

impl Attempt {
    /// The errno(3) of a refusal.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(failure) => Some(failure.errno),
            Self::Other(_) => None,
        }
    }

    /// The same, with what labels among the options have to do with it.
    pub fn with_labels(self, options: &MountOptions) -> Self {
        match self {
            Self::Refused(failure) if failure.errno == Errno::INVAL && !is_label(&failure.call) && options.labels() => {
                let hint = "; SELinux may be off, or refuse these labels for NFS, such as `defcontext=` without \
                            `security_label` on the export: `dmesg` has its reason";
                Self::Refused(Failure { hint, ..failure })
            }
            other => other,
        }
    }

    /// The error for the mount that failed.
    pub fn into_error(self, source: &Source, options: &MountOptions) -> Error {
        match self {
            Self::Refused(failure) => Error::Mount {
                source_name: source.to_string(),
                options: if options.is_empty() { "defaults".to_owned() } else { options.to_string() },
                reason: match security::advice(failure.errno, options) {
                    "" => failure.to_string(),
                    advice => format!("{failure}; {advice}"),
                },
                // The kernel's error for a missing tlshd, which is clearer than its error for a missing rpc.gssd.
                errno: match security::lacks_gssd(failure.errno, options) {
                    true => Errno::SRCH.raw_os_error(),
                    false => failure.errno.raw_os_error(),
                },
            },
            Self::Other(error) => error,
        }
    }
}

impl fmt::Display for Failure {
    /// The call, the error, the message, and what the operator can do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, std::io::Error::from(self.errno))?;
        if !self.log.is_empty() {
            write!(f, " ({})", self.log)?;
        }
        match self.advice() {
            "" => {}
            advice => write!(f, "; {advice}")?,
        }
        f.write_str(self.hint)
    }
}

impl Failure {
    fn advice(&self) -> &'static str {
        match (self.errno, self.call.as_str()) {
            (Errno::PERM, "fsopen" | "unshare" | "fsmount") => {
                "the driver needs CAP_SYS_ADMIN; a controller needs no privilege with its own client (`--client own`)"
            }
            (Errno::NOSYS, _) => "the kernel must be 4.18 or newer, and the seccomp profile must allow mounting",
            (Errno::NODEV, "fsopen" | "mount") => "this node's kernel has no NFS client: `modprobe nfs`",
            (Errno::INVAL, call) if is_label(call) && selinux::is_on() => {
                "SELinux's policy on this node does not have that context, or no policy is loaded"
            }
            (Errno::INVAL, call) if is_label(call) => {
                "SELinux is off or missing in this node's kernel, which therefore takes no labels: remove the option, \
                 or choose nodes with SELinux"
            }
            (Errno::INVAL, call) if call.starts_with("fsconfig") && call != "fsconfig create" => {
                "this node's kernel does not support that option"
            }
            (Errno::INVAL, "mount") => "this node's kernel may not support one of the options; `dmesg` says which",
            (Errno::NOENT, _) => "the server has no such directory, or does not export it",
            (Errno::NOTDIR, _) => "the path on the server must be a directory",
            (Errno::ACCESS, _) => {
                "check that the path exists, that /etc/exports on the server exports it to this client, and which \
                 `sec=` and `xprtsec=` the export requires (`sec=krb5` needs rpc.gssd on this node); the controller \
                 has the addresses of its pod unless controller.hostNetwork is on"
            }
            (Errno::PERM, _) => {
                "the export requires another `sec=` or `xprtsec=`, or a port below 1024 (`secure`), which source NAT \
                 takes from a controller without controller.hostNetwork"
            }
            (Errno::SRCH, _) => {
                "`xprtsec=` needs tlshd (ktls-utils) to run on this node, and the controller needs \
                 controller.hostNetwork to reach it"
            }
            (Errno::NOKEY | Errno::KEYEXPIRED | Errno::KEYREJECTED | Errno::KEYREVOKED, _) => {
                "the requested security needs rpc.gssd or tlshd on this node, with valid keys"
            }
            (Errno::PROTONOSUPPORT | Errno::OPNOTSUPP, _) => {
                "set `vers=` to a version that the server supports, or remove it"
            }
            (Errno::STALE, _) => "the server must export the path again: run `exportfs -r` there",
            _ => "",
        }
    }

    /// A failure of `call` without a message.
    pub fn of(call: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        |errno| Self { call: call.into(), errno, log: String::new(), hint: selinux::hint(errno) }
    }
}

/// Whether the call sets a label of SELinux.
fn is_label(call: &str) -> bool {
    call.starts_with("fsconfig ") && call.ends_with("context")
}

/// Whether the kernel has fsopen(2).
pub fn has_fsopen() -> bool {
    fsopen(NFS, FsOpenFlags::FSOPEN_CLOEXEC).err() != Some(Errno::NOSYS)
}

/// Mounts `source`, or the directory `below` it, without a place for it. Returns a descriptor of the root directory.
///
/// # Errors
/// The call that failed; [`LOOK_BELOW`] if the server mounts the source, but has no such directory below it.
pub fn detached(request: &Request, source: &str, below: Option<&SubDir>) -> Result<OwnedFd, Failure> {
    match below.is_some() || source.len() > VALUE_MAX {
        true => in_own_namespace(request, source, below),
        false => with_context(request, source),
    }
}

/// What fsopen(2) answers if the kernel has no NFS client, or if this process may not mount.
pub fn check() -> Result<(), Failure> {
    fsopen(NFS, FsOpenFlags::FSOPEN_CLOEXEC).map(drop).map_err(Failure::of("fsopen"))
}

fn with_context(request: &Request, source: &str) -> Result<OwnedFd, Failure> {
    let context = fsopen(NFS, FsOpenFlags::FSOPEN_CLOEXEC).map_err(Failure::of("fsopen"))?;
    let said = |failure: Failure| Failure { log: log(context.as_fd()), ..failure };
    fsconfig_set_string(context.as_fd(), "source", source)
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

/// The file system's messages about the last calls. Each read(2) returns one, such as `e TEXT` for an error.
fn log(context: BorrowedFd<'_>) -> String {
    let mut messages: Vec<String> = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]);
        let message = message.trim_end();
        let text = message.split_once(' ').map_or(message, |(_severity, text)| text);
        messages.push(text.chars().filter(|char| !char.is_control()).collect());
    }
    messages.join("; ")
}

/// Mounts what the other calls cannot: a source of more than 255 bytes, which fsconfig(2) does not take, or a directory
/// `below` a share that the server mounts only as a whole. mount(2) takes such a source, but needs a path, and
/// open_tree(2) clones a part of a mount only if it is attached. So a thread mounts in a mount namespace of its own,
/// which no other process sees, and returns a descriptor of a clone. The namespace ends with the thread.
fn in_own_namespace(request: &Request, source: &str, below: Option<&SubDir>) -> Result<OwnedFd, Failure> {
    let data = data(request)?;
    let work = || {
        unshare_mounts()?;
        // A new mount propagates if the mount under it does.
        mount_change(PLACE, MountPropagationFlags::PRIVATE).map_err(Failure::of("mount private"))?;
        mount(source, PLACE, NFS, flags(request.attributes), data.as_c_str()).map_err(Failure::of("mount"))?;
        let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut root = open(PLACE, place, Mode::empty()).map_err(Failure::of("open"))?;
        if let Some(below) = below {
            // The tenants own what is below the share.
            root = beneath::open_directory(&root, below.as_str()).map_err(Failure::of(LOOK_BELOW))?;
        }
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(&root, "", clone | OpenTreeFlags::AT_EMPTY_PATH).map_err(Failure::of("open_tree"))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, work);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::of("thread")(Errno::AGAIN)),
        }
    })
}

/// The parameters for mount(2).
pub fn data(request: &Request) -> Result<CString, Failure> {
    let words = request.parameters.iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={}", quoted(value)),
        None => (*key).to_owned(),
    });
    // Checked parameters contain no NUL.
    CString::new(words.collect::<Vec<_>>().join(",")).map_err(|_| Failure::of("mount")(Errno::INVAL))
}

/// Gives this thread a mount namespace of its own.
pub fn unshare_mounts() -> Result<(), Failure> {
    // nix, because rustix marks unshare(2) as unsafe: other flags break what safe code relies on.
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Failure::of("unshare")(Errno::from_raw_os_error(errno as i32)))
}

/// The attributes as flags of mount(2). rustix, because sys-mount 3.1 has no MS_NOSYMFOLLOW, which mount options may
/// request.
pub fn flags(attributes: MountAttrFlags) -> MountFlags {
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn failure(call: &str, errno: Errno, log: &str) -> String {
        Failure { log: log.to_owned(), ..Failure::of(call)(errno) }.to_string()
    }

    #[rstest]
    #[case("fsopen", Errno::PERM, "CAP_SYS_ADMIN")]
    #[case("fsopen", Errno::NODEV, "modprobe nfs")]
    #[case("fsconfig create", Errno::PERM, "`sec=`")]
    #[case("fsconfig create", Errno::PERM, "controller.hostNetwork")]
    #[case("fsconfig create", Errno::ACCESS, "/etc/exports")]
    #[case("fsconfig create", Errno::ACCESS, "controller.hostNetwork")]
    #[case("fsconfig create", Errno::SRCH, "controller.hostNetwork")]
    #[case("fsconfig create", Errno::NOENT, "no such directory")]
    #[case("fsconfig create", Errno::SRCH, "tlshd")]
    #[case("fsconfig create", Errno::PROTONOSUPPORT, "a version that the server supports")]
    #[case("fsconfig alignwrite", Errno::INVAL, "does not support that option")]
    #[case("fsconfig context", Errno::INVAL, "SELinux")]
    #[case("fsconfig rootcontext", Errno::INVAL, "SELinux")]
    fn a_failure_says_what_to_do(#[case] call: &str, #[case] errno: Errno, #[case] advice: &str) {
        let text = failure(call, errno, "");
        assert!(text.starts_with(call) && text.contains(advice), "{text}");
    }

    #[test]
    fn a_failure_contains_the_message_of_the_file_system() {
        assert_eq!(
            failure("fsconfig create", Errno::INVAL, "NFS: Server address does not match proto= option"),
            "fsconfig create: Invalid argument (os error 22) (NFS: Server address does not match proto= option)"
        );
    }

    #[test]
    fn every_attribute_has_its_flag() {
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        assert_eq!(
            flags(attributes),
            MountFlags::NODEV | MountFlags::NOSUID | MountFlags::RDONLY | MountFlags::NOATIME
        );
    }
}
