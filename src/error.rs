//! The error type of the domain. `service/status.rs` gives each error its gRPC code.
//!
//! A message says what was tried, on which server and share, what the kernel or the server answered, and what to do.

use crate::nfs::status::Status as FsStatus;

/// The result of everything in the driver that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with its context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field, parameter, identifier or option with an invalid value.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field or parameter by the caller's name, such as `parameters[server]`.
        field: String,
        /// What is wrong with it, and what would be valid. Never the value of a secret.
        reason: String,
    },
    /// The volume, path or source does not exist.
    #[error("{what} not found: {reason}")]
    NotFound {
        /// For example ``volume `ID` ``.
        what: String,
        /// Where the driver looked for it.
        reason: String,
    },
    /// Something different exists under this name.
    #[error("{what} exists already: {reason}")]
    Conflict {
        /// For example ``volume `NAME` ``.
        what: String,
        /// How it differs.
        reason: String,
    },
    /// The requested capacity cannot be provided.
    #[error("capacity: {0}")]
    CapacityOutOfRange(String),
    /// The export does not have enough space left.
    #[error("{0}")]
    Exhausted(String),
    /// Something else has to happen first.
    #[error("{0}")]
    Precondition(String),
    /// A list token that is not valid, or no longer valid.
    #[error("starting_token: {0}; list again from the start")]
    Token(String),
    /// The server cannot be reached.
    #[error(
        "NFS server {server} is not reachable: {reason}; check that it runs and that port {port}/tcp is open from here"
    )]
    Unreachable {
        /// The server as the parameters name it.
        server: String,
        /// The port that was tried.
        port: u16,
        /// What the resolver or the connection returned.
        reason: String,
    },
    /// The kernel did not mount the volume.
    #[error("mounting {source_name} ({options}): {reason}")]
    Mount {
        /// `SERVER:/SHARE/SUBDIR`.
        source_name: String,
        /// The options, comma-separated.
        options: String,
        /// The kernel's message, its errno, and advice.
        reason: String,
        /// The errno(3) of the failed call.
        errno: i32,
    },
    /// An operation on an export failed.
    #[error("{action} on {export}: {status}{}", advice(*.status))]
    Export {
        /// `SERVER:/SHARE`.
        export: String,
        /// What was tried, for example ``creating directory `a/b` ``.
        action: String,
        /// The server's answer.
        status: FsStatus,
    },
    /// The work was interrupted because the driver is stopping or the object is being deleted.
    #[error("{0}")]
    Interrupted(String),
    /// A record on the export cannot be used.
    #[error("{0}")]
    Record(String),
    /// A limit that must be enforced is not.
    #[error(
        "the quota agent of {export} does not enforce the requested size: {reason}; check that `csi-nfs agent` runs on \
         the NFS server for that export, and read its log"
    )]
    NoAgent {
        /// `SERVER:/SHARE`.
        export: String,
        /// What is missing.
        reason: String,
    },
    /// A fault of the driver or of the machine.
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

/// What the operator can do; empty, or starting with a separator.
fn advice(status: FsStatus) -> &'static str {
    match status {
        FsStatus::Perm | FsStatus::Access => {
            "; the server squashes root or the mode forbids it: export with no_root_squash in /etc/exports, or give \
             the directory to the squashed user"
        }
        FsStatus::RoFs => "; export it with rw in /etc/exports",
        FsStatus::NoSpc => "; free space or inodes on the server",
        FsStatus::DQuot => "; raise the quota on the server",
        FsStatus::TimedOut => "; check the server and the network to it",
        FsStatus::Stale => "; the export was replaced on the server; the next call uses a new mount",
        _ => "",
    }
}
