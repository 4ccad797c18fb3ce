//! What is wrong with the volumes that are published on this node, and with the servers they are on, seen from here (CSI
//! NodeGetVolumeHealth, NodeGetStorageHealth).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::condition::{Condition, Severity};
use super::local::on_node;
use super::probe::{Failure, LIMIT, Probe};
use super::requested::{Requested, Wanted};
use super::source::{Server, Source};
use super::table::{Mount, Table, is_kubelet_target};
use super::target::{Place, Target};
use crate::error::{Error, Result};
use crate::export::fs::Status;

/// The port that a server is asked at where no mount tells another.
const NFS_PORT: u16 = 2049;

const SERVER_UNREACHABLE: &str = "ServerUnreachable";
const ASK_SERVER: &str = "check that the NFS server runs and that its port is open from this node";

const MOUNT_ANEW: &str = "delete the pod, so that its volumes are mounted anew";

/// Looks after the volumes of this node.
#[derive(Debug)]
pub struct Health {
    probe: Probe,
    requested: Arc<Requested>,
}

/// What is to be looked at.
struct Subject {
    place: Arc<Place>,
    /// The visible mount.
    mount: Option<Mount>,
    /// What this process was asked to mount there.
    wanted: Option<Wanted>,
}

impl Health {
    /// Asks servers by `probe`; `requested` tells what should be mounted where.
    pub fn new(probe: Probe, requested: Arc<Requested>) -> Self {
        Self { probe, requested }
    }

    /// What is wrong with a volume at `target`, or at all of its targets on this node; empty where nothing is. Within 2 s.
    /// `source` is what the volume's identifier says of it, if anything.
    ///
    /// | reason | severity | what it means |
    /// |---|---|---|
    /// | `ServerUnreachable` | inaccessible | the server does not answer an RPC call |
    /// | `ServerSilent` | inaccessible | it does, but not for this volume |
    /// | `StaleFileHandle` | inaccessible | the volume's directory was removed or replaced, or is no longer exported |
    /// | `VolumeUnreadable` | inaccessible | the server refuses to say anything of it |
    /// | `MountMissing` | inaccessible | nothing is mounted where the volume was, or should be, published |
    /// | `WrongVolumeMounted` | inaccessible | something else is |
    /// | `ReadOnlyOnServer` | degraded | mounted for writing, but the server lets nobody write |
    ///
    /// # Errors
    /// [`Error::NotFound`] where this node has nothing to do with the volume.
    pub async fn of_volume(
        &self,
        volume_id: &str,
        target: Option<&Target>,
        source: Option<&Source>,
    ) -> Result<Vec<Condition>> {
        let deadline = Instant::now() + LIMIT;
        let mut conditions: Vec<Condition> = Vec::new();
        let subjects = self.subjects(volume_id, target, source).await?;
        let mut looks: JoinSet<_> =
            subjects.into_iter().map(|subject| look(self.probe.clone(), subject, source.cloned(), deadline)).collect();
        while let Some(look) = looks.join_next().await {
            let found =
                look.map_err(|error| Error::Internal(format!("looking at volume {volume_id} broke off: {error}")))?;
            // CSI allows a reason once a volume.
            conditions.extend(found.filter(|found| conditions.iter().all(|known| known.reason != found.reason)));
        }
        Ok(conditions)
    }

    /// The servers of volumes on this node that do not answer, in one condition; `None` where all do. Within 2 s.
    ///
    /// A server counts where a volume of it is mounted at a path of kubelet's, or at one that this process was asked for.
    pub async fn of_servers(&self) -> Result<Option<Condition>> {
        let deadline = Instant::now() + LIMIT;
        let table = on_node(Table::read).await?;
        let is_target = |path: &Path| is_kubelet_target(path) || self.requested.at(path).is_some();
        let servers: BTreeSet<(Server, u16)> = table
            .mounts()
            .filter(|mount| is_target(&mount.target))
            .filter_map(|mount| Some((mount.server()?, mount.port())))
            .collect();
        let mut asked = JoinSet::new();
        for (server, port) in servers {
            let probe = self.probe.clone();
            asked.spawn(async move {
                let failure = probe.server(&server, port, deadline).await.err()?;
                Some(format!("{server} port {port}: {failure}"))
            });
        }
        let mut silent: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
        silent.sort();
        Ok((!silent.is_empty()).then(|| Condition {
            severity: Severity::Inaccessible,
            reason: SERVER_UNREACHABLE,
            message: format!("{ASK_SERVER}: {}", silent.join("; ")),
        }))
    }

