//! Deleted directories are renamed into `.csi-nfs/trash` and removed in the background, by the process that put them
//! there or by the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Export;
use crate::error::Result;
use crate::export::fs::{Entry, Fs, FsResult, Kind, Name, Status, Step, first_entries, gone};
use crate::export::locks::Guard;
use crate::export::owner_access;
use crate::export::progress::{Figures, Progress, TELL, UnderWay, told};
use crate::mount::backoff::backoff;

/// How many entries are removed at the same time, and how many removals run at the same time in each. A removal counts
/// as a long call (see `mount/gate`), which leaves threads to the calls that somebody waits for.
const ENTRIES: usize = 3;
const WORKERS: usize = 8;

/// How many names are removed in one go: at most what a request has operations for.
const BATCH: usize = 32;

/// Removal starts when nothing was put into the trash for the shorter time, and after the longer time at the latest:
/// many calls that delete volumes may be running, and they come first.
const QUIET: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// For how long the trash is looked at again and again after a move whose answer did not come: a server that comes back
/// may carry it out by then.
const UNSURE: Duration = Duration::from_secs(600);

/// What the clearing of a trash is called among the work that is under way on an export.
const CLEARING: &str = "trash";

/// A directory below this depth becomes an entry of the trash itself, so that no tree needs more handles than this.
const DEPTH: usize = 32;

/// Tells the task that clears the trash that there is something in it, and others how far the task is.
#[derive(Default)]
pub struct Signal {
    notify: Notify,
    waiting: AtomicU64,
    clearing: UnderWay,
    /// When something was last put into the trash or not.
    unsure: Mutex<Option<Instant>>,
}

impl Signal {
    /// Records that something was put into the trash.
    pub fn added(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// Records that the server has not said whether it has put something into the trash.
    fn perhaps_added(&self) {
        *self.unsure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.notify.notify_one();
    }

    /// Whether something may come into the trash unnoticed.
    fn is_unsure(&self) -> bool {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() < UNSURE)
    }

    /// Waits until something was put into the trash since the last time and the calls that did so are over ([`QUIET`]).
    pub async fn wait(&self) {
        self.notify.notified().await;
        let more = async { while timeout(QUIET.0, self.notify.notified()).await.is_ok() {} };
        let _late = timeout(QUIET.1, more).await;
    }

    /// The number of entries that are not removed yet, as far as this process knows.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many files and directories the clearing under way has removed; `None` if there is none.
    pub fn clearing(&self) -> Option<Figures> {
        self.clearing.of(CLEARING)
    }
}

/// A new place in the trash.
async fn place<F: Fs>(export: &Export<F>) -> Result<(F::Handle, Name)> {
    let trashed =
        Name::new(Uuid::new_v4().to_string()).map_err(|e| export.failed("naming an entry of the trash", e))?;
    Ok((export.make_layout().await?.trash.clone(), trashed))
}

/// Moves `name` in `dir` into the trash. Returns whether it was there.
pub async fn discard<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name) -> Result<bool> {
    let failed = |status| export.failed(format!("moving `{name}` into the trash"), status);
    let (trash, trashed) = place(export).await?;
    match owner_access::rename(export.fs(), (dir, name), (&trash, &trashed)).await {
        Ok(()) => {
            export.trash.added();
            Ok(true)
        }
        Err(Status::NoEnt) => Ok(false),
        Err(status) => {
            if status.is_unanswered() {
                export.trash.perhaps_added();
            }
            Err(failed(status))
        }
    }
}

/// [`discard`], and then a further step, in one request where the client can. Returns whether both is done. If not, the
/// caller goes on step by step, and meets what is in the way.
///
/// # Errors
/// If the server has not answered.
pub async fn discard_and<F: Fs>(
    export: &Export<F>,
    dir: &F::Handle,
    name: &Name,
    then: Step<F::Handle>,
) -> Result<bool> {
    let failed = |status| export.failed(format!("moving `{name}` into the trash"), status);
    let (from, to) = ((dir.clone(), name.clone()), place(export).await?);
    let (done, ended) = export.fs().in_order(&[Step::Rename { from, to }, then]).await;
    if done > 0 {
        export.trash.added();
    }
    match ended {
        Err(status) if status.is_unanswered() => {
            export.trash.perhaps_added();
            Err(failed(status))
        }
        ended => Ok(ended.is_ok()),
    }
}

