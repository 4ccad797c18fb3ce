//! Publishes a volume on this node (CSI NodePublishVolume): mounts its directory on the server at the target.
//!
//! The mount table says what is published, because it outlives the driver. The driver makes a detached mount, sets the
//! group and mode of its root, and then attaches it to the target in one step. If the driver dies in between, there is
//! either nothing or a published volume. [`judge`](crate::node::judge) decides if something is mounted at the target.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::mount::gate::{Gate, Held};
use crate::mount::mounter::{Mounted, Role};
use crate::mount::new_mount::NewMount;
use crate::mount::table::Table;
use crate::nfs::source::Source;
use crate::nfs::status::Status;
use crate::node::attach::{Attach, AttachCancel, Outcome};
use crate::node::detach;
use crate::node::judge::{Judge, Verdict};
use crate::node::publish_intents::{KnownMount, MountedVolume, PublishIntent};
use crate::node::publisher::Publisher;
use crate::node::regroup::{Walked, regroup};
use crate::node::target::{Place, Target};

/// How long mounting may take on a server that answers checks but not the calls of the mount. The next call for the
/// target waits no longer than this.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

impl Publisher {
    /// Mounts a volume at its target. Creates the target if it is missing, but not its parent. A call waits for earlier
    /// calls for the same target.
    ///
    /// If the root directory has another group than the pod's (`fsGroup`), the call also changes all files of the
    /// volume, which may take longer than the caller waits. A repeated call then waits for this one.
    ///
    /// # Errors [`Error::Unreachable`] within 5 s if the server does not answer; [`Error::Conflict`] if something else
    /// is mounted at the target; [`Error::Precondition`] if the path cannot be a target, if the volume may have only
    /// one target and has another, or if a call wants to unpublish it meanwhile; the errors of
    /// [`Mounter::mount`](crate::mount::mounter::Mounter::mount); and [`Error::Export`] if the server fails to set the
    /// group or mode.
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
        let (probe, mounter, intents) = (&self.probe, &*self.mounter, &*self.intents);
        let judge = Judge { probe, mounter, intents, place: &place, table: &table, server_address: address };
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
        let mounted = self.mount(cancel.attach(Arc::clone(&place), intent.clone(), dead)).await?;
        self.intents.set(place.path(), PublishIntent { mounted: Some(mounted), ..intent });
        Ok(())
    }

    /// Finds the target's place, and reads the mount table if it is needed. On a node with many mounts, reading the
    /// table takes long, and for a new target it usually says nothing.
    async fn find(&self, intent: &PublishIntent) -> Result<(Arc<Place>, Arc<Table>)> {
        let target = intent.target.clone();
        let find = move || {
            let place = target.find()?.ok_or_else(|| no_parent(&target))?;
            let may_be_mount = place.may_be_mount();
            Ok((Arc::new(place), may_be_mount))
        };
        let (place, may_be_mount) = self.gates.local().run(find).await?;
        let table = match intent.single_target || may_be_mount {
            true => self.gates.local().table().await?,
            false => Arc::default(),
        };
        Ok((place, table))
    }

    /// Mounts the volume, gives its files to the pod's group if they have another, and attaches the mount.
    async fn mount(&self, attach: Attach) -> Result<MountedVolume> {
        let source = attach.intent.source.clone();
        let Mounted { root: outcome, asked, shown, gate, .. } = in_time(&source, self.mount_shared(&attach)).await?;
        let (outcome, of_files) = match outcome? {
            Outcome::OtherGroup(mount) => self.regroup_and_attach(&gate, mount, attach.clone()).await?,
            outcome => (outcome, None),
        };
        match outcome {
            Outcome::Attached { root, detached, refused, ids: (unique_id, id) } => {
                for (dead, root) in detached {
                    detach::end(&self.gates, &dead, root);
                }
                let mount = shown.map(|mount| Arc::new(mount.attached(id, attach.place().path())));
                let known = unique_id.zip(mount).map(|(unique_id, mount)| KnownMount { unique_id, mount });
                Ok(MountedVolume { root, asked, refused: refused.or(of_files), known })
            }
            Outcome::Stale | Outcome::OtherGroup(_) => Err(Error::Export {
                export: source.to_string(),
                action: "reading the volume's root directory".to_owned(),
                status: Status::Stale,
            }),
        }
    }

    /// Mounts the volume and attaches it to its target. The kernel may have cached the names on the volume's path for
    /// other mounts of the export, and then find a directory that the server has removed. In this case, mount again
    /// without sharing the cache.
    async fn mount_shared(&self, attach: &Attach) -> Result<Mounted<Result<Outcome>>> {
        let (source, options) = (&attach.intent.source, &attach.intent.options);
        let attach = attach.clone();
        let then = move |gate: &Gate, mount: NewMount| attach.run(gate, mount);
        let mounted = self.mounter.mount_then(source, options, Role::Node, then.clone()).await?;
        if !matches!(mounted.root, Ok(Outcome::Stale)) {
            return Ok(mounted);
        }
        tracing::debug!(%source, "the directory is stale in the kernel's cache; mounting without a shared cache");
        self.mounter.mount_then(source, &options.unshared(), Role::Node, then).await
    }

    /// Gives the volume's files to the pod's group, and then attaches the mount. Also returns why the server refused to
    /// change a file, if it did.
    async fn regroup_and_attach(
        &self,
        gate: &Gate,
        mount: Held<NewMount>,
        attach: Attach,
    ) -> Result<(Outcome, Option<Status>)> {
        let PublishIntent { source, target, root_attributes, .. } = attach.intent.clone();
        let mut walked = Walked::default();
        if let Some(group) = root_attributes.group {
            let is_unwanted = || self.leaving.contains(&target);
            let root =
                mount.as_fd().try_clone_to_owned().map_err(|error| Error::Internal(format!("{target}: {error}")))?;
            let volume = source.to_string();
            let begun = self.regrouping.begin(&volume);
            walked = regroup(gate, Arc::new(root), group, (&volume, &begun.progress), is_unwanted).await?;
            report(&source, group, &walked);
        }
        let gate_of_root = gate.clone();
        let attached = gate.run(move || attach.regrouped().run(&gate_of_root, mount.release()));
        let outcome = in_time(&source, async { attached.await? }).await?;
        Ok((outcome, walked.status))
    }
}

