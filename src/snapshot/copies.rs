//! What a copy that is under way tells of itself.

use std::fmt;
use std::time::SystemTime;

use crate::export::progress::{Figures, Progress, Totals};
use crate::nfs::source::Source;
use crate::snapshot::turns::{COPIES, Now, State};

/// Identifies a copy: the export that it is made on, and its name in staging.
pub type Key = (Source, String);

/// What a copy is, and where to read how far it is.
#[derive(Debug)]
pub(super) struct About {
    pub(super) key: Key,
    /// The identifiers of the volumes or snapshots that are copied.
    pub(super) of: Vec<String>,
    pub(super) now: Now,
    pub(super) progress: Progress,
    /// When a call began it.
    pub(super) since: SystemTime,
}

/// A copy under way, as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The export that it is made on.
    pub export: Source,
    /// Its name in staging, which says what is made.
    pub name: String,
    /// The identifiers of the volumes or snapshots that are copied.
    pub of: Vec<String>,
    /// What it does.
    pub state: State,
    /// When a call began it.
    pub since: SystemTime,
    /// How far it is.
    pub figures: Figures,
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            State::WaitsForLocks => f.write_str("the copy waits until another controller is done with it"),
            State::WaitsForTurn => {
                write!(f, "the copy waits for its turn, {COPIES} others run on server {}", self.export.server)
            }
            State::Copies => write!(f, "copied {}", self.figures),
            State::Ends => write!(f, "copied {}, and puts the copy into its place", self.figures),
        }
    }
}

impl About {
    /// The copy as it is now.
    pub(super) fn copy(&self) -> Copy {
        let (export, name) = self.key.clone();
        let (of, state, since, figures) = (self.of.clone(), self.now.get(), self.since, self.progress.figures());
        Copy { export, name, of, state, since, figures }
    }

    /// Logs how far the copy is.
    pub(super) fn tell(&self) {
        let Copy { state, figures, .. } = self.copy();
        let Totals { entries, bytes, vanished } = figures.done;
        match state {
            State::WaitsForLocks | State::WaitsForTurn => tracing::info!(copy = %self.copy(), "a copy waits"),
            State::Copies | State::Ends => {
                let (expected, left) = (figures.expected, figures.left().map(|left| left.as_secs()));
                tracing::info!(entries, expected, bytes, vanished, seconds_left = left, "copying a tree");
            }
        }
    }
}
