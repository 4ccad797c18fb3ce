//! The figures of a published volume (CSI NodeGetVolumeStats): from its server while that answers, else the last ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::local::on_node;
use super::probe::{Failure, LIMIT, Probe};
use super::table::{Mount, Table};
use super::target::{Place, Target};
use crate::error::{Error, Result};
use crate::export::fs::{FsStat, Status};

/// The figures of volumes.
#[derive(Debug)]
pub struct Stats {
    probe: Probe,
    /// How old an answer may be; zero asks the server each time.
    max_age: Duration,
    last: Mutex<HashMap<Target, Figures>>,
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    /// The mount that they are of, and its superblock: another one at the same target has others.
    of: (u64, (u32, u32)),
    at: Instant,
    stat: FsStat,
}

impl Stats {
    /// Figures that `probe` gets, each kept for `max_age`.
    pub fn new(probe: Probe, max_age: Duration) -> Self {
        Self { probe, max_age, last: Mutex::default() }
    }

    /// The figures of the volume that is mounted at `target`, within 2 s. From a server that does not answer: the last
    /// figures of this mount, however old.
    ///
    /// # Errors
    /// [`Error::NotFound`] where no volume is mounted there; [`Error::Unreachable`] and [`Error::Export`] where the server
    /// does not answer, or says no, and there are no figures yet.
    pub async fn of(&self, target: &Target) -> Result<FsStat> {
        let started = Instant::now();
        let (place, mount) = mounted(target).await?;
        let known = self.last().get(target).copied().filter(|figures| figures.of == identity(&mount));
        if let Some(known) = known.filter(|known| known.at.elapsed() < self.max_age) {
            return Ok(known.stat);
        }
        match (self.probe.statfs(&place, &mount, started + LIMIT).await, known) {
            (Ok(stat), _) => {
                self.last().insert(target.clone(), Figures { of: identity(&mount), at: Instant::now(), stat });
                Ok(stat)
            }
            (Err(Failure::Gone), _) => Err(not_mounted(target)),
            (Err(Failure::Unreachable(_) | Failure::Silent), Some(known)) => Ok(known.stat),
            (Err(failure), _) => Err(explain(failure, target, &mount)),
        }
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

/// The volume at a target, as the mount table shows it: no path of a dead server is looked at for it.
async fn mounted(target: &Target) -> Result<(Arc<Place>, Mount)> {
    let target = target.clone();
    on_node(move || {
        let place = target.find()?.ok_or_else(|| not_mounted(&target))?;
        let table = Table::read()?;
        let mount = table.top(place.path()).filter(|mount| mount.is_nfs()).ok_or_else(|| not_mounted(&target))?;
        Ok((Arc::new(place), mount.clone()))
    })
    .await
}

fn not_mounted(target: &Target) -> Error {
    Error::not_found(format!("a volume at {target}"), "no NFS file system is mounted there")
}

fn explain(failure: Failure, target: &Target, mount: &Mount) -> Error {
    let status = match failure {
        Failure::Unreachable(reason) => {
            let server = mount.server().map_or_else(|| mount.source(), |server| server.to_string());
            return Error::Unreachable { server, port: mount.port(), reason };
        }
        Failure::Gone => return not_mounted(target),
        Failure::Silent => Status::TimedOut,
        Failure::Failed(status) => status,
    };
    Error::Export { export: mount.source(), action: format!("asking for the figures of {target}"), status }
}
