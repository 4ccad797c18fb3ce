//! Publishing a volume on this node (CSI NodePublishVolume): its directory on the server becomes its target here.
//!
//! What is published is told by the mount table, which outlives the driver. A volume is mounted, given its group and
//! mode, and only then put on its target, in one step: a driver that dies on the way leaves nothing, or a mounted volume.
//!
//! # What is on the target already
//! | the visible mount there | what happens |
//! |---|---|
//! | none | the volume is mounted |
//! | the same source with the same options, and the server answers for it | nothing: it is published |
//! | alive, but another source or other options | ALREADY_EXISTS, it stays |
//! | not NFS | ALREADY_EXISTS, it stays |
//! | stale or failing, or its server is dead at the address that the mount uses | replaced, once the new one is made |
//! | its server does not answer now, or not for it within its limit | UNAVAILABLE, it stays |
//!
//! A mount from an address that the server's name no longer has stays as long as that address answers, because a pod may be
//! using it; [`health`](crate::node::health) tells of it.
//!
//! Mounts under the visible one do not count. Options are compared in full with what this process was asked for, and with
//! what [`compare`](crate::node::compare) can tell where another process mounted.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::node::compare::difference;
use crate::mount::gate::{Gate, Gates};
use crate::mount::mounter::{Mounter, Role};
use crate::mount::reachability::Reachability;
use crate::mount::table::{Mount, Table, is_kubelet_target};
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::nfs::status::Status;
use crate::node::attach::{Call, Ended, Ending};
use crate::node::keyed_mutex::Turns;
use crate::node::probe::{Failure, LIMIT, Probe};
use crate::node::publish_intents::{Requested, Wanted};
use crate::node::root::{Identity, RootAttributes};
use crate::node::target::{Place, Target};

/// For a server that lives and does not carry out what mounting takes: the next call need not wait for longer.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

/// What to publish, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// CSI `volume_id`.
    pub volume_id: String,
    /// What is mounted.
    pub source: Source,
    /// Where.
    pub target: Target,
    /// How; `ro` for a volume that is published for reading.
    pub options: MountOptions,
    /// Whether the volume may have one target on this node (CSI SINGLE_NODE_SINGLE_WRITER).
    pub single_target: bool,
    /// What the volume's root directory has to have.
    pub root: RootAttributes,
}

/// Publishes volumes on this node, and takes them down.
#[derive(Debug)]
pub struct Publisher {
    mounter: Arc<Mounter>,
    pub(super) reachability: Arc<Reachability>,
    pub(super) gates: Arc<Gates>,
    probe: Probe,
    pub(super) requested: Arc<Requested>,
    pub(super) targets: Turns<Target>,
    sources: Turns<Source>,
}

/// What is to be done at a target.
enum Verdict {
    Mount,
    Replace,
    Nothing,
}

impl Publisher {
    /// A publisher that mounts with `mounter`, asks `reachability` and goes through `gates`, and tells `requested` what
    /// it is asked for.
    pub fn new(
        mounter: Arc<Mounter>,
        reachability: Arc<Reachability>,
        gates: Arc<Gates>,
        requested: Arc<Requested>,
    ) -> Self {
        let probe = Probe::new(Arc::clone(&reachability), Arc::clone(&gates));
        Self { mounter, reachability, gates, probe, requested, targets: Turns::default(), sources: Turns::default() }
    }

