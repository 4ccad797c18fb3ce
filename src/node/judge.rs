//! Decides how to publish a volume at a target where something may be mounted already.
//!
//! | the visible mount at the target | what publishing does |
//! |---|---|
//! | none | mounts the volume |
//! | the same directory, and the server answers for it | nothing: the volume is published |
//! | the same, but rw instead of ro, or with weaker security | ALREADY_EXISTS; the mount stays |
//! | alive, but another directory | ALREADY_EXISTS; the mount stays |
//! | not NFS, or over a mount that is not NFS | ALREADY_EXISTS; the mounts stay |
//! | stale or failing, or its server is dead at the address that the mount uses | replaces the mount with a new one |
//! | its server does not answer at present, or not for this mount in time | UNAVAILABLE; the mount stays |
//!
//! If the server's name no longer has the address of a mount, the mount stays as long as that address answers, because
//! a pod may use it; [`mount_health`](crate::node::mount_health) reports it.
//!
//! A running pod keeps its volume when kubelet repeats the call, also if the options or the spelling of the source have
//! changed meanwhile, for example by an upgrade: a warning says how they differ. If the names differ, the requested
//! source is mounted for a moment, and the root directories are compared. The driver does not count `ro` as requested
//! if only the access mode says so: csi-driver-nfs mounts such volumes read-write.
//!
//! Other NFS mounts under the visible one do not count. If this process made the mount, all options are compared. If
//! another process made it, only the options are compared that [`compare`](crate::mount::compare) can read.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::mount::compare::{difference, less_secure};
use crate::mount::gate::Gate;
use crate::mount::mounter::{Mounter, Role};
use crate::mount::new_mount::NewMount;
use crate::mount::table::{Mount, Table, is_kubelet_target};
use crate::nfs::options::MountOptions;
use crate::nfs::status::Status;
use crate::node::mount_probe::{Failure, MountProbe, PROBE_TIMEOUT};
use crate::node::publish_intents::{PublishIntent, PublishIntents};
use crate::node::root::Root;
use crate::node::target::Place;

/// What publishing must do at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Mount the volume: nothing is mounted.
    Mount,
    /// Mount the volume in place of dead mounts.
    Replace,
    /// Nothing: the volume is published.
    Published,
}

/// Examines one target.
#[derive(Debug)]
pub struct Judge<'a> {
    /// Checks the mount at the target.
    pub probe: &'a MountProbe,
    /// Mounts a source, to compare it with the mount at the target.
    pub mounter: &'a Mounter,
    /// What this process was requested to publish.
    pub intents: &'a PublishIntents,
    /// The target.
    pub place: &'a Arc<Place>,
    /// What is mounted.
    pub table: &'a Table,
    /// The current address of the volume's server.
    pub server_address: IpAddr,
}

