//! How far a look at everything on an export is.

use crate::export::fs::{Cookie, Name};
use crate::export::progress::Progress;
use crate::volume::id::VolumeName;

/// A look under way.
pub(super) struct Look {
    pub(super) stage: Stage,
    /// The names of a page, and where the listing continues after them.
    pub(super) page: Vec<Name>,
    pub(super) next: Option<Cookie>,
    /// The last volume without a record that was looked at.
    pub(super) last: Option<VolumeName>,
    /// How many objects were looked at.
    pub(super) progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Reads the answers.
    Answers,
    /// Looks at each snapshot.
    Snapshots,
    /// Looks at each record of a volume.
    Records,
    /// Looks at each answer whose volume has no record.
    Rest,
}

impl Look {
    /// A look that begins. The one before looked at `expected` objects.
    pub(super) fn new(expected: Option<u64>) -> Self {
        let progress = Progress::default();
        progress.begin();
        if let Some(expected) = expected {
            progress.expect(expected);
        }
        Self { stage: Stage::Answers, page: Vec::new(), next: Some(0), last: None, progress }
    }

    /// Begins the next stage.
    pub(super) fn go_on_with(&mut self, stage: Stage) {
        (self.stage, self.next) = (stage, Some(0));
    }
}
