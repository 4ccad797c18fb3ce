//! Snapshots on an export: create, get, delete, list.
//!
//! The record comes first and says `pending`; the tree is copied in staging without the record's lock, then, under it,
//! renamed beside the record, which is made final. A deletion says so in the record first, where there is room to write, and
//! removes it last, when the tree is gone: who finds it may go on. The tree was not there when the pending record was written: where it is found beside one,
//! an earlier call put it there, whole.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::fs::{Fs, Status, gone};
use crate::export::locks::Guard;
use crate::export::{Export, trash};
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::id::SnapshotId;
use crate::snapshot::record::{Record, State, lock_name};
use crate::snapshot::snapshot_backed;
use crate::snapshot::tree::{How, Stage, Tree};
use crate::volume::id::VolumeName;
use crate::volume::lifecycle::now;
use crate::volume::record::new_attempt;

/// A snapshot to be made.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its name.
    pub name: VolumeName,
    /// The identifier of the volume that it is of.
    pub source: String,
    /// The capacity of that volume; 0 where it is not known.
    pub size: u64,
    /// The options that the controller mounts the export with.
    pub mount_options: Vec<String>,
}

/// What the copy of a snapshot is called in staging, and its lock. (No volume's name has a `#`.)
pub fn job(name: &VolumeName) -> String {
    format!("#snapshot#{name}")
}

/// Locks a snapshot's record.
pub(super) async fn lock<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Guard<F>> {
    export.lock(&[&lock_name(name)]).await
}

/// The snapshot of that name, pending, ready or deleted; `None` where there is none.
///
/// # Errors
/// [`Error::Conflict`] where it is of another volume than `source`, or of a group.
pub async fn find<F: Fs>(export: &Export<F>, name: &VolumeName, source: &str) -> Result<Option<Record>> {
    match Record::read(export, name).await? {
        Some(record) if record.source != source && record.state != State::Deleted => Err(Error::conflict(
            format!("snapshot `{name}`"),
            format!("it is of volume `{}`, and one of `{source}` is asked for now; choose another name", record.source),
        )),
        Some(Record { group: Some(group), state, .. }) if state != State::Deleted => {
            Err(Error::conflict(format!("snapshot `{name}`"), format!("it is of group `{group}`; choose another name")))
        }
        found => Ok(found),
    }
}

/// Begins a snapshot of `tree`, or finds the one that an earlier call began (CSI `CreateSnapshot`): pending, to be filled,
/// or ready.
///
/// # Errors
/// [`Error::Conflict`] where the name is that of a snapshot of another volume; [`Error::Precondition`] where it is that of a
/// deleted one, which volumes show; [`Error::NotFound`] where there is no such tree.
pub async fn begin<F: Fs>(export: &Export<F>, create: &Create, tree: &Tree<F>) -> Result<Record> {
    let lock = lock(export, &create.name).await?;
    match find(export, &create.name, &create.source).await? {
        Some(record) if record.state == State::Deleted => make_way(export, &create.name, &lock).await?,
        Some(record) => return Ok(record),
        None => {}
    }
    tree.check().await?;
    discard_parts(export, &create.name).await?;
    let record = Record {
        id: SnapshotId::new(export.source(), create.name.clone()),
        source: create.source.clone(),
        size: create.size,
        created: now(),
        mount_options: create.mount_options.clone(),
        group: None,
        state: State::Pending,
        attempt: new_attempt(),
    };
    record.write(export).await?;
    Ok(record)
}

/// Begins the snapshot of a group that is pending, unless an earlier call did. The caller holds the group's lock.
///
/// # Errors
/// [`Error::Conflict`] where another snapshot has the name; [`Error::Precondition`] where a deleted one has, which volumes
/// show.
pub(super) async fn begin_member<F: Fs>(export: &Export<F>, member: &Record) -> Result<()> {
    let name = &member.id.name;
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(record) if record.state == State::Deleted => make_way(export, name, &lock).await?,
        Some(record) if record.group == member.group && record.source == member.source => return Ok(()),
        Some(record) => {
            let reason = format!("it is of volume `{}`, and not of this group; choose another name", record.source);
            return Err(Error::conflict(format!("snapshot `{name}`"), reason));
        }
        None => {}
    }
    discard_parts(export, name).await?;
    member.write(export).await
}

/// Copies the tree of a snapshot that is pending, and makes it ready. One that cannot be copied is given up.
///
/// # Errors
/// As [`Stage::fill`]; [`Error::Interrupted`] where the snapshot was deleted meanwhile.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName, tree: &Tree<F>, how: &How) -> Result<()> {
    let stage = Stage::take(export, &job(name), &how.cancel).await?;
    let record = match Record::read(export, name).await? {
        Some(record) if record.state == State::Ready => return Ok(()),
        Some(record) if record.state == State::Pending => record,
        _ => return Err(deleted(name)),
    };
    let (layout, placed) = (export.make_layout().await?, Record::tree(name)?);
    let in_place = export.find(&layout.snapshots, &placed).await?.is_some();
    if !in_place && let Err(error) = stage.fill(tree, how).await {
        stage.discard().await?;
        if !how.ending.is_cancelled() {
            give_up(export, &record).await?;
        }
        return Err(error);
    }
    let _lock = lock(export, name).await?;
    if Record::read(export, name).await?.as_ref() != Some(&record) {
        stage.discard().await?;
        return Err(deleted(name));
    }
    if !in_place {
        let renamed = export.fs().rename(&layout.staging, stage.name(), &layout.snapshots, &placed).await;
        renamed.map_err(|e| export.failed(format!("putting snapshot `{name}` in place"), e))?;
    }
    Record { state: State::Ready, attempt: None, ..record }.write(export).await
}

