//! Whether the statistics of a volume are its own or those of its whole export. A server gives a volume's own where the
//! volume has a limit, and otherwise those of the export.
//!
//! statfs(2) does not say which of them it returns. So the size of the export is asked for too, through a detached
//! mount of the export: the kernel has the connection already. The answer is cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::export::fs::FsStat;
use crate::mount::mounter::{Mounter, Role};
use crate::mount::table::Mount;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::node::mount_probe::figures;

/// How long the size of an export is cached, or the fact that it cannot be asked for.
const MAX_AGE: Duration = Duration::from_secs(300);

/// The options that decide whether a server lets a client mount: a mount that it allowed has them.
const OPTIONS: [&str; 5] = ["vers", "proto", "port", "sec", "xprtsec"];

/// What the statistics of a volume cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticsScope {
    /// The volume alone.
    Volume,
    /// The whole export: the volume has no limit, or one that is larger than the export.
    Export,
    /// Unknown: the volume's identifier is not one of this driver, or the export cannot be asked.
    Unknown,
}

impl StatisticsScope {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Export => "export",
            Self::Unknown => "unknown",
        }
    }
}

/// The sizes of the exports that volumes on this node are on.
#[derive(Debug)]
pub struct Exports {
    mounter: Arc<Mounter>,
    sizes: Mutex<HashMap<Source, (Instant, Option<u64>)>>,
}

impl Exports {
    /// Asks for sizes through mounts that `mounter` makes.
    pub fn new(mounter: Arc<Mounter>) -> Self {
        Self { mounter, sizes: Mutex::default() }
    }

    /// What `stat` covers, of a volume on `share` that is mounted as `mount`. Takes until `deadline` at most.
    pub async fn tell(
        &self,
        stat: &FsStat,
        share: Option<&Source>,
        mount: &Mount,
        deadline: Instant,
    ) -> StatisticsScope {
        let (Some(share), Some(server)) = (share, mount.server()) else { return StatisticsScope::Unknown };
        // By the address that the mount uses: the name may resolve to another server now.
        let share = &Source { server, ..share.clone() };
        let known = self.sizes().get(share).copied().filter(|(at, _)| at.elapsed() < MAX_AGE);
        let size = match known {
            Some((_, size)) => size,
            None => {
                let size = timeout_at(deadline, self.ask(share, mount)).await.ok().flatten();
                let mut sizes = self.sizes();
                sizes.retain(|_, (at, _)| at.elapsed() < MAX_AGE);
                sizes.insert(share.clone(), (Instant::now(), size));
                size
            }
        };
        match size {
            Some(size) if stat.total_bytes < size => StatisticsScope::Volume,
            Some(_) => StatisticsScope::Export,
            None => StatisticsScope::Unknown,
        }
    }

    async fn ask(&self, share: &Source, mount: &Mount) -> Option<u64> {
        let options = OPTIONS.iter().filter_map(|key| Some(format!("{key}={}", mount.option(key)?)));
        let options = MountOptions::parse("mount options", options).ok()?;
        let ask = |_: &_, root| rustix::fs::fstatfs(&root).map(|stat| figures(&stat).total_bytes);
        self.mounter.mount_then(share, &options, Role::Node, ask).await.ok()?.root.ok()
    }

    fn sizes(&self) -> MutexGuard<'_, HashMap<Source, (Instant, Option<u64>)>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
