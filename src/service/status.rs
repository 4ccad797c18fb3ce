//! Maps errors of the domain to gRPC codes. No other place decides this.
//!
//! # Policy
//! The code decides what the sidecar or kubelet does next, so it is chosen for that effect:
//!
//! | code | when | what the caller does |
//! |---|---|---|
//! | INVALID_ARGUMENT | a field, parameter, identifier or option is invalid | shows the message; a retry cannot help |
//! | NOT_FOUND | the volume, path or source does not exist | gives up, or counts a delete as done |
//! | ALREADY_EXISTS | something different has the name or is at the target | shows the message |
//! | OUT_OF_RANGE | the requested capacity is not possible | shows the message |
//! | RESOURCE_EXHAUSTED | no space, inodes or quota | external-provisioner tries other topologies, retries |
//! | FAILED_PRECONDITION | something else must happen first | retries later |
//! | PERMISSION_DENIED | the server denies permission | retries later; the operator must repair the export |
//! | ABORTED | the work goes on without the call | retries, which joins the work |
//! | ABORTED | a list token is invalid or has expired | starts the list again |
//! | UNAVAILABLE | no server, no agent for a required limit, or shutdown | retries soon, which resumes half-done work |
//! | INTERNAL | an unexpected error of the export or the kernel | retries; this is a bug or a fault to examine |

use rustix::io::Errno;
use tonic::Code;

use crate::error::Error;
use crate::nfs::status::Status as FsStatus;

/// The gRPC code for an error, by the policy of this file.
pub fn code(error: &Error) -> Code {
    match error {
        Error::Invalid { .. } => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::Conflict { .. } => Code::AlreadyExists,
        Error::CapacityOutOfRange(_) => Code::OutOfRange,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Precondition(_) => Code::FailedPrecondition,
        Error::Token(_) | Error::UnderWay(_) => Code::Aborted,
        Error::Unreachable { .. } | Error::NoAgent { .. } | Error::Interrupted(_) => Code::Unavailable,
        Error::Mount { errno, .. } => mount_code(Errno::from_raw_os_error(*errno)),
        Error::Export { status, .. } => export_code(*status),
        Error::Record(_) | Error::Internal(_) => Code::Internal,
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::new(code(&error), error.to_string())
    }
}

fn mount_code(errno: Errno) -> Code {
    match errno {
        // A version, a transport or a helper (tlshd, rpc.gssd) is missing on this machine or on the server.
        Errno::PROTONOSUPPORT | Errno::SRCH | Errno::NODEV => Code::FailedPrecondition,
        errno => export_code(errno.into()),
    }
}

fn export_code(status: FsStatus) -> Code {
    match status {
        FsStatus::Perm | FsStatus::Access | FsStatus::RoFs => Code::PermissionDenied,
        FsStatus::NoEnt => Code::NotFound,
        FsStatus::NoSpc | FsStatus::DQuot => Code::ResourceExhausted,
        FsStatus::Inval | FsStatus::NameTooLong => Code::InvalidArgument,
        FsStatus::NotDir
        | FsStatus::Symlink
        | FsStatus::WrongType
        | FsStatus::IsDir
        | FsStatus::XDev
        | FsStatus::OtherProject => Code::FailedPrecondition,
        FsStatus::TimedOut | FsStatus::Stuck | FsStatus::Stale | FsStatus::Locked => Code::Unavailable,
        FsStatus::Exist
        | FsStatus::NotEmpty
        | FsStatus::FBig
        | FsStatus::MLink
        | FsStatus::NotSupp
        | FsStatus::Io
        | FsStatus::Other(_) => Code::Internal,
    }
}