impl Judge<'_> {
    /// Returns what must be done to publish `intent`, by the table in this file's documentation. `before` is what this
    /// process was requested to publish at the target earlier.
    pub async fn verdict(&self, intent: &PublishIntent, before: Option<&PublishIntent>) -> Result<Verdict> {
        let stack = self.table.at(self.place.path());
        let Some(top) = stack.first() else { return Ok(Verdict::Mount) };
        if let Some(other) = stack.iter().find(|mount| !mount.is_nfs()) {
            let (source, fs_type) = (other.source(), &other.fs_type);
            return self
                .conflict(format!("it is `{source}` of type {fs_type}; unmount it, because it is not the driver's"));
        }
        match self.probe.root(self.place, top, Instant::now() + PROBE_TIMEOUT).await {
            Ok(root) => self.compare(intent, before, top, root).await,
            Err(failure) => self.dead_or_error(top, failure),
        }
    }

    /// Compares a live mount with the request.
    async fn compare(
        &self,
        intent: &PublishIntent,
        before: Option<&PublishIntent>,
        top: &Mount,
        root: Root,
    ) -> Result<Verdict> {
        // This process knows its own mounts. Other mounts are recognized by the names in the table.
        let own = before.filter(|before| before.mounted.as_ref().is_some_and(|mounted| mounted.root == root.identity));
        let has_name =
            own.is_some_and(|own| own.source == intent.source) || top.is_of(&intent.source, Some(self.server_address));
        if !has_name && !self.is_directory_of(intent, top, root).await? {
            return self.conflict(format!("it is of {}, not of {}; unpublish it first", top.source(), intent.source));
        }
        if let Some(difference) = less_secure(top, &intent.options, intent.read_only_by_mode) {
            return self.conflict(format!("{difference}; unpublish it first"));
        }
        let other_name =
            || (!has_name).then(|| format!("`{}` was requested, but the mount has `{}`", intent.source, top.source()));
        if let Some(difference) = differs(intent, own, top).or_else(other_name) {
            let (target, volume) = (self.place, &intent.volume_id);
            tracing::warn!(
                %target, volume, difference,
                "the volume stays mounted as it is, which is not quite as requested; delete the pod to mount it anew"
            );
        }
        Ok(Verdict::Published)
    }

    /// Whether the mount with this root shows the directory that was requested, although its source has another name:
    /// by another path, through a link on the server. This mounts the requested source as the mount is mounted, so that
    /// the kernel uses the same superblock, where the same directory has the same identity.
    async fn is_directory_of(&self, intent: &PublishIntent, top: &Mount, root: Root) -> Result<bool> {
        const FIELD: &str = "mount options";
        let shown = top.superblock_options().filter(|option| MountOptions::parse(FIELD, [option]).is_ok());
        let options = MountOptions::parse(FIELD, shown)?;
        let identity = |_: &Gate, mount: NewMount| Root::ask(mount.as_fd()).map(|root| root.identity);
        match self.mounter.mount_then(&intent.source, &options, Role::Node, identity).await {
            Ok(mounted) => Ok(mounted.root == Ok(root.identity)),
            Err(error @ Error::Unreachable { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(source = %intent.source, %error, "cannot compare the requested source with the mount");
                Ok(false)
            }
        }
    }

    /// Returns what a mount that does not answer means.
    fn dead_or_error(&self, top: &Mount, failure: Failure) -> Result<Verdict> {
        let place = self.place;
        match failure {
            Failure::Unreachable(reason) if !self.probe.is_dead(top) => {
                let server = top.server().map_or_else(|| top.source(), |server| server.to_string());
                Err(Error::Unreachable { server, port: top.tcp_port(), reason })
            }
            Failure::Silent | Failure::Failed(Status::TimedOut) => Err(Error::Export {
                export: top.source(),
                action: format!("reading the volume that is mounted at {place}"),
                status: Status::TimedOut,
            }),
            Failure::Gone => Err(Error::Precondition(format!(
                "another process is mounting or unmounting at {place}; retry the call"
            ))),
            failure @ (Failure::Unreachable(_) | Failure::Failed(_)) => {
                tracing::warn!(target = %place, source = top.source(), %failure, "replacing a dead mount");
                Ok(Verdict::Replace)
            }
        }
    }

    fn conflict(&self, reason: String) -> Result<Verdict> {
        Err(Error::conflict(format!("a mount at {}", self.place), reason))
    }

    /// Returns an error if a volume that may have only one target has another: a mount of the same source at one of
    /// kubelet's paths, or at a path that this process was requested to publish at. Other mounts, such as bind mounts
    /// for a pod's `subPath`, are no targets.
    pub fn refuse_second_target(&self, intent: &PublishIntent) -> Result<()> {
        let is_target = |path: &Path| is_kubelet_target(path) || self.intents.at(path).is_some();
        let other = self.table.mounts().find(|mount| {
            mount.target != self.place.path()
                && mount.is_of(&intent.source, Some(self.server_address))
                && is_target(&mount.target)
        });
        match other {
            Some(other) => Err(Error::Precondition(format!(
                "volume {} is for one writer on one node, and is already published at {}",
                intent.volume_id,
                other.target.display()
            ))),
            None => Ok(()),
        }
    }
}

