//! What this process was asked to publish. A memory, not a record: it says more than the mount table does, nothing that
//! matters is lost with it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::node::root::Identity;

/// Targets remembered beside those that are mounted: of publishing that failed and was never undone.
const UNMOUNTED: usize = 1024;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// CSI `volume_id`.
    pub volume_id: String,
    /// What was to be mounted.
    pub source: Source,
    /// And how.
    pub options: MountOptions,
    /// What that turned out to be, once it was mounted.
    pub root: Option<Identity>,
}

/// What was asked for, by the real path of the target.
#[derive(Debug, Default)]
pub struct Requested(Mutex<HashMap<PathBuf, Wanted>>);

impl Requested {
    /// Keeps what was asked for at a target where nothing is known yet.
    pub fn attempt(&self, target: &Path, wanted: &Wanted) {
        let mut all = self.all();
        if all.len() > UNMOUNTED && all.values().filter(|wanted| wanted.root.is_none()).count() > UNMOUNTED {
            all.retain(|_, wanted| wanted.root.is_some());
        }
        all.entry(target.to_owned()).or_insert_with(|| wanted.clone());
    }

    /// Keeps what a target is mounted with.
    pub fn set(&self, target: &Path, wanted: Wanted) {
        self.all().insert(target.to_owned(), wanted);
    }

    /// Forgets a target.
    pub fn forget(&self, target: &Path) {
        self.all().remove(target);
    }

    /// What was asked for at a target.
    pub fn at(&self, target: &Path) -> Option<Wanted> {
        self.all().get(target).cloned()
    }

    /// The targets that a volume was to be published at.
    pub fn targets_of(&self, volume_id: &str) -> Vec<PathBuf> {
        let all = self.all();
        all.iter().filter(|(_, wanted)| wanted.volume_id == volume_id).map(|(target, _)| target.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, Wanted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::source::{Server, Share};

    fn wanted(volume_id: &str, options: &str) -> Wanted {
        Wanted {
            volume_id: volume_id.to_owned(),
            source: Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/e").unwrap()),
            options: MountOptions::parse("mount_flags", [options]).unwrap(),
            root: None,
        }
    }

    #[test]
    fn an_attempt_does_not_change_what_is_known_of_a_target() {
        let (requested, target) = (Requested::default(), Path::new("/t"));
        requested.set(target, wanted("v", "soft"));
        requested.attempt(target, &wanted("v", "hard"));
        assert_eq!(requested.at(target), Some(wanted("v", "soft")));
        requested.forget(target);
        assert_eq!(requested.at(target), None);
    }

    #[test]
    fn the_targets_of_a_volume_are_found() {
        let requested = Requested::default();
        requested.set(Path::new("/a"), wanted("v", ""));
        requested.set(Path::new("/b"), wanted("w", ""));
        assert_eq!(requested.targets_of("v"), [Path::new("/a")]);
        assert!(requested.targets_of("x").is_empty());
    }

    #[test]
    fn attempts_that_were_never_undone_do_not_pile_up_and_mounted_targets_stay() {
        let requested = Requested::default();
        let root = Some(Identity { device: (0, 1), inode: 1 });
        requested.set(Path::new("/t0"), Wanted { root, ..wanted("v", "") });
        for number in 0..3 * UNMOUNTED {
            requested.attempt(Path::new(&format!("/t{number}")), &wanted("v", ""));
        }
        assert!(requested.all().len() <= UNMOUNTED + 2);
        assert!(requested.at(Path::new("/t0")).is_some());
    }
}
