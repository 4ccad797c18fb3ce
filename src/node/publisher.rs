//! Publishing and unpublishing share what this file holds: the way to servers, what is known of targets, and locks.

use std::sync::Arc;

use crate::export::keyed_mutex::KeyedMutex;
use crate::mount::gate::Gates;
use crate::mount::mounter::Mounter;
use crate::mount::reachability::Reachability;
use crate::nfs::source::Source;
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
    /// A target has one call at a time.
    pub(super) targets: KeyedMutex<Target>,
    /// A volume that may have one target is published by one call at a time.
    pub(super) sources: KeyedMutex<Source>,
}

impl Publisher {
    /// A publisher that mounts with `mounter`, asks `reachability`, makes blocking calls through `gates`, and remembers
    /// in `intents` what it is asked to publish.
    pub fn new(
        mounter: Arc<Mounter>,
        reachability: Arc<Reachability>,
        gates: Arc<Gates>,
        intents: Arc<PublishIntents>,
    ) -> Self {
        let probe = MountProbe::new(Arc::clone(&reachability), Arc::clone(&gates));
        let (targets, sources) = (KeyedMutex::default(), KeyedMutex::default());
        Self { mounter, reachability, gates, probe, intents, targets, sources }
    }
}
