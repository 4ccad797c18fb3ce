//! The one error of the domain. `service/status.rs` gives it its gRPC code.
//!
//! A message says what was tried, on which server and share, what the kernel or the server said, and what to do.

use crate::nfs::status::Status as FsStatus;

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