/// Clears the trash of an export once. An entry that cannot be removed is logged and retried the next time.
///
/// Returns how many entries are left.
pub async fn clear<F: Fs>(export: &Export<F>) -> Result<u64> {
    let Some(layout) = export.layout().await? else { return Ok(0) };
    let mut begun = None;
    // Removing a deep tree adds entries to the trash, so this repeats for as long as entries can be removed.
    loop {
        let names = export.names(&layout.trash).await?;
        export.trash.waiting.store(names.len() as u64, Ordering::Relaxed);
        if names.is_empty() {
            return Ok(0);
        }
        let removed = &begun.get_or_insert_with(|| export.trash.clearing.begin(CLEARING)).progress;
        let clear_one = async |name: &Name| {
            let done = remove_tree(export.fs(), &layout.trash, name, removed).await;
            match &done {
                Ok(()) => drop(export.trash.waiting.fetch_sub(1, Ordering::Relaxed)),
                Err(error) => {
                    let export = export.source();
                    tracing::warn!(%export, entry = %name, %error, "the trash is not cleared; will be tried again");
                }
            }
            done.is_ok()
        };
        let clearing = stream::iter(&names).map(clear_one).buffer_unordered(ENTRIES).collect();
        let cleared: Vec<bool> = told(clearing, (TELL, TELL), || tell(export, removed)).await;
        if !cleared.contains(&true) {
            return Ok(names.len() as u64);
        }
    }
}

fn tell<F: Fs>(export: &Export<F>, removed: &Progress) {
    let (export, left, far) = (export.source(), export.trash.waiting(), removed.figures());
    tracing::info!(%export, left, %far, "clearing the trash");
}

/// Removes what an earlier process left in staging. A lock that is held shows that a living process uses the entry.
pub async fn sweep_staging<F: Fs>(export: &Export<F>) -> Result<()> {
    let Some(layout) = export.layout().await? else { return Ok(()) };
    if !export.fs().locks_are_shared() {
        // Without shared locks, the work of a living controller cannot be told from that of a dead one. It stays, and a
        // retry of the call that began it continues it.
        return Ok(());
    }
    for name in export.names(&layout.staging).await? {
        let Some(_guards) = claim_staged(export, &name).await? else { continue };
        discard(export, &layout.staging, &name).await?;
    }
    Ok(())
}

/// Takes the locks that may cover an entry of staging, unless somebody holds one. An entry is named after its lock, and
/// a file has `.json` after that.
async fn claim_staged<F: Fs>(export: &Export<F>, entry: &Name) -> Result<Option<Vec<Guard<F>>>> {
    let text = std::str::from_utf8(entry.as_bytes()).unwrap_or_default();
    let mut guards = Vec::new();
    for name in [Some(text), text.strip_suffix(".json")].into_iter().flatten() {
        match export.try_lock(name).await? {
            Some(guard) => guards.push(guard),
            None => return Ok(None),
        }
    }
    Ok(Some(guards))
}

/// Removes `name` in `trash` with everything below it, and counts what is removed. Nothing outside is touched: symbolic
/// links are removed and not followed, and every step starts at a handle.
async fn remove_tree<F: Fs>(fs: &F, trash: &F::Handle, name: &Name, removed: &Progress) -> FsResult<()> {
    let found = match fs.lookup(trash, name).await {
        Err(Status::NoEnt) => return Ok(()),
        found => found?,
    };
    if found.1.kind != Kind::Directory {
        gone(fs.unlink(trash, name).await)?;
        removed.entry();
        return Ok(());
    }
    let level = |dir, parent, name| Level { dir, parent, name, full: Vec::new(), opened: false };
    let mut path: Vec<Level<F>> = vec![level(found.0, trash.clone(), name.clone())];
    loop {
        let away = (path.len() >= DEPTH).then_some(trash);
        let Some(here) = path.last_mut() else { return Ok(()) };
        if let Some(name) = here.full.pop() {
            match fs.lookup(&here.dir, &name).await {
                Ok((child, attr)) if attr.kind == Kind::Directory => {
                    let parent = here.dir.clone();
                    path.push(level(child, parent, name));
                }
                Ok(_) | Err(Status::NoEnt) => {}
                Err(status) => return Err(status),
            }
            continue;
        }
        match remove_entries(fs, &here.dir, away, removed).await {
            Ok(Removal::Empty) => {
                gone(fs.rmdir(&here.parent, &here.name).await)?;
                removed.entry();
                path.pop();
            }
            Ok(Removal::Some { full }) => here.full = full,
            Err(refused @ (Status::Access | Status::Perm)) => {
                let mode = fs.getattr(&here.dir).await?.mode;
                // Once: a tenant that still has the directory open may change the mode again, for ever.
                if std::mem::replace(&mut here.opened, true) || !owner_access::let_owner_in(fs, &here.dir, mode).await {
                    return Err(refused);
                }
            }
            Err(status) => return Err(status),
        }
    }
}

