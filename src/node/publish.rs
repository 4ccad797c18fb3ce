//! Publishes a volume on this node (CSI NodePublishVolume): mounts its directory on the server at the target.
//!
//! The mount table says what is published, because it outlives the driver. The driver makes a detached mount, sets the
//! group and mode of its root, and then attaches it to the target in one step. If the driver dies in between, there is
//! either nothing or a published volume. [`judge`](crate::node::judge) decides if something is mounted at the target.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::mount::gate::Gate;
use crate::mount::mounter::Role;
use crate::mount::table::Table;
use crate::nfs::status::Status;
use crate::node::attach::{Attach, AttachCancel, Outcome};
use crate::node::detach;
use crate::node::judge::{Judge, Verdict};
use crate::node::publish_intents::{MountedVolume, PublishIntent};
use crate::node::publisher::Publisher;
use crate::node::target::{Place, Target};

/// How long mounting may take on a server that answers checks but not the calls of the mount. The next call for the
/// target waits no longer than this.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

impl Publisher {
    /// Mounts a volume at its target. Creates the target if it is missing, but not its parent. A call waits for earlier
    /// calls for the same target.
    ///
    /// # Errors [`Error::Unreachable`] within 5 s if the server does not answer; [`Error::Conflict`] if something else
    /// is mounted at the target; [`Error::Precondition`] if the path cannot be a target, or if the volume may have only
    /// one target and has another; the errors of [`Mounter::mount`](crate::mount::mounter::Mounter::mount); and
    /// [`Error::Export`] if the group or mode cannot be set.
    pub async fn publish(&self, intent: PublishIntent) -> Result<()> {
        let _target = self.targets.lock(intent.target.clone()).await;
        let _source = match intent.single_target {
            true => Some(self.sources.lock(intent.source.clone()).await),
            false => None,
        };
        let (place, table) = self.find(&intent).await?;
        let before = self.intents.at(place.path());
        self.intents.attempt(place.path(), &intent);
        let address = self.reachability.check(&intent.source.server, intent.options.port()).await?;
        let judge =
            Judge { probe: &self.probe, intents: &self.intents, place: &place, table: &table, server_address: address };
        let dead = match judge.verdict(&intent, before.as_ref()).await? {
            Verdict::Published => return Ok(()),
            Verdict::Mount => Vec::new(),
            Verdict::Replace => table.at(place.path()).into_iter().cloned().collect(),
        };
        if intent.single_target {
            judge.refuse_second_target(&intent)?;
        }
        // `cancel` is dropped with this call, so nothing is attached for a call that has given up.
        let cancel = AttachCancel::default();
        let mounting = timeout(MOUNT_LIMIT, self.mount(cancel.attach(Arc::clone(&place), intent.clone(), dead)));
        let mounted = mounting.await.unwrap_or_else(|_| {
            let action = "mounting the volume and setting up its root directory".to_owned();
            Err(Error::Export { export: intent.source.to_string(), action, status: Status::TimedOut })
        })?;
        self.intents.set(place.path(), PublishIntent { mounted: Some(mounted), ..intent });
        Ok(())
    }

    /// Finds the target's place, and reads the mount table if it is needed. On a node with many mounts, reading the
    /// table takes long, and for a new target it usually says nothing.
    async fn find(&self, intent: &PublishIntent) -> Result<(Arc<Place>, Table)> {
        let (target, single_target) = (intent.target.clone(), intent.single_target);
        let find = move || {
            let place = target.find()?.ok_or_else(|| no_parent(&target))?;
            let table = if single_target || place.may_be_mount() { Table::read()? } else { Table::default() };
            Ok((Arc::new(place), table))
        };
        self.gates.local().run(find).await
    }

    /// Mounts the volume and attaches it to its target. The kernel may have cached the names on the volume's path for
    /// other mounts of the export, and then find a directory that the server has removed. In this case, mount again
    /// without sharing the cache.
    async fn mount(&self, attach: Attach) -> Result<MountedVolume> {
        let (source, options) = (attach.intent.source.clone(), attach.intent.options.clone());
        let then = move |_: &Gate, root: OwnedFd| attach.run(&root);
        let mut mounted = self.mounter.mount_then(&source, &options, Role::Node, then.clone()).await?;
        if matches!(mounted.root, Ok(Outcome::Stale)) {
            tracing::debug!(%source, "the directory is stale in the kernel's cache; mounting without a shared cache");
            mounted = self.mounter.mount_then(&source, &options.unshared(), Role::Node, then).await?;
        }
        match mounted.root? {
            Outcome::Attached { root, detached } => {
                for (dead, root) in detached {
                    detach::end(&self.gates, &dead, root);
                }
                Ok(MountedVolume { root, asked: mounted.asked })
            }
            Outcome::Stale => Err(Error::Export {
                export: source.to_string(),
                action: "reading the volume's root directory".to_owned(),
                status: Status::Stale,
            }),
        }
    }
}

fn no_parent(target: &Target) -> Error {
    Error::Precondition(format!(
        "the parent directory of {target} does not exist: the CO must create it, on a file system that this driver \
         sees (in Kubernetes kubelet's directory, mounted into the driver's container with mountPropagation: \
         Bidirectional)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::mounter::Mounter;
    use crate::mount::reachability::Reachability;
    use crate::nfs::options::MountOptions;
    use crate::nfs::source::{Server, Share, Source};
    use crate::node::root::RootAttributes;

    #[tokio::test]
    async fn a_target_without_a_parent_is_an_error_before_the_server_is_asked() {
        let reachability = Reachability::new();
        let gates = Gates::new(Arc::clone(&reachability));
        let mounter = Arc::new(Mounter::new(Arc::clone(&reachability), Arc::clone(&gates)));
        let publisher = Publisher::new(mounter, reachability, gates, Arc::default());
        let dir = tempfile::tempdir().unwrap();
        let intent = PublishIntent {
            volume_id: "volume".to_owned(),
            source: Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/volume").unwrap()),
            target: Target::try_from(dir.path().join("missing/target").as_path()).unwrap(),
            options: MountOptions::default(),
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        };
        assert!(matches!(publisher.publish(intent).await, Err(Error::Precondition(_))));
        assert!(!dir.path().join("missing").exists());
    }
}