    /// Where a volume is to be looked at.
    async fn subjects(
        &self,
        volume_id: &str,
        target: Option<&Target>,
        source: Option<&Source>,
    ) -> Result<Vec<Subject>> {
        let mut paths: Vec<PathBuf> = match target {
            Some(_) => Vec::new(),
            None => self.requested.targets_of(volume_id),
        };
        let (target, source, requested) = (target.cloned(), source.cloned(), Arc::clone(&self.requested));
        let volume = format!("volume `{}`", volume_id.escape_debug());
        on_node(move || {
            let table = Table::read()?;
            if let (None, Some(source)) = (&target, &source) {
                let mounts =
                    table.mounts().filter(|mount| mount.is_of(source, None) && is_kubelet_target(&mount.target));
                paths.extend(mounts.map(|mount| mount.target.clone()));
            }
            let targets =
                target.into_iter().chain(paths.iter().filter_map(|path| Target::try_from(path.as_path()).ok()));
            let subjects: Vec<Subject> = targets
                .filter_map(|target| target.find().transpose())
                .map(|place| {
                    let place = Arc::new(place?);
                    let mount = table.top(place.path()).cloned();
                    let wanted = requested.at(place.path());
                    let awaited = is_kubelet_target(place.path()) && place.is_directory().unwrap_or(true);
                    let known = mount.is_some() || wanted.is_some() || awaited;
                    Ok(known.then_some(Subject { place, mount, wanted }))
                })
                .filter_map(Result::transpose)
                .collect::<Result<_>>()?;
            match subjects.is_empty() {
                true => Err(Error::not_found(volume, "it is not published on this node, nor was it tried")),
                false => Ok(subjects),
            }
        })
        .await
    }
}

/// The one thing that is wrong at a target.
async fn look(probe: Probe, subject: Subject, source: Option<Source>, deadline: Instant) -> Option<Condition> {
    let place = &subject.place;
    let Some(mount) = &subject.mount else {
        return Some(look_for_missing(&probe, &subject, source.as_ref(), deadline).await);
    };
    let found = async {
        if !mount.is_nfs() {
            return Ok(Some(wrong_volume(place, mount)));
        }
        let root = probe.root(place, mount, deadline).await?;
        if subject.wanted.as_ref().and_then(|wanted| wanted.root).is_some_and(|wanted| wanted != root.identity) {
            return Ok(Some(wrong_volume(place, mount)));
        }
        let refused = !mount.is_read_only() && probe.is_read_only(place, mount, root, deadline).await?;
        Ok(refused.then(|| read_only(place, mount)))
    };
    found.await.unwrap_or_else(|failure| Some(explain(&failure, place, &mount.source())))
}

/// Why nothing is mounted: a server that does not answer is the likely cause.
async fn look_for_missing(probe: &Probe, subject: &Subject, source: Option<&Source>, deadline: Instant) -> Condition {
    let wanted = subject.wanted.as_ref();
    if let Some(source) = wanted.map(|wanted| &wanted.source).or(source) {
        let port = wanted.map_or(NFS_PORT, |wanted| wanted.options.port());
        if let Err(failure) = probe.server(&source.server, port, deadline).await {
            return explain(&failure, &subject.place, &source.to_string());
        }
    }
    explain(&Failure::Gone, &subject.place, "the volume")
}

fn wrong_volume(place: &Place, mount: &Mount) -> Condition {
    Condition {
        severity: Severity::Inaccessible,
        reason: "WrongVolumeMounted",
        message: format!("{} is mounted at {place}, not this volume; {MOUNT_ANEW}", mount.source()),
    }
}

fn read_only(place: &Place, mount: &Mount) -> Condition {
    Condition {
        severity: Severity::Degraded,
        reason: "ReadOnlyOnServer",
        message: format!(
            "{} is mounted for writing at {place}, but the server lets nobody write: export it with rw in /etc/exports, \
             and check the server's file system for errors",
            mount.source()
        ),
    }
}

fn explain(failure: &Failure, place: &Place, source: &str) -> Condition {
    let (reason, advice) = match failure {
        Failure::Unreachable(_) => (SERVER_UNREACHABLE, ASK_SERVER),
        Failure::Silent => ("ServerSilent", "check the server's load and disks"),
        Failure::Gone => ("MountMissing", MOUNT_ANEW),
        Failure::Failed(Status::Stale) => (
            "StaleFileHandle",
            "its directory was removed, replaced or is no longer exported: restore it on the server, then delete the pod",
        ),
        Failure::Failed(_) => ("VolumeUnreadable", "check /etc/exports and the log of the server"),
    };
    Condition { severity: Severity::Inaccessible, reason, message: format!("{source} at {place}: {failure}; {advice}") }
}
