//! Which gRPC code an error of the domain gets: the only place that decides it.
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

use rustix::io::Errno;
use tonic::Code;

use crate::error::Error;
use crate::nfs::status::Status as FsStatus;

/// The gRPC code for an error: the policy of this file.
pub fn code(error: &Error) -> Code {
    match error {
        Error::Invalid { .. } => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::Conflict { .. } => Code::AlreadyExists,
        Error::CapacityOutOfRange(_) => Code::OutOfRange,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Precondition(_) => Code::FailedPrecondition,
        Error::Token(_) => Code::Aborted,
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
        // A version, a transport or a helper (tlshd) is missing, here or on the server.
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