/// Waits for a part of publishing that takes long only if the server does not answer.
async fn in_time<T>(source: &Source, part: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(MOUNT_LIMIT, part).await.unwrap_or_else(|_| {
        let action = "mounting the volume and setting up its root directory".to_owned();
        Err(Error::Export { export: source.to_string(), action, status: Status::TimedOut })
    })
}

/// Logs what a walk did.
fn report(source: &Source, group: u32, walked: &Walked) {
    let Walked { seen, changed, refused, status } = *walked;
    match status {
        Some(status) => tracing::warn!(
            %source, group, seen, changed, refused, %status,
            "the server refuses to give files of the volume to the pod's group (fsGroup); they keep their group"
        ),
        None if changed > 0 => tracing::info!(%source, group, seen, changed, "gave the volume's files to the fsGroup"),
        None => {}
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
    use crate::nfs::source::{Server, Share};
    use crate::node::root::RootAttributes;
    use crate::testing::log::Log;

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
            read_only_by_mode: false,
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        };
        assert!(matches!(publisher.publish(intent).await, Err(Error::Precondition(_))));
        assert!(!dir.path().join("missing").exists());
    }

    #[test]
    fn it_is_logged_which_files_got_the_group_of_a_pod_and_which_did_not() {
        let (log, _logging) = Log::captured();
        let source = Source::share(Server::parse("", "nfs").unwrap(), Share::parse("", "/volume").unwrap());
        report(&source, 7, &Walked::default());
        assert_eq!(log.text(), "");
        report(&source, 7, &Walked { seen: 5, changed: 3, ..Walked::default() });
        assert!(log.text().contains("INFO") && log.text().contains("changed=3"), "{}", log.text());
        report(&source, 7, &Walked { refused: 2, status: Some(Status::Perm), ..Walked::default() });
        assert!(log.text().contains("WARN") && log.text().contains("refused=2"), "{}", log.text());
    }
}
