//! Remembers what this process was requested to publish. This says more than the mount table, but it is only in memory:
//! nothing that matters is lost with the process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mount::table::Mount;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::nfs::status::Status;
use crate::node::root::{Identity, RootAttributes};
use crate::node::target::{Place, Target};

/// The maximum number of remembered targets where publishing failed and no unpublish followed.
const UNMOUNTED: usize = 1024;

/// The request to publish a volume (CSI NodePublishVolume), and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishIntent {
    /// CSI `volume_id`.
    pub volume_id: String,
    /// The source to mount.
    pub source: Source,
    /// Where to mount it.
    pub target: Target,
    /// The mount options; `ro` for a volume that is published read-only.
    pub options: MountOptions,
    /// Whether `ro` is only requested by the access mode, and by neither `readOnly` nor the mount options.
    pub read_only_by_mode: bool,
    /// Whether the volume may have only one target on this node (CSI SINGLE_NODE_SINGLE_WRITER).
    pub single_target: bool,
    /// The required attributes of the volume's root directory.
    pub root_attributes: RootAttributes,
    /// What was mounted; `None` before the mount.
    pub mounted: Option<MountedVolume>,
}

/// A mounted volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    /// Its root directory.
    pub root: Identity,
    /// The server's address that the driver gave to the kernel. The kernel may use another address of the same server.
    pub asked: IpAddr,
    /// Why the server refused to set the volume's group or mode.
    pub refused: Option<Status>,
    /// The mount, if the kernel says which one it is and with which options.
    pub known: Option<KnownMount>,
}

/// A mount that this process made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMount {
    /// Its unique ID. See [`mount_ids`](crate::node::target::mount_ids).
    pub unique_id: u64,
    /// Its line in the mount table.
    pub mount: Arc<Mount>,
}

/// The requests to publish volumes, by the real path of the target.
#[derive(Debug, Default)]
pub struct PublishIntents {
    all: Mutex<HashMap<PathBuf, PublishIntent>>,
    changed: Notify,
}

impl PublishIntents {
    /// Remembers the request for a target, unless a request for this target is known.
    pub fn attempt(&self, target: &Path, intent: &PublishIntent) {
        let mut all = self.all();
        if all.len() > UNMOUNTED && all.values().filter(|intent| intent.mounted.is_none()).count() > UNMOUNTED {
            all.retain(|_, intent| intent.mounted.is_some());
        }
        all.entry(target.to_owned()).or_insert_with(|| intent.clone());
    }

    /// Remembers what is mounted at a target.
    pub fn set(&self, target: &Path, intent: PublishIntent) {
        self.all().insert(target.to_owned(), intent);
        self.changed.notify_one();
    }

    /// Forgets a target.
    pub fn forget(&self, target: &Path) {
        self.all().remove(target);
        self.changed.notify_one();
    }

    /// Waits until something was published or unpublished since the last time. For one caller.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The request for a target.
    pub fn at(&self, target: &Path) -> Option<PublishIntent> {
        self.all().get(target).cloned()
    }

    /// The visible mount at a target if this process made it. Reads no mount table, and asks no server.
    pub fn known_mount(&self, place: &Place) -> Option<Arc<Mount>> {
        let known = self.all().get(place.path())?.mounted.as_ref()?.known.clone()?;
        (place.mount_ids().0 == Some(known.unique_id)).then_some(known.mount)
    }

    /// The targets in the requests for a volume.
    pub fn targets_of(&self, volume_id: &str) -> Vec<PathBuf> {
        let all = self.all();
        all.iter().filter(|(_, intent)| intent.volume_id == volume_id).map(|(target, _)| target.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, PublishIntent>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::table::Table;
    use crate::nfs::source::{Server, Share};

    fn intent(volume_id: &str, options: &str) -> PublishIntent {
        PublishIntent {
            volume_id: volume_id.to_owned(),
            source: Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/e").unwrap()),
            target: Target::parse("target_path", "/t").unwrap(),
            options: MountOptions::parse("mount_flags", [options]).unwrap(),
            read_only_by_mode: false,
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        }
    }

    #[test]
    fn an_attempt_does_not_replace_the_known_request_for_a_target() {
        let (intents, target) = (PublishIntents::default(), Path::new("/t"));
        intents.set(target, intent("v", "soft"));
        intents.attempt(target, &intent("v", "hard"));
        assert_eq!(intents.at(target), Some(intent("v", "soft")));
        intents.forget(target);
        assert_eq!(intents.at(target), None);
    }

    #[test]
    fn the_targets_of_a_volume_are_found() {
        let intents = PublishIntents::default();
        intents.set(Path::new("/a"), intent("v", ""));
        intents.set(Path::new("/b"), intent("w", ""));
        assert_eq!(intents.targets_of("v"), [Path::new("/a")]);
        assert!(intents.targets_of("x").is_empty());
    }

    #[test]
    fn failed_attempts_do_not_pile_up_and_mounted_targets_stay() {
        let intents = PublishIntents::default();
        let root = Identity { device: (0, 1), inode: 1 };
        let asked = "10.0.0.1".parse().unwrap();
        let mounted = Some(MountedVolume { root, asked, refused: None, known: None });
        intents.set(Path::new("/t0"), PublishIntent { mounted, ..intent("v", "") });
        for number in 0..3 * UNMOUNTED {
            intents.attempt(Path::new(&format!("/t{number}")), &intent("v", ""));
        }
        assert!(intents.all().len() <= UNMOUNTED + 2);
        assert!(intents.at(Path::new("/t0")).is_some());
    }

    #[test]
    fn a_mount_is_known_only_as_long_as_the_visible_one_is_the_one_that_was_made() {
        // A mount that every Linux has.
        let place = Target::parse("target_path", "/proc").unwrap().find().unwrap().unwrap();
        let line = "26 25 0:1 / /t rw - nfs4 nfs:/volume rw";
        let mount = Arc::new(Table::parse(line.as_bytes()).mounts().next().unwrap().clone());
        let (intents, unique_id) = (PublishIntents::default(), place.mount_ids().0.unwrap());
        let made = |unique_id| {
            let (root, asked) = (Identity { device: (0, 1), inode: 1 }, "10.0.0.1".parse().unwrap());
            let known = Some(KnownMount { unique_id, mount: mount.clone() });
            PublishIntent { mounted: Some(MountedVolume { root, asked, refused: None, known }), ..intent("v", "") }
        };
        assert_eq!(intents.known_mount(&place), None);
        intents.set(place.path(), made(unique_id));
        assert_eq!(intents.known_mount(&place), Some(mount.clone()));
        intents.set(place.path(), made(unique_id + 1));
        assert_eq!(intents.known_mount(&place), None, "another mount covers it");
    }
}
