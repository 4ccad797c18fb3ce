//! What the agent tells of its work, for metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::export::progress::Figures;

/// The work on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Whether this agent works there: it has the lock, and a driver has used the export.
    pub is_active: bool,
    /// When an answer was last written, in seconds since 1970; 0 before the first one of this process.
    pub answered: u64,
    /// When a look at all volumes last ended, in seconds since 1970; 0 before the first one of this process.
    pub looked: u64,
    /// Volumes whose limits do not agree with their records yet, as far as the agent knows.
    pub volumes_behind: usize,
    /// Walks through trees that are under way.
    pub walks: usize,
    /// Walks that wait until another one ends.
    pub walks_waiting: usize,
    /// Files and directories that the walks under way have passed.
    pub walked: u64,
    /// How far a look at all volumes is, if one is under way.
    pub look: Option<Figures>,
}

/// The work on all paths.
#[derive(Debug)]
pub struct Board(Mutex<BTreeMap<String, Progress>>);

impl Board {
    /// A board for these paths, on which no work has begun.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Self {
        Self(Mutex::new(paths.into_iter().map(|path| (path, Progress::default())).collect()))
    }

    /// All paths, with the work on each.
    pub fn read(&self) -> Vec<(String, Progress)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(path, progress)| (path.clone(), *progress)).collect()
    }

    pub(super) fn set(&self, path: &str, progress: Progress) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(path) {
            Some(known) => *known = progress,
            None => drop(all.insert(path.to_owned(), progress)),
        }
    }
}