    /// Mounts a volume at its target, which is made if it is missing; its parent is not. A call for a target that
    /// another is at work on waits for that one.
    ///
    /// # Errors
    /// [`Error::Unreachable`] within 5 s where the server does not answer; [`Error::Conflict`] where something else is
    /// mounted at the target; [`Error::Precondition`] where the target cannot be one, or the volume may have one target
    /// and has another; what [`Mounter::mount`] fails with, and [`Error::Export`] where group or mode cannot be set.
    pub async fn publish(&self, request: Publish) -> Result<()> {
        let _turn = self.targets.take(request.target.clone()).await;
        let _only = match request.single_target {
            true => Some(self.sources.take(request.source.clone()).await),
            false => None,
        };
        let (place, table) = self
            .gates
            .local()
            .run({
                let target = request.target.clone();
                move || {
                    let place = target.find()?.ok_or_else(|| no_parent(&target))?;
                    // The table takes the longer to read the more is mounted, and mostly there is nothing to find in it.
                    let told = request.single_target || place.may_be_mount();
                    Ok((Arc::new(place), if told { Table::read()? } else { Table::default() }))
                }
            })
            .await?;
        let wanted = Wanted {
            volume_id: request.volume_id,
            source: request.source.clone(),
            options: request.options.clone(),
            root: None,
        };
        let before = self.requested.at(place.path());
        self.requested.attempt(place.path(), &wanted);
        let address = self.reachability.check(&request.source.server, request.options.port()).await?;
        let verdict = self.judge(&wanted, before.as_ref(), &place, &table, address).await?;
        if matches!(verdict, Verdict::Nothing) {
            return Ok(());
        }
        if request.single_target {
            self.refuse_second_target(&wanted, &place, &table, address)?;
        }
        let call = Call::default();
        let mut ending = call.ending(Arc::clone(&place), request.source);
        if !request.options.read_only() {
            ending.attributes = request.root;
        }
        if matches!(verdict, Verdict::Replace) {
            ending.dead = table.at(place.path()).into_iter().cloned().collect();
        }
        let mounting = timeout(MOUNT_LIMIT, self.mount(ending, &request.options));
        let root = mounting.await.unwrap_or_else(|_| {
            let action = "mounting the volume and setting up its root directory".to_owned();
            Err(Error::Export { export: wanted.source.to_string(), action, status: Status::TimedOut })
        })?;
        self.requested.set(place.path(), Wanted { root: Some(root), ..wanted });
        Ok(())
    }

    /// Mounts the volume and carries out the ending. The kernel finds the way to the volume by names that it may have
    /// cached for other mounts of the export, and so may come to a directory that is gone from the server: then a mount
    /// of its own helps.
    async fn mount(&self, ending: Ending, options: &MountOptions) -> Result<Identity> {
        let source = ending.source.clone();
        let end = move |_: &Gate, root: OwnedFd| ending.carry_out(&root);
        let mut ended = self.mounter.mount_then(&source, options, Role::Node, end.clone()).await?.root?;
        if matches!(ended, Ended::Stale) {
            tracing::debug!(%source, "came to a directory that is gone; mounting apart from other volumes");
            ended = self.mounter.mount_then(&source, &options.unshared(), Role::Node, end).await?.root?;
        }
        match ended {
            Ended::Attached { root, left } => {
                for (dead, last) in left {
                    self.let_go(&dead, last);
                }
                Ok(root)
            }
            Ended::Stale => Err(Error::Export {
                export: source.to_string(),
                action: "looking at the volume's root directory".to_owned(),
                status: Status::Stale,
            }),
        }
    }

    /// Looks at what is mounted at the target: the table in this file's doc.
    async fn judge(
        &self,
        wanted: &Wanted,
        before: Option<&Wanted>,
        place: &Arc<Place>,
        table: &Table,
        address: IpAddr,
    ) -> Result<Verdict> {
        let stack = table.at(place.path());
        let Some(top) = stack.first() else { return Ok(Verdict::Mount) };
        let conflict = |reason: String| Err(Error::conflict(format!("a mount at {place}"), reason));
        if let Some(other) = stack.iter().find(|mount| !mount.is_nfs()) {
            return conflict(format!(
                "it is `{}` of type {}; unmount what does not belong there",
                other.source(),
                other.fs_type
            ));
        }
        match self.probe.root(place, top, Instant::now() + LIMIT).await {
            Ok(root) => {
                // What this process mounted it knows; else names have to tell.
                let mine = before.filter(|before| before.root == Some(root.identity));
                let same =
                    mine.is_some_and(|mine| mine.source == wanted.source) || top.is_of(&wanted.source, Some(address));
                if !same {
                    return conflict(format!(
                        "it is of {}, not of {}; unpublish it first",
                        top.source(),
                        wanted.source
                    ));
                }
                match differs(wanted, mine, top) {
                    Some(difference) => conflict(format!("{difference}; unpublish it first")),
                    None => Ok(Verdict::Nothing),
                }
            }
            Err(Failure::Unreachable(reason)) if !self.probe.is_dead(top) => {
                let server = top.server().map_or_else(|| top.source(), |server| server.to_string());
                Err(Error::Unreachable { server, port: top.tcp_port(), reason })
            }
            Err(Failure::Silent | Failure::Failed(Status::TimedOut)) => Err(Error::Export {
                export: top.source(),
                action: format!("asking for the volume that is mounted at {place}"),
                status: Status::TimedOut,
            }),
            Err(Failure::Gone) => Err(Error::Precondition(format!(
                "{place} is being mounted or unmounted by something else; the call has to be tried again"
            ))),
            Err(failure @ (Failure::Unreachable(_) | Failure::Failed(_))) => {
                tracing::warn!(target = %place, source = top.source(), %failure, "replacing a dead mount");
                Ok(Verdict::Replace)
            }
        }
    }

