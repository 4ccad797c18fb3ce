//! The health of the volumes that are published on this node, and of their servers, as this node sees it (CSI
//! NodeGetVolumeHealth, NodeGetStorageHealth).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::mount::table::{Mount, is_kubelet_target};
use crate::mount::version::is_fallback;
use crate::nfs::condition::{Condition, Severity};
use crate::nfs::source::{Server, Source};
use crate::nfs::text::excerpt;
use crate::node::mount_conditions as conditions;
use crate::node::mount_probe::{Failure, MountProbe, PROBE_TIMEOUT};
use crate::node::moved;
use crate::node::publish_intents::{PublishIntent, PublishIntents};
use crate::node::target::{Place, Target};

/// The port for checking a server if no mount options name another.
const NFS_PORT: u16 = 2049;

/// Checks the volumes of this node.
#[derive(Debug)]
pub struct MountHealth {
    probe: MountProbe,
    intents: Arc<PublishIntents>,
}

/// A target to check.
struct Subject {
    place: Arc<Place>,
    /// The visible mount.
    mount: Option<Mount>,
    /// What this process was requested to publish at the target.
    intent: Option<PublishIntent>,
}

impl MountHealth {
    /// Checks mounts with `probe`. `intents` says what should be mounted where.
    pub fn new(probe: MountProbe, intents: Arc<PublishIntents>) -> Self {
        Self { probe, intents }
    }

    /// Returns the problems of a volume at `target`, or at all of its targets on this node; none if it is healthy.
    /// Takes 2 s at most. `source` is the source that the volume's identifier names, if any.
    ///
    /// | reason | severity | what it means |
    /// |---|---|---|
    /// | `ServerUnreachable` | inaccessible | the server does not answer an RPC call |
    /// | `ServerSilent` | inaccessible | the server answers, but not for this volume |
    /// | `StaleFileHandle` | inaccessible | the volume's directory was removed or replaced, or is no longer exported |
    /// | `VolumeUnreadable` | inaccessible | the server returns an error for the volume |
    /// | `MountMissing` | inaccessible | nothing is mounted where the volume was, or should be, published |
    /// | `WrongVolumeMounted` | inaccessible | something else is mounted at the target |
    /// | `ServerMoved` | degraded, or inaccessible | the server's name has another address now |
    /// | `ReadOnlyOnServer` | degraded | mounted read-write, but the server allows no writes |
    /// | `GroupRefused` | degraded | the server refused to set the pod's `fsGroup`, or `mountPermissions` |
    /// | `NFSVersionFallback` | degraded | mounted with a lower version of NFS than the best that the options allow |
    ///
    /// # Errors
    /// [`Error::NotFound`] if the volume is not published on this node and no call tried to publish it.
    pub async fn of_volume(
        &self,
        volume_id: &str,
        target: Option<&Target>,
        source: Option<&Source>,
    ) -> Result<Vec<Condition>> {
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let mut conditions: Vec<Condition> = Vec::new();
        let subjects = self.subjects(volume_id, target, source).await?;
        let mut looks: JoinSet<_> =
            subjects.into_iter().map(|subject| look(self.probe.clone(), subject, source.cloned(), deadline)).collect();
        while let Some(look) = looks.join_next().await {
            let found =
                look.map_err(|error| Error::Internal(format!("the check of volume {volume_id} broke off: {error}")))?;
            // CSI allows each reason once for a volume.
            conditions.extend(found.filter(|found| conditions.iter().all(|known| known.reason != found.reason)));
        }
        Ok(conditions)
    }

    /// Returns one condition that names the servers of volumes on this node that do not answer; `None` if all answer.
    /// Takes 2 s at most.
    ///
    /// A server counts if a volume of it is mounted at one of kubelet's paths, or at a target that this process was
    /// requested to publish at.
    pub async fn of_servers(&self) -> Result<Option<Condition>> {
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let table = self.probe.local().table().await?;
        let is_target = |path: &Path| is_kubelet_target(path) || self.intents.at(path).is_some();
        let servers: BTreeSet<(Server, u16)> = table
            .mounts()
            .filter(|mount| is_target(&mount.target))
            .filter_map(|mount| Some((mount.server()?, mount.tcp_port())))
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
        Ok((!silent.is_empty()).then(|| conditions::servers_unreachable(&silent)))
    }

