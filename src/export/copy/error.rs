//! What ended a copy.

use crate::export::fs::Status;

/// The side of a copy that an operation was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is copied.
    Source,
    /// The copy.
    Target,
}

/// Why a copy ended before it was whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// An operation failed.
    #[error("{action} `{path}`{}: {status}", match side { Side::Source => "", Side::Target => " in the copy" })]
    Failed {
        /// Whose operation it was.
        side: Side,
        /// What was tried, such as `reading`.
        action: &'static str,
        /// The entry, from the directory that is copied; `.` for that itself. Escaped, and shortened from the left.
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

/// Why an entry is not copied, for now or for good.
#[derive(Debug)]
pub(super) enum Stop<E = CopyError> {
    /// The source's object is gone; its name may have another one.
    Gone,
    /// The copy ends.
    Error(E),
}

impl From<CopyError> for Stop {
    fn from(error: CopyError) -> Self {
        Self::Error(error)
    }
}
