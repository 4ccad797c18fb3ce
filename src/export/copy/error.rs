//! Why a copy failed.

use crate::export::fs::Status;

/// The side of a copy that an operation was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is copied.
    Source,
    /// The copy.
    Target,
}

/// Why a copy ended before it was complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// An operation failed.
    #[error("{action} `{path}`{}: {status}", match side { Side::Source => "", Side::Target => " in the copy" })]
    Failed {
        /// The side on which the operation failed.
        side: Side,
        /// What was tried, such as `reading`.
        action: &'static str,
        /// The entry, relative to the directory that is copied; `.` for that directory. It is escaped, and shortened
        /// from the left.
        path: String,
        /// What the server said.
        status: Status,
    },
    /// It was cancelled.
    #[error("the copy was cancelled")]
    Cancelled,
}

impl CopyError {
    pub(super) fn failed(side: Side, action: &'static str, path: String, status: Status) -> Self {
        Self::Failed { side, action, path, status }
    }
}

/// Why an entry is not copied.
#[derive(Debug)]
pub(super) enum Stop<E = CopyError> {
    /// The object is gone from the source; another object may have its name.
    Gone,
    /// The copy fails.
    Error(E),
}

impl From<CopyError> for Stop {
    fn from(error: CopyError) -> Self {
        Self::Error(error)
    }
}
