//! The quota agent, which runs on the NFS server as `csi-nfs agent`. It enforces the sizes in the volumes' records as
//! limits of the file system.
//!
//! The agent has no connection to the driver: it reads records and writes answers on the export's own file system. It
//! sleeps until a record changes, and also checks all volumes every few minutes.

mod answers;
mod calls;
mod directories;
mod look;
mod looking;
pub mod progress;
pub mod projects;
pub(crate) mod queue;
pub mod reconciler;
pub(crate) mod snapshots;
mod volumes;
mod walk;
pub mod watch;

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, LockMode, Name};
use crate::export::kernel::KernelFs;
use crate::export::progress::TELL;
use crate::mount::backoff::backoff;
use crate::nfs::source::{Server, Share, Source, SubDir};
use progress::{Board, Progress};
use projects::KernelProjects;
use queue::PERIOD;
use reconciler::{Ids, Reconciler, Step};
use watch::Watch;

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

/// Enforces limits on all paths until `shutdown` completes, and shows its work on `board`.
///
/// # Errors
/// [`Error::Precondition`] if project quotas are not on for a file system; [`Error::Internal`] if a system call fails.
pub async fn run(settings: Settings, board: &Board, shutdown: impl Future<Output = ()>) -> Result<()> {
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
        exports.push((shown, (share, fs, projects)));
    }
    let ids = Ids::default();
    let work = exports.into_iter().map(|(path, export)| {
        keep(export, settings.project_ids.clone(), ids.clone(), move |now| board.set(&path, now))
    });
    tokio::select! {
        ended = try_join_all(work) => ended.map(drop),
        () = shutdown => Ok(()),
    }
}

/// Enforces limits on one path until an error occurs, and shows its work before each step.
async fn keep(
    (share, fs, projects): (Source, KernelFs, KernelProjects),
    range: RangeInclusive<u32>,
    ids: Ids,
    show: impl Fn(Progress),
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
    let mut told = Instant::now();
    loop {
        if told.elapsed() >= TELL {
            told = Instant::now();
            for (work, far) in reconciler.under_way().into_iter().filter(|(_, far)| far.took >= TELL) {
                tracing::info!(path, work, %far, "the agent is at work");
            }
        }
        // What has changed meanwhile comes before whatever else there is to do.
        if let Some(change) = watch.queued()? {
            reconciler.records_changed(&change);
        }
        if let Some(change) = snapshots.queued()? {
            reconciler.snapshots_changed(&change);
        }
        show(reconciler.progress());
        match reconciler.step().await {
            // The calls run on this thread and never wait, so without this no other task would run.
            Step::Worked => yield_now().await,
            Step::Idle(until) => {
                let due = until.unwrap_or_else(|| Instant::now() + PERIOD);
                tokio::select! {
                    () = sleep_until(due) => {}
                    change = watch.changes() => reconciler.records_changed(&change?),
                    change = snapshots.changes() => reconciler.snapshots_changed(&change?),
                }
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
    let mut pauses = backoff(STEP, STAND_BY);
    loop {
        if export().layout().await?.is_some()
            && let Some(reconciler) = Reconciler::open(export(), projects.clone(), range.clone(), ids.clone()).await?
        {
            return Ok(reconciler);
        }
        if export().find(&fs.root(), &private).await?.is_some() {
            // The driver creates the layout in several steps, and inotify on the root does not report them.
            tokio::time::sleep(pauses.next().unwrap_or(STAND_BY)).await;
            continue;
        }
        if !told {
            tracing::info!(path = %share.share, "waiting for a driver to write to this export for the first time");
            told = true;
        }
        watch.changes().await?;
    }
}
