//! The statistics of a published volume (CSI NodeGetVolumeStats). They are read from the server. If the server does not
//! answer, the last known statistics are returned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::fs::{FsStat, Status};
use crate::mount::local::Local;
use crate::mount::table::Mount;
use crate::nfs::source::Source;
use crate::node::mount_probe::{Failure, MountProbe, PROBE_TIMEOUT};
use crate::node::publish_intents::PublishIntents;
use crate::node::statistics_scope::{Exports, StatisticsScope};
use crate::node::target::{Place, Target};

/// The statistics of volumes.
#[derive(Debug)]
pub struct Stats {
    probe: MountProbe,
    /// What this process mounted where.
    intents: Arc<PublishIntents>,
    /// The maximum age of cached statistics; with zero, each call asks the server.
    max_age: Duration,
    /// Finds what the statistics cover; `None` if no one needs this.
    exports: Option<Exports>,
    last: Mutex<HashMap<Target, Figures>>,
}

/// A volume whose statistics are requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// CSI `volume_id`.
    pub id: String,
    /// The volume's export, if its identifier names it.
    pub share: Option<Source>,
}

#[derive(Debug, Clone)]
struct Figures {
    /// The volume of the request.
    volume: String,
    scope: StatisticsScope,
    /// The ID of the mount and its superblock: another mount at the same target has other statistics.
    of: (u64, (u32, u32)),
    at: Instant,
    stat: FsStat,
}

impl Stats {
    /// Statistics that `probe` reads and that are cached for `max_age`. `intents` says what this process mounted, and
    /// `exports` finds what the statistics cover, if someone needs this.
    pub fn new(probe: MountProbe, intents: Arc<PublishIntents>, exports: Option<Exports>, max_age: Duration) -> Self {
        Self { probe, intents, max_age, exports, last: Mutex::default() }
    }

    /// Returns the statistics of the volume that is mounted at `target`, within 2 s. If the server does not answer,
    /// these are the last statistics of this mount, however old.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no volume is mounted at `target`; [`Error::Unreachable`] and [`Error::Export`] if the
    /// server does not answer and there are no statistics yet; [`Error::Export`] if the server returns an error.
    pub async fn of(&self, volume: &Volume, target: &Target) -> Result<FsStat> {
        let started = Instant::now();
        let (place, mount) = mounted(self.probe.local(), &self.intents, target).await?;
        self.figures(volume, target, &place, &mount, started + PROBE_TIMEOUT).await
    }

    async fn figures(
        &self,
        volume: &Volume,
        target: &Target,
        place: &Arc<Place>,
        mount: &Mount,
        deadline: Instant,
    ) -> Result<FsStat> {
        let known = self.last().get(target).cloned().filter(|figures| figures.of == identity(mount));
        if let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < self.max_age) {
            return Ok(known.stat);
        }
        match (self.probe.statfs(place, mount, deadline).await, known) {
            (Ok(stat), _) => {
                let scope = match &self.exports {
                    Some(exports) => exports.tell(&stat, volume.share.as_ref(), mount, deadline).await,
                    None => StatisticsScope::Unknown,
                };
                let figures =
                    Figures { volume: volume.id.clone(), scope, of: identity(mount), at: Instant::now(), stat };
                self.last().insert(target.clone(), figures);
                Ok(stat)
            }
            (Err(Failure::Gone), _) => Err(not_mounted(target)),
            (Err(Failure::Unreachable(_) | Failure::Silent), Some(known)) => Ok(known.stat),
            (Err(failure), _) => Err(explain(failure, target, mount)),
        }
    }

    /// The last statistics of every volume, and what they cover.
    pub fn known(&self) -> Vec<(String, StatisticsScope, FsStat)> {
        let mut known: Vec<_> = self.last().values().map(|f| (f.volume.clone(), f.scope, f.stat)).collect();
        // A volume with several targets has the same statistics at each.
        known.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        known.dedup_by(|(one, ..), (other, ..)| one == other);
        known
    }

    /// Forgets a target that is no longer published.
    pub fn forget(&self, target: &Target) {
        self.last().remove(target);
    }

    fn last(&self) -> MutexGuard<'_, HashMap<Target, Figures>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(mount: &Mount) -> (u64, (u32, u32)) {
    (mount.id, mount.device)
}

