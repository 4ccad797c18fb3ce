//! The one error of the domain, and the only place that gives it a gRPC code.
//!
//! # Policy
//! The code decides what the sidecar or kubelet does next, so it is chosen for that:
//!
//! | code | when | what the caller does |
//! |---|---|---|
//! | INVALID_ARGUMENT | a field, parameter, identifier or option cannot be right | shows the message; a retry is as wrong |
//! | NOT_FOUND | the volume, path or source is not there | gives up, or treats a delete as done |
//! | ALREADY_EXISTS | the name or the target is taken, by something else | shows the message |
//! | OUT_OF_RANGE | the asked capacity cannot be | shows the message |
//! | RESOURCE_EXHAUSTED | no space, inodes or quota on the export | external-provisioner tries another topology, retries later |
//! | FAILED_PRECONDITION | something else has to happen first | retries later |
//! | PERMISSION_DENIED | the server forbids it | retries later; the operator has to mend the export |
//! | ABORTED | a list token no longer fits | starts the list again |
//! | UNAVAILABLE | the server is not reached, a limit that is required is not in force, or the driver is going down | retries soon; the operation may be half done and is resumed |
//! | INTERNAL | the export or the kernel said something that the driver has no rule for | retries; a bug or a fault to look at |
//!
//! A message says what was tried, on which server and share, what the kernel or the server said, and what to do.

use rustix::io::Errno;

use crate::export::fs::Status as FsStatus;

/// The result of everything that may fail in the driver.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with its context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field, parameter, identifier or option that cannot be right.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field or parameter as the caller knows it, such as `parameters[server]`.
        field: String,
        /// What is wrong with it and what would be right. Never a secret's value.
        reason: String,
    },
    /// The volume, path or source does not exist.
    #[error("{what} not found: {reason}")]
    NotFound {
        /// Such as ``volume `ID` ``.
        what: String,
        /// Where it was looked for.
        reason: String,
    },
    /// Something else stands where this should be.
    #[error("{what} exists already: {reason}")]
    Conflict {
        /// Such as ``volume `NAME` ``.
        what: String,
        /// In what it differs.
        reason: String,
    },
    /// The capacity that was asked for cannot be.
    #[error("capacity: {0}")]
    CapacityOutOfRange(String),
    /// The export has not enough left.
    #[error("{0}")]
    Exhausted(String),
    /// Something else has to happen first.
    #[error("{0}")]
    Precondition(String),
    /// A list token that does not, or no longer, fit.
    #[error("starting_token: {0}; list again from the start")]
    Token(String),
    /// The server cannot be reached.
    #[error(
        "NFS server {server} is not reachable: {reason}; check that it runs and that port {port}/tcp is open from here"
    )]
    Unreachable {
        /// As the parameters name it.
        server: String,
        /// The port that was tried.
        port: u16,
        /// What the resolver or the connection said.
        reason: String,
    },
    /// The kernel did not mount.
    #[error("mounting {source_name} ({options}): {reason}")]
    Mount {
        /// `SERVER:/SHARE/SUBDIR`.
        source_name: String,
        /// The options, comma-separated.
        options: String,
        /// The kernel's own text, its errno and the advice for it.
        reason: String,
        /// errno(3) of the failing call.
        errno: i32,
    },
    /// An operation on an export failed.
    #[error("{action} on {export}: {status}{}", advice(*.status))]
    Export {
        /// `SERVER:/SHARE`.
        export: String,
        /// What was tried, such as ``creating directory `a/b` ``.
        action: String,
        /// What the server said.
        status: FsStatus,
    },
    /// Work was broken off before its end: the driver is going down, or what it was for is deleted.
    #[error("{0}")]
    Interrupted(String),
    /// What the driver keeps on the export cannot be used.
    #[error("{0}")]
    Record(String),
    /// A limit that must be in force is not.
    #[error(
        "the quota agent of {export} does not enforce what is asked for: {reason}; check that `csi-nfs agent` runs on the NFS server for that export, and its log"
    )]
    NoAgent {
        /// `SERVER:/SHARE`.
        export: String,
        /// What is missing.
        reason: String,
    },
    /// The driver or the machine is at fault.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// An [`Error::Invalid`].
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// An [`Error::NotFound`].
    pub fn not_found(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), reason: reason.into() }
    }

    /// An [`Error::Conflict`].
    pub fn conflict(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Conflict { what: what.into(), reason: reason.into() }
    }

    /// The gRPC code for it: the policy of this file.
    pub fn code(&self) -> tonic::Code {
        use tonic::Code;
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::Conflict { .. } => Code::AlreadyExists,
            Self::CapacityOutOfRange(_) => Code::OutOfRange,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Token(_) => Code::Aborted,
            Self::Unreachable { .. } | Self::NoAgent { .. } | Self::Interrupted(_) => Code::Unavailable,
            Self::Mount { errno, .. } => mount_code(Errno::from_raw_os_error(*errno)),
            Self::Export { status, .. } => export_code(*status),
            Self::Record(_) | Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

fn mount_code(errno: Errno) -> tonic::Code {
    match errno {
        // A version, a transport or a helper (tlshd) is missing, here or on the server.
        Errno::PROTONOSUPPORT | Errno::SRCH | Errno::NODEV => tonic::Code::FailedPrecondition,
        errno => export_code(errno.into()),
    }
}

fn export_code(status: FsStatus) -> tonic::Code {
    use tonic::Code;
    match status {
        FsStatus::Perm | FsStatus::Access | FsStatus::RoFs => Code::PermissionDenied,
        FsStatus::NoEnt => Code::NotFound,
        FsStatus::NoSpc | FsStatus::DQuot => Code::ResourceExhausted,
        FsStatus::Inval | FsStatus::NameTooLong => Code::InvalidArgument,
        FsStatus::NotDir | FsStatus::Symlink | FsStatus::WrongType | FsStatus::IsDir => Code::FailedPrecondition,
        FsStatus::TimedOut | FsStatus::Stale | FsStatus::Locked => Code::Unavailable,
        FsStatus::Exist
        | FsStatus::NotEmpty
        | FsStatus::XDev
        | FsStatus::FBig
        | FsStatus::MLink
        | FsStatus::NotSupp
        | FsStatus::Io
        | FsStatus::Other(_) => Code::Internal,
    }
}

/// What the operator can do about it; starts with a separator, or is empty.
fn advice(status: FsStatus) -> &'static str {
    match status {
        FsStatus::Perm | FsStatus::Access => {
            "; the server squashes root or the mode forbids it: export with no_root_squash in /etc/exports, or give the \
             directory to the squashed user"
        }
        FsStatus::RoFs => "; export it with rw in /etc/exports",
        FsStatus::NoSpc => "; free space or inodes on the server",
        FsStatus::DQuot => "; raise the quota on the server",
        FsStatus::TimedOut => "; check the server and the network to it",
        FsStatus::Stale => "; the export was replaced on the server; the call will be tried on a fresh mount",
        _ => "",
    }
}
