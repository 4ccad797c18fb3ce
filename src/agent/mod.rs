//! The quota agent, which runs on the NFS server as `csi-nfs agent`. It enforces the sizes in the volumes' records as
//! limits of the file system.
//!
//! The agent has no connection to the driver: it reads records and writes answers on the export's own file system. It
//! sleeps until a record changes, and also checks all volumes every few minutes.

mod answers;
mod calls;
pub mod projects;
pub mod reconciler;
pub(crate) mod snapshots;
pub mod watch;

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, LockMode, Name};
use crate::export::kernel::KernelFs;
use crate::nfs::source::{Server, Share, Source, SubDir};
use crate::volume::quota;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use projects::KernelProjects;
use reconciler::{Ids, Reconciler};
use watch::{Change, Watch};

/// How often all volumes are checked, even if inotify reports nothing.
pub(crate) const PERIOD: Duration = Duration::from_secs(300);
/// The shortest and the longest pause before a retry.
pub(crate) const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The first pause before the agent looks again at a directory that the driver is creating.
const STEP: Duration = Duration::from_millis(5);
/// How often a standby agent tries to take the lock.
const STAND_BY: Duration = Duration::from_secs(2);

/// The arguments of the command line.
#[derive(Debug)]
pub struct Settings {
    /// `--path`: exported directories on this machine.
    pub paths: Vec<PathBuf>,
    /// `--project-ids`: the project IDs that volumes may get.
    pub project_ids: RangeInclusive<u32>,
}

/// Enforces limits on all paths until `shutdown` completes.
///
/// # Errors
/// [`Error::Precondition`] if project quotas are not on for a file system; [`Error::Internal`] if a system call fails.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<()> {
    let mut exports = Vec::new();
    for path in &settings.paths {
        let shown = path.display().to_string();
        let share = Source::share(Server::this_machine(), Share::parse("--path", &shown)?);
        let fs = KernelFs::on_this_machine(path.clone())
            .await
            .map_err(|status| Error::invalid("--path", format!("`{shown}`: {status}")))?;
        let projects = KernelProjects::new(fs.clone(), &shown).await?;
        let kind = projects::Projects::kind(&projects);
        tracing::info!(path = shown, file_system = kind.name(), "project quotas are on");
        if !kind.holds_root() {
            tracing::warn!(
                path = shown,
                "ext4 does not enforce limits on clients that write as root: export the path with root_squash"
            );
        }
        exports.push((share, fs, projects));
    }
    let ids = Ids::default();
    let work = exports
        .into_iter()
        .map(|(share, fs, projects)| keep((share, fs, projects), settings.project_ids.clone(), ids.clone()));
    tokio::select! {
        ended = try_join_all(work) => ended.map(drop),
        () = shutdown => Ok(()),
    }
}

/// Enforces limits on one path until an error occurs.
async fn keep(
    (share, fs, projects): (Source, KernelFs, KernelProjects),
    range: RangeInclusive<u32>,
    ids: Ids,
) -> Result<()> {
    let path = share.share.to_string();
    let mut reconciler = open(&share, &fs, projects, range, ids).await?;
    let lock = reconciler.lock_file().await?;
    let mut waits = false;
    let failed = |status| reconciler.export().failed("locking `.csi-nfs/quota/lock`", status);
    while !fs.try_lock(&lock, 0, LockMode::Exclusive).await.map_err(failed)? {
        if !waits {
            tracing::info!(path, "another agent serves this path; this agent is on standby");
            waits = true;
        }
        tokio::time::sleep(STAND_BY).await;
    }
    let layout = reconciler.export().make_layout().await?;
    // Watch before the first check, so that the agent misses no change.
    let watch = Watch::new(&fs, &layout.volumes).await?;
    let snapshots = Watch::new(&fs, &layout.snapshots).await?;
    tracing::info!(path, "enforcing limits");
    let look = quota::look().map_err(|status| Error::Internal(status.to_string()))?;
    let mut pause = AGAIN.0;
    loop {
        let all = reconciler.look_at_all(PERIOD).await.unwrap_or_else(|error| {
            tracing::warn!(path, %error, "checking all volumes failed; the agent retries");
            false
        });
        let until = tokio::time::Instant::now() + if all { PERIOD } else { pause };
        pause = if all { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
        let mut again = false;
        while !again {
            tokio::select! {
                () = tokio::time::sleep_until(until) => again = true,
                change = watch.changes() => match change? {
                    Change::Unknown => again = true,
                    Change::Names(names) => for name in &names {
                        match Record::of_file(name) {
                            Some(volume) => again |= !reconciler.look_at(&volume).await,
                            None => again |= *name == look,
                        }
                    },
                },
                _ = snapshots.changes() => again |= !reconciler.count_snapshots().await,
            }
        }
    }
}

/// Waits until the driver has written to the export for the first time. If the agent created the private directory,
/// root would own it, and a driver whose root is squashed could not use it.
async fn open(
    share: &Source,
    fs: &KernelFs,
    projects: KernelProjects,
    range: RangeInclusive<u32>,
    ids: Ids,
) -> Result<Reconciler<KernelFs, KernelProjects>> {
    let watch = Watch::new(fs, &fs.root()).await?;
    let private = Name::new(SubDir::PRIVATE).map_err(|status| Error::Internal(status.to_string()))?;
    let export = || Export::new(share.clone(), fs.clone(), Arc::default());
    let mut told = false;
    let mut pause = STEP;
    loop {
        if export().layout().await?.is_some()
            && let Some(reconciler) = Reconciler::open(export(), projects.clone(), range.clone(), ids.clone()).await?
        {
            return Ok(reconciler);
        }
        if export().find(&fs.root(), &private).await?.is_some() {
            // The driver creates the layout in several steps, and inotify on the root does not report them.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(STAND_BY);
            continue;
        }
        if !told {
            tracing::info!(path = %share.share, "waiting for a driver to write to this export for the first time");
            told = true;
        }
        watch.changes().await?;
    }
}
