//! A kernel that has less than the one that runs: a seccomp filter answers for the calls that it lacks.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// The kernel that a driver sees, and what it lets it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// The one that runs.
    Running,
    /// One as old as the 4.18 of RHEL 8: without fsopen(2) and its family, move_mount(2), openat2(2) and statmount(2).
    Older,
    /// An older one without an NFS client.
    OlderWithoutNfs,
    /// A new one without an NFS client.
    WithoutNfs,
    /// The one that runs, for the user [`NOBODY`] without any capability.
    Unprivileged,
}

/// The user of an unprivileged driver, as in the chart.
pub const NOBODY: u32 = 65532;

/// The system calls that Linux has got since 4.18 and that the driver uses or may use. libc has no names for the last
/// three: statmount(2), listmount(2) and open_tree_attr(2).
const NEW: [i64; 11] = [
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_openat2,
    libc::SYS_mount_setattr,
    457,
    458,
    467,
];

impl Kernel {
    /// The kernel of a whole run: `CSI_NFS_E2E_KERNEL=older` chooses the older one.
    pub fn of_this_run() -> Self {
        match std::env::var("CSI_NFS_E2E_KERNEL").as_deref() {
            Ok("older") => Self::Older,
            Ok(other) => panic!("CSI_NFS_E2E_KERNEL={other}: it takes only `older`"),
            Err(_) => Self::Running,
        }
    }

    /// Starts a process that sees this kernel.
    pub fn spawn(self, command: &mut Command) -> io::Result<Child> {
        if self == Self::Unprivileged {
            command.uid(NOBODY).gid(NOBODY);
        }
        let filters = self.filters();
        // A process inherits the filters of the thread that starts it, and a thread keeps its filters for good.
        let start = || {
            for filter in &filters {
                apply_filter(filter).unwrap();
            }
            command.spawn()
        };
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    }

    fn filters(self) -> Vec<BpfProgram> {
        match self {
            Self::Running | Self::Unprivileged => Vec::new(),
            Self::Older => vec![answer(&NEW, Errno::ENOSYS)],
            Self::OlderWithoutNfs => vec![answer(&NEW, Errno::ENOSYS), answer(&[libc::SYS_mount], Errno::ENODEV)],
            Self::WithoutNfs => vec![answer(&[libc::SYS_fsopen], Errno::ENODEV)],
        }
    }
}

/// A filter that answers these calls with an error, and lets all others pass.
fn answer(calls: &[i64], errno: Errno) -> BpfProgram {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(errno as u32);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture).unwrap().try_into().unwrap()
}
