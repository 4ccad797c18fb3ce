//! Finds whether the statistics of a volume are its own or those of its whole export. A server returns a volume's own
//! statistics if the volume has a limit, and otherwise those of the export.
//!
//! statfs(2) does not say which of them it returns. So the driver also reads the size of the export, through a detached
//! mount of the export, which uses the kernel's existing connection. It caches the size.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::export::fs::FsStat;
use crate::mount::mounter::{Mounter, Role};
use crate::mount::new_mount::NewMount;
use crate::mount::table::Mount;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::node::mount_probe::figures;

/// How long the size of an export, or the failure to read it, is cached.
const MAX_AGE: Duration = Duration::from_secs(300);

/// The options that decide whether a server lets a client mount. They are copied from the volume's mount.
const OPTIONS: [&str; 5] = ["vers", "proto", "port", "sec", "xprtsec"];

/// What the statistics of a volume cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticsScope {
    /// The volume alone.
    Volume,
    /// The whole export: the volume has no limit, or one that is larger than the export.
    Export,
    /// Unknown: the volume's identifier does not name an export, or the driver cannot read the size of the export.
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

/// The sizes of the exports of volumes on this node.
#[derive(Debug)]
pub struct Exports {
    mounter: Arc<Mounter>,
    sizes: Mutex<HashMap<Source, (Instant, Option<u64>)>>,
}

impl Exports {
    /// Reads sizes through mounts by `mounter`.
    pub fn new(mounter: Arc<Mounter>) -> Self {
        Self { mounter, sizes: Mutex::default() }
    }

    /// Returns what `stat` covers, for a volume on `share` that is mounted as `mount`. Takes until `deadline` at most.
    pub async fn tell(
        &self,
        stat: &FsStat,
        share: Option<&Source>,
        mount: &Mount,
        deadline: Instant,
    ) -> StatisticsScope {
        let (Some(share), Some(server)) = (share, mount.server()) else { return StatisticsScope::Unknown };
        // Use the mount's address, because the name may have another address now.
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
        let ask = |_: &_, root: NewMount| rustix::fs::fstatfs(&root).map(|stat| figures(&stat).total_bytes);
        self.mounter.mount_then(share, &options, Role::Node, ask).await.ok()?.root.ok()
    }

    fn sizes(&self) -> MutexGuard<'_, HashMap<Source, (Instant, Option<u64>)>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