fn deleted(name: &VolumeName) -> Error {
    Error::Interrupted(format!("snapshot `{name}` was deleted while it was made"))
}

/// Gives up a pending snapshot.
pub async fn give_up<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    let name = &record.id.name;
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(now) if now == *record => delete_locked(export, name, Some(now), &lock).await,
        _ => Ok(()),
    }
}

/// The snapshot, pending or ready (CSI `GetSnapshot`).
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Record> {
    read(export, name).await?.ok_or_else(|| {
        Error::not_found(format!("snapshot `{name}`"), format!("{} has no record of it", export.source()))
    })
}

/// A snapshot as it is seen from outside, pending or ready: one of a group is as far as its group.
pub async fn read<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Record>> {
    let record = Record::read(export, name).await?.filter(|record| record.state != State::Deleted);
    let Some(Record { group: Some(group), .. }) = &record else { return Ok(record) };
    match GroupRecord::read(export, group).await?.map(|group| group.state) {
        Some(State::Ready) => Ok(record),
        Some(state @ State::Pending) => Ok(record.map(|record| Record { state, ..record })),
        Some(State::Deleted) | None => Ok(None),
    }
}

/// Deletes a snapshot (CSI `DeleteSnapshot`). One that is not there is deleted. Its tree stays as long as volumes show it.
///
/// # Errors
/// [`Error::Invalid`] where it is of a group that is there: its record is what keeps or deletes it.
pub async fn delete<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    if export.layout().await?.is_none() {
        return Ok(());
    }
    let lock = lock(export, name).await?;
    let record = Record::read(export, name).await?;
    if let Some(Record { group: Some(group), state, .. }) = &record
        && *state != State::Deleted
        && let Some(group) = GroupRecord::read(export, group).await?
    {
        let reason = format!("snapshot `{name}` is of group `{}`, and goes with it: delete that one", group.id);
        return Err(Error::invalid("snapshot_id", reason));
    }
    delete_locked(export, name, record, &lock).await
}

/// Finishes the deletion of a snapshot that was cut short. One that is there by now is another one, and stays.
pub async fn finish_deletion<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(record) if record.state == State::Deleted => delete_locked(export, name, Some(record), &lock).await,
        _ => Ok(()),
    }
}

/// Deletes a snapshot of a group, whose lock the caller holds.
pub(super) async fn delete_member<F: Fs>(export: &Export<F>, name: &VolumeName, group: &VolumeName) -> Result<()> {
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        // Another snapshot has the name.
        Some(record) if record.group.as_ref() != Some(group) => Ok(()),
        record => delete_locked(export, name, record, &lock).await,
    }
}

async fn delete_locked<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    record: Option<Record>,
    lock: &Guard<F>,
) -> Result<()> {
    if let Some(record) = record {
        let shown = snapshot_backed::is_shown(export, name, lock).await?;
        if record.state != State::Deleted {
            match (Record { state: State::Deleted, attempt: None, ..record }).write(export).await {
                // A full export must not keep anything from going: then the record goes first.
                Err(error) if is_full(&error) && !shown => forget(export, name).await?,
                written => written?,
            }
        }
        if shown {
            return Ok(());
        }
    }
    // Also without a record: an earlier call may have come no further.
    purge(export, name, lock).await?;
    Stage::clear(export, &job(name)).await
}

/// Whether there was no room to write.
pub(super) fn is_full(error: &Error) -> bool {
    matches!(error, Error::Export { status: Status::NoSpc | Status::DQuot, .. })
}

/// Removes what is left of a snapshot that is deleted, and that volumes do not show any more.
pub(super) async fn purge<F: Fs>(export: &Export<F>, name: &VolumeName, _lock: &Guard<F>) -> Result<()> {
    discard_parts(export, name).await?;
    forget(export, name).await
}

/// Finishes the deletion of the snapshot that has the name.
async fn make_way<F: Fs>(export: &Export<F>, name: &VolumeName, lock: &Guard<F>) -> Result<()> {
    if snapshot_backed::is_shown(export, name, lock).await? {
        return Err(Error::Precondition(format!(
            "a snapshot `{name}` was deleted, and volumes still show its data; choose another name"
        )));
    }
    purge(export, name, lock).await
}

/// Removes a record.
async fn forget<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    gone(export.fs().unlink(&layout.snapshots, &Record::file(name)?).await)
        .map_err(|status| export.failed(format!("removing the record of snapshot `{name}`"), status))
}

/// Moves what belongs to no snapshot that is there into the trash.
async fn discard_parts<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    trash::discard(export, &layout.snapshots, &Record::tree(name)?).await?;
    trash::discard(export, &layout.snapshots, &Record::shown(name)?).await.map(drop)
}

/// The names of the snapshots that have records on an export, sorted (CSI `ListSnapshots`).
pub async fn names<F: Fs>(export: &Export<F>) -> Result<Vec<VolumeName>> {
    let Some(layout) = export.layout().await? else { return Ok(Vec::new()) };
    let files = export.names(&layout.snapshots).await?;
    let mut names: Vec<VolumeName> = files.iter().filter_map(Record::snapshot).collect();
    names.sort_unstable();
    Ok(names)
}
