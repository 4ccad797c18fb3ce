//! The error type of the domain. `service/status.rs` gives each error its gRPC code.
//!
//! A message says what was tried, on which server and share, what the kernel or the server answered, and what to do.

use crate::nfs::status::Status as FsStatus;

/// The result of the driver's functions that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field, parameter, identifier or option has an invalid value.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field or parameter by the caller's name, such as `parameters[server]`.
        field: String,
        /// Why the value is invalid, and what would be valid. It never contains the value of a secret.
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
    /// An object of this name exists, and it differs from the requested one.
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
    /// The export has too little space or too few inodes, or no project ID is free.
    #[error("{0}")]
    Exhausted(String),
    /// The object or the machine is not in the state that the operation requires.
    #[error("{0}")]
    Precondition(String),
    /// A list token is invalid or has expired.
    #[error("starting_token: {0}; list again from the start")]
    Token(String),
    /// The server cannot be reached.
    #[error(
        "NFS server {server} is not reachable: {reason}; check that the server runs and that its port \
         {port}/tcp is open from here"
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
    /// The work takes longer than the caller waits. It goes on, and another call finds it.
    #[error("{0}")]
    UnderWay(String),
    /// A record on the export cannot be used.
    #[error("{0}")]
    Record(String),
    /// No agent enforces a limit that the volume requires.
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

/// What the operator can do: empty, or text that starts with a separator.
fn advice(status: FsStatus) -> &'static str {
    match status {
        FsStatus::Perm | FsStatus::Access => {
            "; the server squashes root or the mode forbids it: export with no_root_squash in /etc/exports, or give \
             the directory to the squashed user"
        }
        FsStatus::RoFs => "; export it with rw in /etc/exports",
        FsStatus::NoSpc => "; free space or inodes on the server",
        FsStatus::XDev => "; the server has another file system there: name that path as the share",
        FsStatus::DQuot => "; raise the quota on the server",
        FsStatus::OtherProject => {
            "; an administrator gave a directory of the export a project of its own (xfs_quota), which is inherited: \
             run `csi-nfs agent` on the server, which takes it off the directories in `.csi-nfs`; to archive a volume, \
             take it off the directory above too (`xfs_io -c 'chattr -P' DIRECTORY`)"
        }
        FsStatus::TimedOut => "; check the server and the network to it",
        FsStatus::Stuck => {
            "; check the file system behind this export on the server (a dead disk, a full pool, a freeze); other \
             exports of the server are still served"
        }
        FsStatus::Stale => {
            "; the export was replaced on the server, or the server has restarted or not heard of this driver for too \
             long; the next call connects anew"
        }
        FsStatus::Locked => {
            "; another controller works on this volume or directory, or was killed: then the server ends its locks when \
             its lease is over, or at once for a successor with its --client-name; call again"
        }
        _ => "",
    }
}