/// The difference between a mount and the request, apart from the source. `own` is the request for which this process
/// made the mount.
fn differs(intent: &PublishIntent, own: Option<&PublishIntent>, mount: &Mount) -> Option<String> {
    difference(mount, &intent.options).map(|difference| difference.to_string()).or_else(|| {
        let own = own.filter(|own| own.options != intent.options)?;
        Some(format!("`{}` was requested, but the mount has `{}`", intent.options, own.options))
    })
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::reachability::Reachability;
    use crate::nfs::source::{self, Share, Source};
    use crate::node::publish_intents::MountedVolume;
    use crate::node::root::RootAttributes;
    use crate::node::target::Target;
    use crate::testing::fake_server::{Behaviour, Server};

    fn probe() -> MountProbe {
        let reachability = Reachability::new();
        MountProbe::new(Arc::clone(&reachability), Gates::new(reachability))
    }

    fn mounter() -> Mounter {
        let reachability = Reachability::new();
        Mounter::new(Arc::clone(&reachability), Gates::new(reachability))
    }

    fn intent(share: &str, options: &str) -> PublishIntent {
        PublishIntent {
            volume_id: "volume".to_owned(),
            source: Source::share(
                source::Server::parse("server", "nfs").unwrap(),
                Share::parse("share", share).unwrap(),
            ),
            target: Target::parse("target_path", "/target").unwrap(),
            options: MountOptions::parse("mount_flags", [options]).unwrap(),
            read_only_by_mode: false,
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        }
    }

    /// A directory that the table shows as a mount of `nfs:/volume` from the server at `port`.
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
                "26 25 {}:{} / {} rw,relatime - {fs_type} nfs:/volume rw,vers=4.2,hard,sec=sys,port={port},\
                 addr=127.0.0.1",
                rustix::fs::major(device),
                rustix::fs::minor(device),
                place.path().display()
            );
            Self { _dir: dir, place, table: Table::parse(line.as_bytes()) }
        }

        async fn judged(&self, intent: &PublishIntent, before: Option<&PublishIntent>) -> Result<Verdict> {
            self.judged_by(&probe(), intent, before).await
        }

        async fn judged_by(
            &self,
            probe: &MountProbe,
            intent: &PublishIntent,
            before: Option<&PublishIntent>,
        ) -> Result<Verdict> {
            let (intents, server_address) = (&PublishIntents::default(), "10.0.0.1".parse().unwrap());
            let mounter = &mounter();
            let judge = Judge { probe, mounter, intents, place: &self.place, table: &self.table, server_address };
            judge.verdict(intent, before).await
        }

        /// What a process remembers if it made this mount for `intent`.
        fn made_for(&self, intent: PublishIntent) -> PublishIntent {
            let root = std::fs::File::open(self.place.path()).unwrap();
            let root = Root::known(root.as_fd()).unwrap().identity;
            let mounted = MountedVolume { root, asked: "10.0.0.1".parse().unwrap(), refused: None, known: None };
            PublishIntent { mounted: Some(mounted), ..intent }
        }
    }

    #[tokio::test]
    async fn a_target_with_the_volume_as_requested_is_published() {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        let verdict = shown.judged(&intent("/volume", "hard,rsize=4096"), None).await;
        assert!(matches!(verdict, Ok(Verdict::Published)));
    }

    #[rstest]
    #[case::read_only("/volume", "ro")]
    #[case::encryption("/volume", "xprtsec=tls")]
    #[case::security("/volume", "sec=krb5")]
    #[case::another_volume("/other", "")]
    #[tokio::test]
    async fn a_target_with_another_volume_or_less_security_is_a_conflict(#[case] share: &str, #[case] options: &str) {
        let server = Server::start(Behaviour::alive()).await;
        let port = server.address.port();
        let shown = Shown::as_mount("nfs4", port);
        let mut intent = intent(share, &format!("port={port},{options}"));
        intent.source.server = source::Server::parse("server", "127.0.0.1").unwrap();
        let before = shown.made_for(PublishIntent {
            source: Source { share: Share::parse("share", "/volume").unwrap(), ..intent.source.clone() },
            ..intent.clone()
        });
        assert!(matches!(shown.judged(&intent, Some(&before)).await, Err(Error::Conflict { .. })));
    }

    #[rstest]
    #[case::another_option("soft")]
    #[case::another_version("vers=4.1")]
    #[case::other_caching("noac,nocto,lookupcache=none")]
    #[tokio::test]
    async fn a_running_pod_keeps_its_volume_if_the_options_change(#[case] options: &str) {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        let verdict = shown.judged(&intent("/volume", options), None).await;
        assert!(matches!(verdict, Ok(Verdict::Published)), "{verdict:?}");
    }

    #[tokio::test]
    async fn a_volume_that_is_read_only_by_its_access_mode_alone_may_stay_mounted_read_write() {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        let request = PublishIntent { read_only_by_mode: true, ..intent("/volume", "ro") };
        assert!(matches!(shown.judged(&request, None).await, Ok(Verdict::Published)));
    }

    #[tokio::test]
    async fn this_process_s_own_mount_is_recognized_whatever_path_the_kernel_shows() {
        let server = Server::start(Behaviour::alive()).await;
        let shown = Shown::as_mount("nfs4", server.address.port());
        let before = shown.made_for(intent("/link-to-volume", "rsize=4096"));
        let same = shown.judged(&intent("/link-to-volume", "rsize=4096"), Some(&before)).await;
        assert!(matches!(same, Ok(Verdict::Published)), "the kernel may show another path than the requested one");
        let other = shown.judged(&intent("/link-to-volume", "rsize=8192"), Some(&before)).await;
        assert!(matches!(other, Ok(Verdict::Published)), "{other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mount_whose_server_is_gone_stays_for_tens_of_seconds_and_is_then_replaced() {
        let server = Server::start(Behaviour::Closing).await;
        let shown = Shown::as_mount("nfs", server.address.port());
        let (probe, started) = (probe(), Instant::now());
        loop {
            match shown.judged_by(&probe, &intent("/volume", ""), None).await {
                Ok(Verdict::Replace) => break,
                Err(Error::Unreachable { .. }) => tokio::time::sleep(Duration::from_secs(2)).await,
                Ok(_) => panic!("the mount counts as published"),
                Err(other) => panic!("{other}"),
            }
        }
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(40), "{waited:?}");
    }

    #[tokio::test]
    async fn a_mount_that_is_not_nfs_is_left_alone() {
        let shown = Shown::as_mount("tmpfs", 1);
        assert!(matches!(shown.judged(&intent("/volume", ""), None).await, Err(Error::Conflict { .. })));
    }

    #[rstest]
    #[case::kubelet_s("/k/pods/u/volumes/kubernetes.io~csi/pv/mount", "nfs:/volume", false)]
    #[case::sub_path("/k/pods/u/volume-subpaths/pv/c/0", "nfs:/volume", true)]
    #[case::asked_for("/asked", "nfs:/volume", false)]
    #[case::another_volume("/asked", "nfs:/volume/sub", true)]
    fn a_volume_for_one_target_gets_no_second_target(#[case] path: &str, #[case] source: &str, #[case] allowed: bool) {
        let dir = tempfile::tempdir().unwrap();
        let place = &Arc::new(Target::try_from(dir.path()).unwrap().find().unwrap().unwrap());
        let table = &Table::parse(format!("26 25 0:26 / {path} rw - nfs4 {source} rw,addr=10.0.0.9").as_bytes());
        let (probe, intents) = (&probe(), &PublishIntents::default());
        intents.set(Path::new("/asked"), intent("/volume", ""));
        let (mounter, server_address) = (&mounter(), "10.0.0.1".parse().unwrap());
        let judge = Judge { probe, mounter, intents, place, table, server_address };
        let checked = judge.refuse_second_target(&intent("/volume", ""));
        assert_eq!(checked.is_ok(), allowed, "{checked:?}");
    }

    #[test]
    fn a_request_with_other_options_than_the_mount_was_made_for_differs_from_it() {
        let shown = Shown::as_mount("nfs4", 2049);
        let mount = shown.table.at(shown.place.path())[0];
        let (wanted, same, other) =
            (intent("/volume", "hard"), intent("/volume", "hard"), intent("/volume", "hard,ac"));
        assert_eq!(differs(&wanted, Some(&same), mount), None);
        assert_eq!(differs(&wanted, None, mount), None, "another process made it");
        let difference = differs(&wanted, Some(&other), mount).unwrap();
        assert_eq!(difference, "`hard` was requested, but the mount has `hard,ac`");
    }
}