/// Finds the volume at a target, in the mount table if this process did not mount it. This does not access the path,
/// whose server may be dead.
async fn mounted(local: &Local, intents: &Arc<PublishIntents>, target: &Target) -> Result<(Arc<Place>, Arc<Mount>)> {
    let (find, intents) = (target.clone(), Arc::clone(intents));
    let find = move || {
        let place = find.find()?.ok_or_else(|| not_mounted(&find))?;
        let known = intents.known_mount(&place);
        Ok((Arc::new(place), known))
    };
    let (place, known) = local.run(find).await?;
    if let Some(mount) = known {
        return Ok((place, mount));
    }
    let table = local.table().await?;
    let mount = table.top(place.path()).filter(|mount| mount.is_nfs()).ok_or_else(|| not_mounted(target))?;
    Ok((place, Arc::new(mount.clone())))
}

fn not_mounted(target: &Target) -> Error {
    Error::not_found(format!("a volume at {target}"), "no NFS file system is mounted there")
}

fn explain(failure: Failure, target: &Target, mount: &Mount) -> Error {
    let status = match failure {
        Failure::Unreachable(reason) => {
            let server = mount.server().map_or_else(|| mount.source(), |server| server.to_string());
            return Error::Unreachable { server, port: mount.tcp_port(), reason };
        }
        Failure::Gone => return not_mounted(target),
        Failure::Silent => Status::TimedOut,
        Failure::Failed(status) => status,
    };
    Error::Export { export: mount.source(), action: format!("reading the statistics of {target}"), status }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::reachability::Reachability;
    use crate::testing::fake_server::{Behaviour, Server};

    const OLD: FsStat = FsStat { total_bytes: 10, free_bytes: 5, available_bytes: 4, total_inodes: 3, free_inodes: 2 };

    fn stats(max_age: Duration) -> Stats {
        let reachability = Reachability::new();
        let gates = Gates::new(Arc::clone(&reachability));
        Stats::new(MountProbe::new(reachability, gates), Arc::default(), None, max_age)
    }

    fn volume() -> Volume {
        Volume { id: "v".to_owned(), share: None }
    }

    fn mount(id: u64, port: u16) -> Mount {
        let line = format!("{id} 25 0:26 / /t rw - nfs4 nfs:/volume rw,vers=4.2,port={port},addr=127.0.0.1");
        crate::mount::table::Table::parse(line.as_bytes()).top(std::path::Path::new("/t")).unwrap().clone()
    }

    /// Reads the statistics of a mount on a local directory. Those of mount 26 are known.
    async fn ask(max_age: Duration, mount: Mount) -> Result<FsStat> {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::try_from(dir.path()).unwrap();
        let place = Arc::new(target.find().unwrap().unwrap());
        let stats = stats(max_age);
        let of = (26, (0, 26));
        let figures =
            Figures { volume: volume().id, scope: StatisticsScope::Unknown, of, at: Instant::now(), stat: OLD };
        stats.last().insert(target.clone(), figures);
        stats.figures(&volume(), &target, &place, &mount, Instant::now() + PROBE_TIMEOUT).await
    }

    #[tokio::test]
    async fn the_last_figures_are_returned_if_the_server_is_gone() {
        let server = Server::start(Behaviour::Closing).await;
        assert_eq!(ask(Duration::ZERO, mount(26, server.address.port())).await, Ok(OLD));
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_an_error_if_no_figures_are_known() {
        let server = Server::start(Behaviour::Closing).await;
        let figures = ask(Duration::ZERO, mount(27, server.address.port())).await;
        assert!(matches!(figures, Err(Error::Unreachable { .. })), "{figures:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_silent_server_ends_within_two_seconds() {
        let server = Server::start(Behaviour::Silent).await;
        let started = Instant::now();
        assert_eq!(ask(Duration::ZERO, mount(26, server.address.port())).await, Ok(OLD));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn figures_that_are_not_too_old_are_not_read_again() {
        let server = Server::start(Behaviour::alive()).await;
        assert_eq!(ask(Duration::from_secs(3600), mount(26, server.address.port())).await, Ok(OLD));
        assert_eq!(server.calls(), 0);
    }

    #[tokio::test]
    async fn figures_of_the_file_system_under_a_lost_mount_are_not_returned() {
        let server = Server::start(Behaviour::alive()).await;
        let figures = ask(Duration::ZERO, mount(26, server.address.port())).await;
        assert!(matches!(figures, Err(Error::NotFound { .. })), "{figures:?}");
    }

    #[tokio::test]
    async fn a_path_without_a_volume_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("missing"), dir.path().join("missing/target")] {
            let stats = stats(Duration::ZERO).of(&volume(), &Target::try_from(path.as_path()).unwrap()).await;
            assert!(matches!(stats, Err(Error::NotFound { .. })), "{stats:?}");
        }
    }
}