    /// Refuses a volume that may have one target and has another: a mount of the same source at a path of kubelet's, or
    /// at one that this process was asked for. Others, such as bind mounts for a pod's `subPath`, are no targets.
    fn refuse_second_target(&self, wanted: &Wanted, place: &Place, table: &Table, address: IpAddr) -> Result<()> {
        let is_target = |path: &Path| is_kubelet_target(path) || self.requested.at(path).is_some();
        let other = table.mounts().find(|mount| {
            mount.target != place.path() && mount.is_of(&wanted.source, Some(address)) && is_target(&mount.target)
        });
        match other {
            Some(other) => Err(Error::Precondition(format!(
                "volume {} is for one writer on one node and is published at {} already",
                wanted.volume_id,
                other.target.display()
            ))),
            None => Ok(()),
        }
    }
}

/// In what a mount is not as wanted, apart from its source.
fn differs(wanted: &Wanted, mine: Option<&Wanted>, mount: &Mount) -> Option<String> {
    difference(mount, &wanted.options).map(|difference| difference.to_string()).or_else(|| {
        let mine = mine.filter(|mine| mine.options != wanted.options)?;
        Some(format!("`{}` is asked for, it was mounted with `{}`", wanted.options, mine.options))
    })
}

fn no_parent(target: &Target) -> Error {
    Error::Precondition(format!(
        "the parent directory of {target} does not exist: the CO has to make it, on a file system that this driver sees \
         (in Kubernetes kubelet's directory, mounted into the driver's container with mountPropagation: Bidirectional)"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::linux::fs::MetadataExt;

    use rstest::rstest;

    use super::*;
    use crate::nfs::source::{self, Share};
    use crate::node::root::Root;
    use crate::testing::fake_server::{Behaviour, Server};

    fn publisher() -> Publisher {
        let reachability = Reachability::new();
        let gates = Gates::new(Arc::clone(&reachability));
        let mounter = Arc::new(Mounter::new(Arc::clone(&reachability), Arc::clone(&gates)));
        Publisher::new(mounter, reachability, gates, Arc::default())
    }

    fn wanted(share: &str, options: &str) -> Wanted {
        Wanted {
            volume_id: "volume".to_owned(),
            source: Source::share(
                source::Server::parse("server", "nfs").unwrap(),
                Share::parse("share", share).unwrap(),
            ),
            options: MountOptions::parse("mount_flags", [options]).unwrap(),
            root: None,
        }
    }

    /// A directory that the table shows as a mount of `nfs:/volume`, from the server at `port`.
    struct Shown {
        _dir: tempfile::TempDir,
        place: Arc<Place>,
        table: Table,
    }

    impl Shown {
        fn as_mount(fs_type: &str, port: u16) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let target = Target::try_from(dir.path()).unwrap();
            let place = Arc::new(target.find().unwrap().unwrap());
            let device = dir.path().metadata().unwrap().st_dev();
            let line = format!(
                "26 25 {}:{} / {} rw,relatime - {fs_type} nfs:/volume rw,vers=4.2,hard,port={port},addr=127.0.0.1",
                rustix::fs::major(device),
                rustix::fs::minor(device),
                place.path().display()
            );
            Self { _dir: dir, place, table: Table::parse(line.as_bytes()) }
        }

        async fn judged(&self, wanted: &Wanted, before: Option<&Wanted>) -> Result<Verdict> {
            self.judged_by(&publisher(), wanted, before).await
        }

        async fn judged_by(&self, publisher: &Publisher, wanted: &Wanted, before: Option<&Wanted>) -> Result<Verdict> {
            publisher.judge(wanted, before, &self.place, &self.table, "10.0.0.1".parse().unwrap()).await
        }

        /// What a process remembers that made this mount for `wanted`.
        fn made_for(&self, wanted: Wanted) -> Wanted {
            let root = std::fs::File::open(self.place.path()).unwrap();
            Wanted { root: Some(Root::known(root.as_fd()).unwrap().identity), ..wanted }
        }
    }

    #[tokio::test]
    async fn a_target_with_the_volume_as_asked_for_is_published() {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        let verdict = shown.judged(&wanted("/volume", "hard,rsize=4096"), None).await;
        assert!(matches!(verdict, Ok(Verdict::Nothing)));
    }

    #[rstest]
    #[case::read_only("/volume", "ro")]
    #[case::another_option("/volume", "soft")]
    #[case::another_volume("/other", "")]
    #[tokio::test]
    async fn a_target_with_another_volume_or_other_options_is_taken(#[case] share: &str, #[case] options: &str) {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        assert!(matches!(shown.judged(&wanted(share, options), None).await, Err(Error::Conflict { .. })));
    }

    #[tokio::test]
    async fn what_this_process_mounted_is_compared_in_full() {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        let before = shown.made_for(wanted("/link-to-volume", "rsize=4096"));
        let same = shown.judged(&wanted("/link-to-volume", "rsize=4096"), Some(&before)).await;
        assert!(matches!(same, Ok(Verdict::Nothing)), "the kernel may show another path than was asked for");
        let other = shown.judged(&wanted("/link-to-volume", "rsize=8192"), Some(&before)).await;
        assert!(matches!(other, Err(Error::Conflict { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mount_whose_server_is_gone_stays_for_tens_of_seconds_and_is_then_replaced() {
        let server = Server::start(Behaviour::Closing).await;
        let shown = Shown::as_mount("nfs", server.address.port());
        let (publisher, started) = (publisher(), Instant::now());
        loop {
            match shown.judged_by(&publisher, &wanted("/volume", ""), None).await {
                Ok(Verdict::Replace) => break,
                Err(Error::Unreachable { .. }) => tokio::time::sleep(Duration::from_secs(2)).await,
                Ok(_) => panic!("it is taken for published"),
                Err(other) => panic!("{other}"),
            }
        }
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(40), "{waited:?}");
    }

    #[tokio::test]
    async fn a_mount_that_is_not_nfs_is_left_alone() {
        let shown = Shown::as_mount("tmpfs", 1);
        assert!(matches!(shown.judged(&wanted("/volume", ""), None).await, Err(Error::Conflict { .. })));
    }

    #[rstest]
    #[case::kubelet_s("/k/pods/u/volumes/kubernetes.io~csi/pv/mount", "nfs:/volume", false)]
    #[case::sub_path("/k/pods/u/volume-subpaths/pv/c/0", "nfs:/volume", true)]
    #[case::asked_for("/asked", "nfs:/volume", false)]
    #[case::another_volume("/asked", "nfs:/volume/sub", true)]
    fn a_volume_for_one_target_has_no_second(#[case] path: &str, #[case] source: &str, #[case] allowed: bool) {
        let publisher = publisher();
        let dir = tempfile::tempdir().unwrap();
        let place = Target::try_from(dir.path()).unwrap().find().unwrap().unwrap();
        let table = Table::parse(format!("26 25 0:26 / {path} rw - nfs4 {source} rw,addr=10.0.0.9").as_bytes());
        publisher.requested.set(Path::new("/asked"), wanted("/volume", ""));
        let checked =
            publisher.refuse_second_target(&wanted("/volume", ""), &place, &table, "10.0.0.1".parse().unwrap());
        assert_eq!(checked.is_ok(), allowed, "{checked:?}");
    }

    #[tokio::test]
    async fn a_target_without_a_parent_is_refused_before_the_server_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let Wanted { volume_id, source, options, .. } = wanted("/volume", "");
        let target = Target::try_from(dir.path().join("missing/target").as_path()).unwrap();
        let root = RootAttributes::default();
        let request = Publish { volume_id, source, target, options, single_target: false, root };
        assert!(matches!(publisher().publish(request).await, Err(Error::Precondition(_))));
        assert!(!dir.path().join("missing").exists());
    }
}