    /// The targets at which to check a volume.
    async fn subjects(
        &self,
        volume_id: &str,
        target: Option<&Target>,
        source: Option<&Source>,
    ) -> Result<Vec<Subject>> {
        let mut paths: Vec<PathBuf> = match target {
            Some(_) => Vec::new(),
            None => self.intents.targets_of(volume_id),
        };
        let (target, source, intents) = (target.cloned(), source.cloned(), Arc::clone(&self.intents));
        let volume = format!("volume `{}`", excerpt(volume_id));
        let table = self.probe.local().table().await?;
        self.probe
            .local()
            .run(move || {
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
                        let intent = intents.at(place.path());
                        let awaited = is_kubelet_target(place.path()) && place.is_directory().unwrap_or(true);
                        let known = mount.is_some() || intent.is_some() || awaited;
                        Ok(known.then_some(Subject { place, mount, intent }))
                    })
                    .filter_map(Result::transpose)
                    .collect::<Result<_>>()?;
                match subjects.is_empty() {
                    true => Err(Error::not_found(
                        volume,
                        "it is not published on this node, and no call tried to publish it",
                    )),
                    false => Ok(subjects),
                }
            })
            .await
    }
}

/// Returns the most important problem at a target.
async fn look(probe: MountProbe, subject: Subject, source: Option<Source>, deadline: Instant) -> Option<Condition> {
    let Some(mount) = &subject.mount else {
        return Some(look_for_missing(&probe, &subject, source.as_ref(), deadline).await);
    };
    let found = look_at_mount(&probe, &subject, mount, deadline);
    // The requested source, otherwise that in the volume's identifier. Without either, the mount's own source is used.
    let source = subject.intent.as_ref().map(|intent| &intent.source).or(source.as_ref());
    let asked = subject.intent.as_ref().and_then(|intent| intent.mounted.as_ref()).map(|mounted| mounted.asked);
    let moved = moved::moved(&probe, mount, source.map(|source| &source.server), asked, deadline);
    match tokio::join!(found, moved) {
        // Other problems come from the old server, so the move is the cause to report.
        (found, Some(to)) => {
            let severity = found.map_or(Severity::Degraded, |found| found.severity);
            Some(conditions::server_moved(&subject.place, mount, &to, severity))
        }
        (found, None) => found,
    }
}

async fn look_at_mount(probe: &MountProbe, subject: &Subject, mount: &Mount, deadline: Instant) -> Option<Condition> {
    let place = &subject.place;
    let found = async {
        if !mount.is_nfs() {
            return Ok(Some(conditions::wrong_volume(place, mount)));
        }
        let root = probe.root(place, mount, deadline).await?;
        let mounted = subject.intent.as_ref().and_then(|intent| intent.mounted.as_ref());
        if mounted.is_some_and(|mounted| mounted.root != root.identity) {
            return Ok(Some(conditions::wrong_volume(place, mount)));
        }
        if !mount.is_read_only() && probe.is_read_only(place, mount, root, deadline).await? {
            return Ok(Some(conditions::read_only(place, mount)));
        }
        if let Some(status) = mounted.and_then(|mounted| mounted.refused) {
            return Ok(Some(conditions::group_refused(place, mount, status)));
        }
        let fell_back = is_fallback(mount, subject.intent.as_ref().map(|intent| &intent.options)) == Some(true);
        Ok(fell_back.then(|| conditions::lower_version(place, mount)))
    };
    found.await.unwrap_or_else(|failure| Some(conditions::explain(&failure, place, &mount.source())))
}