/// A directory that is being removed.
struct Level<F: Fs> {
    dir: F::Handle,
    parent: F::Handle,
    name: Name,
    /// Directories in it that have entries, which go first.
    full: Vec<Name>,
    /// Whether its mode was changed to let the owner in.
    opened: bool,
}

/// How far the removal of a directory's entries is.
enum Removal {
    /// The directory is empty.
    Empty,
    /// Some entries are removed, and these directories have entries.
    Some { full: Vec<Name> },
}

/// Removes the entries on a page of a directory, except directories that have entries. With `away`, it moves those
/// there instead.
async fn remove_entries<F: Fs>(
    fs: &F,
    dir: &F::Handle,
    away: Option<&F::Handle>,
    removed: &Progress,
) -> FsResult<Removal> {
    let entries = first_entries(fs, dir).await?;
    if entries.is_empty() {
        return Ok(Removal::Empty);
    }
    let (others, files): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| matches!(entry.kind, None | Some(Kind::Directory)));
    let files: Vec<Name> = files.into_iter().map(|entry| entry.name).collect();
    let mut batches: Vec<Vec<Name>> = files.chunks(BATCH).map(<[Name]>::to_vec).collect();
    // Most directories have entries, and the removal of others would end there.
    batches.extend(others.into_iter().map(|entry| vec![entry.name]));
    let full: Vec<Option<Name>> = stream::iter(batches)
        .map(|names| {
            let (dir, away, removed) = (dir.clone(), away.cloned(), removed.clone());
            let remove =
                fs.in_one_go(|fs| async move { remove_names(&fs, &dir, &names, away.as_ref(), &removed).await });
            async { remove.await? }
        })
        .buffer_unordered(WORKERS)
        .try_collect()
        .await?;
    Ok(Removal::Some { full: full.into_iter().flatten().collect() })
}

/// Removes what has these names, up to a directory that is not empty. Returns the name of that; with `away`, it is moved
/// there instead.
async fn remove_names<F: Fs>(
    fs: &F,
    dir: &F::Handle,
    names: &[Name],
    away: Option<&F::Handle>,
    removed: &Progress,
) -> FsResult<Option<Name>> {
    let (cleared, done) = fs.remove(dir, names).await;
    removed.entries(cleared as u64);
    match (done, names.get(cleared), away) {
        (Err(Status::NotEmpty), Some(full), Some(trash)) => {
            let trashed = Name::new(Uuid::new_v4().to_string())?;
            gone(owner_access::rename(fs, (dir, full), (trash, &trashed)).await).map(|()| None)
        }
        (Err(Status::NotEmpty), full, None) => Ok(full.cloned()),
        (done, ..) => done.map(|()| None),
    }
}

/// Clears the trash for as long as the export is in use: now, whenever something is put into it, and again after a
/// while if something could not be removed.
pub async fn keep_clear<F: Fs>(export: Arc<Export<F>>) {
    const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(960));
    let mut pauses = backoff(PAUSES.0, PAUSES.1);
    if let Err(error) = sweep_staging(&export).await {
        tracing::warn!(export = %export.source(), %error, "staging is not swept");
    }
    loop {
        let left = match clear(&export).await {
            Ok(left) => left > 0 || export.trash.is_unsure(),
            Err(error) => {
                tracing::warn!(export = %export.source(), %error, "the trash is not cleared; will be tried again");
                true
            }
        };
        if left {
            tokio::select! {
                () = export.trash.wait() => {}
                () = tokio::time::sleep(pauses.next().unwrap_or(PAUSES.1)) => {}
            }
        } else {
            pauses = backoff(PAUSES.0, PAUSES.1);
            export.trash.wait().await;
        }
    }
}

#[cfg(test)]
mod tests;
