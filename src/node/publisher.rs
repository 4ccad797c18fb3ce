//! What publishing and unpublishing share: access to servers, the requests for targets, and locks.

use std::sync::Arc;

use crate::export::keyed_mutex::KeyedMutex;
use crate::export::progress::UnderWay;
use crate::mount::gate::Gates;
use crate::mount::mounter::Mounter;
use crate::mount::reachability::Reachability;
use crate::nfs::source::Source;
use crate::node::leaving::Leaving;
use crate::node::mount_probe::MountProbe;
use crate::node::publish_intents::PublishIntents;
use crate::node::target::Target;

/// Publishes and unpublishes volumes on this node.
#[derive(Debug)]
pub struct Publisher {
    pub(super) mounter: Arc<Mounter>,
    pub(super) reachability: Arc<Reachability>,
    pub(super) gates: Arc<Gates>,
    pub(super) probe: MountProbe,
    pub(super) intents: Arc<PublishIntents>,
    /// Locks: one call at a time for a target.
    pub(super) targets: KeyedMutex<Target>,
    /// The targets that calls want to unpublish.
    pub(super) leaving: Leaving,
    /// Locks: one call at a time publishes a volume that may have only one target.
    pub(super) sources: KeyedMutex<Source>,
    /// The volumes whose files are being given to the group of a pod.
    pub(super) regrouping: UnderWay,
}

impl Publisher {
    /// A publisher that mounts with `mounter`, checks servers with `reachability`, makes blocking calls through
    /// `gates`, and remembers requests in `intents`.
    pub fn new(
        mounter: Arc<Mounter>,
        reachability: Arc<Reachability>,
        gates: Arc<Gates>,
        intents: Arc<PublishIntents>,
    ) -> Self {
        let probe = MountProbe::new(Arc::clone(&reachability), Arc::clone(&gates));
        let (targets, sources, leaving) = (KeyedMutex::default(), KeyedMutex::default(), Leaving::default());
        let regrouping = UnderWay::default();
        Self { mounter, reachability, gates, probe, intents, targets, leaving, sources, regrouping }
    }

    /// The volumes whose files are being given to the group of a pod (`fsGroup`).
    pub fn regrouping(&self) -> UnderWay {
        self.regrouping.clone()
    }
}