/// Returns why nothing is mounted. The likely cause is a server that does not answer.
async fn look_for_missing(
    probe: &MountProbe,
    subject: &Subject,
    source: Option<&Source>,
    deadline: Instant,
) -> Condition {
    let intent = subject.intent.as_ref();
    if let Some(source) = intent.map(|intent| &intent.source).or(source) {
        let port = intent.map_or(NFS_PORT, |intent| intent.options.port());
        if let Err(failure) = probe.server(&source.server, port, deadline).await {
            return conditions::explain(&failure, &subject.place, &source.to_string());
        }
    }
    conditions::explain(&Failure::Gone, &subject.place, "the volume")
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::reachability::Reachability;
    use crate::mount::table::Table;
    use crate::nfs::options::MountOptions;
    use crate::nfs::source::Share;
    use crate::nfs::status::Status;
    use crate::node::publish_intents::MountedVolume;
    use crate::node::root::{Root, RootAttributes};
    use crate::testing::fake_server::{self, Behaviour};

    const LOCALHOST: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn health() -> MountHealth {
        let reachability = Reachability::new();
        MountHealth::new(MountProbe::new(Arc::clone(&reachability), Gates::new(reachability)), Arc::default())
    }

    fn intent(port: u16) -> PublishIntent {
        PublishIntent {
            volume_id: "volume".to_owned(),
            source: Source::share(
                Server::parse("server", "127.0.0.1").unwrap(),
                Share::parse("share", "/volume").unwrap(),
            ),
            target: Target::parse("target_path", "/target").unwrap(),
            options: MountOptions::parse("mount_flags", [format!("port={port}")]).unwrap(),
            read_only_by_mode: false,
            single_target: false,
            root_attributes: RootAttributes::default(),
            mounted: None,
        }
    }

    /// A directory, and a mount table's mount of this type at the directory, from this address and port.
    fn shown(directory: &tempfile::TempDir, address: &str, fs_type: &str, port: u16) -> (Arc<Place>, Mount) {
        let place = Arc::new(Target::try_from(directory.path()).unwrap().find().unwrap().unwrap());
        let device = directory.path().metadata().unwrap().st_dev();
        let (major, minor, path) = (rustix::fs::major(device), rustix::fs::minor(device), place.path().display());
        let line = format!("26 25 {major}:{minor} / {path} ro - {fs_type} {address}:/v ro,port={port},addr={address}");
        let mount = Table::parse(line.as_bytes()).top(place.path()).unwrap().clone();
        (place, mount)
    }

    /// Checks a directory that the mount table shows as a mount of this type, or does not show.
    async fn look_at(fs_type: Option<&str>, port: u16, intent: Option<PublishIntent>) -> Option<Condition> {
        look_at_from("127.0.0.1", fs_type, port, intent).await
    }

    /// Like `look_at`, for a mount from this address.
    async fn look_at_from(
        address: &str,
        fs_type: Option<&str>,
        port: u16,
        intent: Option<PublishIntent>,
    ) -> Option<Condition> {
        let dir = tempfile::tempdir().unwrap();
        let (place, mount) = shown(&dir, address, fs_type.unwrap_or("nfs4"), port);
        let mount = fs_type.map(|_| mount);
        look(health().probe, Subject { place, mount, intent }, None, Instant::now() + PROBE_TIMEOUT).await
    }

    fn reason(condition: Option<Condition>) -> Option<&'static str> {
        condition.map(|condition| condition.reason)
    }

    #[rstest]
    #[case::nothing_is_wrong(Behaviour::alive(), Some("nfs4"), None)]
    #[case::the_server_is_gone(Behaviour::Closing, Some("nfs4"), Some("ServerUnreachable"))]
    #[case::the_mount_is_gone(Behaviour::alive(), None, Some("MountMissing"))]
    #[case::it_was_never_made_for_the_server_is_gone(Behaviour::Closing, None, Some("ServerUnreachable"))]
    #[case::it_is_not_nfs(Behaviour::alive(), Some("tmpfs"), Some("WrongVolumeMounted"))]
    #[tokio::test]
    async fn each_condition_of_a_volume_has_its_reason(
        #[case] server: Behaviour,
        #[case] fs_type: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let server = fake_server::Server::start(server).await;
        let port = server.address.port();
        assert_eq!(reason(look_at(fs_type, port, Some(intent(port))).await), expected);
    }

    #[rstest]
    #[case::the_name_s_address("127.0.0.1", "localhost", Behaviour::alive(), None)]
    #[case::another("127.0.0.9", "localhost", Behaviour::alive(), Some((Severity::Degraded, "ServerMoved")))]
    #[case::a_dead_one("127.0.0.9", "localhost", Behaviour::Closing, Some((Severity::Inaccessible, "ServerMoved")))]
    #[case::whatever_where_the_name_is_unknown("127.0.0.9", "nfs.invalid", Behaviour::alive(), None)]
    #[tokio::test]
    async fn a_mount_from_an_address_that_its_server_s_name_no_longer_has_is_reported(
        #[case] address: &str,
        #[case] name: &str,
        #[case] server: Behaviour,
        #[case] expected: Option<(Severity, &str)>,
    ) {
        let server = fake_server::Server::on(&format!("{address}:0"), server).await;
        let port = server.address.port();
        let mut intent = intent(port);
        intent.source.server = Server::parse("server", name).unwrap();
        let condition = look_at_from(address, Some("nfs4"), port, Some(intent)).await;
        assert_eq!(condition.map(|condition| (condition.severity, condition.reason)), expected);
    }

    #[rstest]
    #[case::the_name_still_has_the_address_that_was_asked("127.0.0.1", None)]
    #[case::the_name_has_neither("127.0.0.8", Some("ServerMoved"))]
    #[tokio::test]
    async fn a_mount_for_which_the_kernel_uses_another_address_of_its_server_has_not_moved(
        #[case] asked: &str,
        #[case] expected: Option<&str>,
    ) {
        let (used, directory) = ("127.0.0.9", tempfile::tempdir().unwrap());
        let server = fake_server::Server::on(&format!("{used}:0"), Behaviour::alive()).await;
        let port = server.address.port();
        let (place, mount) = shown(&directory, used, "nfs4", port);
        let root = Root::ask_at(directory.path()).unwrap().identity;
        let mounted = Some(MountedVolume { root, asked: asked.parse().unwrap(), refused: None, known: None });
        let mut intent = PublishIntent { mounted, ..intent(port) };
        intent.source.server = Server::parse("server", "localhost").unwrap();
        let subject = Subject { place, mount: Some(mount), intent: Some(intent) };
        assert_eq!(reason(look(health().probe, subject, None, Instant::now() + PROBE_TIMEOUT).await), expected);
    }

    #[tokio::test]
    async fn a_directory_other_than_the_mounted_one_is_reported_whatever_its_name() {
        let server = fake_server::Server::start(Behaviour::alive()).await;
        let port = server.address.port();
        let other = std::fs::File::open("/").unwrap();
        let identity = Root::known(std::os::fd::AsFd::as_fd(&other)).unwrap().identity;
        let mounted = MountedVolume { root: identity, asked: LOCALHOST, refused: None, known: None };
        let intent = PublishIntent { mounted: Some(mounted), ..intent(port) };
        assert_eq!(reason(look_at(Some("nfs4"), port, Some(intent)).await), Some("WrongVolumeMounted"));
    }

    #[tokio::test]
    async fn a_group_that_the_server_refused_is_reported() {
        let server = fake_server::Server::start(Behaviour::alive()).await;
        let (port, directory) = (server.address.port(), tempfile::tempdir().unwrap());
        let (place, mount) = shown(&directory, "127.0.0.1", "nfs4", port);
        let root = Root::ask_at(directory.path()).unwrap().identity;
        let mounted = MountedVolume { root, asked: LOCALHOST, refused: Some(Status::Perm), known: None };
        let intent = PublishIntent { mounted: Some(mounted), ..intent(port) };
        let subject = Subject { place, mount: Some(mount), intent: Some(intent) };
        let condition = look(health().probe, subject, None, Instant::now() + PROBE_TIMEOUT).await;
        assert_eq!(reason(condition), Some("GroupRefused"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_reported_within_two_seconds() {
        let server = fake_server::Server::start(Behaviour::Silent).await;
        let started = Instant::now();
        let condition = look_at(Some("nfs4"), server.address.port(), None).await;
        assert_eq!(reason(condition), Some("ServerUnreachable"));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[rstest]
    #[case::by_identifier(None)]
    #[case::by_path(Some("/nowhere/target"))]
    #[case::by_a_path_that_is_no_volume(Some("/proc/self"))]
    #[tokio::test]
    async fn a_volume_that_is_not_on_this_node_is_not_found(#[case] path: Option<&str>) {
        let target = path.map(|path| Target::parse("path", path).unwrap());
        let found = health().of_volume("volume", target.as_ref(), None).await;
        assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
    }

    #[tokio::test]
    async fn a_volume_that_could_not_be_published_is_checked() {
        let server = fake_server::Server::start(Behaviour::Closing).await;
        let (health, dir) = (health(), tempfile::tempdir().unwrap());
        let target = dir.path().canonicalize().unwrap().join("target");
        health.intents.attempt(&target, &intent(server.address.port()));
        let by_path = Target::try_from(target.as_path()).unwrap();
        for path in [None, Some(&by_path)] {
            let conditions = health.of_volume("volume", path, None).await.unwrap();
            assert_eq!(conditions.iter().map(|c| c.reason).collect::<Vec<_>>(), ["ServerUnreachable"]);
        }
    }
}
