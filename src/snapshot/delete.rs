//! Deletes a snapshot on its export.
//!
//! The record is changed to `deleted` first and removed last, after the tree. So a retry after a crash finds the record
//! and continues. If the export is too full to write, the record is removed first.

use crate::error::{Error, Result};
use crate::export::fs::{Fs, Status};
use crate::export::locks::Guard;
use crate::export::{Export, trash};
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::in_use;
use crate::snapshot::lock::{job, lock};
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::Stage;
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile as _;

/// Deletes a snapshot (CSI `DeleteSnapshot`). Succeeds if the snapshot does not exist. The tree stays as long as it
/// backs volumes.
///
/// # Errors
/// [`Error::Invalid`] if the snapshot belongs to a group that has a record: only the group can be deleted.
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
        let reason =
            format!("snapshot `{name}` belongs to group `{}` and is deleted with it: delete the group", group.id);
        return Err(Error::invalid("snapshot_id", reason));
    }
    delete_locked(export, name, record, &lock).await
}

/// Finishes a deletion that was interrupted. Does nothing if the name belongs to a new snapshot by now.
pub async fn finish_deletion<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(record) if record.state == State::Deleted => delete_locked(export, name, Some(record), &lock).await,
        _ => Ok(()),
    }
}

/// Deletes a snapshot of a group. The caller holds the group's lock.
pub(super) async fn delete_member<F: Fs>(export: &Export<F>, name: &VolumeName, group: &VolumeName) -> Result<()> {
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        // The name belongs to a snapshot outside the group.
        Some(record) if record.group.as_ref() != Some(group) => Ok(()),
        record => delete_locked(export, name, record, &lock).await,
    }
}

pub(super) async fn delete_locked<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    record: Option<Record>,
    lock: &Guard<F>,
) -> Result<()> {
    if let Some(record) = record {
        let shown = in_use::is_shown(export, name, lock).await?;
        if record.state != State::Deleted {
            match (Record { state: State::Deleted, ..record }).write(export).await {
                // A deletion must succeed on a full export: remove the record first.
                Err(error) if is_full(&error) && !shown => Record::remove(export, name).await?,
                written => written?,
            }
        }
        if shown {
            return Ok(());
        }
    }
    // Without a record, too: an earlier call may have removed the record, and not yet the rest.
    purge(export, name, lock).await?;
    Stage::clear(export, &job(name)).await
}

/// Whether the error says that the export has no space to write.
pub(super) fn is_full(error: &Error) -> bool {
    matches!(error, Error::Export { status: Status::NoSpc | Status::DQuot, .. })
}

/// Removes the tree, the notes and the record of a deleted snapshot that backs no volume.
pub(super) async fn purge<F: Fs>(export: &Export<F>, name: &VolumeName, _lock: &Guard<F>) -> Result<()> {
    discard_parts(export, name).await?;
    Record::remove(export, name).await
}

/// Finishes the deletion of the snapshot of that name, so that a new one can have it.
///
/// # Errors
/// [`Error::Precondition`] if volumes are still backed by the deleted snapshot.
pub(super) async fn make_way<F: Fs>(export: &Export<F>, name: &VolumeName, lock: &Guard<F>) -> Result<()> {
    if in_use::is_shown(export, name, lock).await? {
        return Err(Error::Precondition(format!(
            "snapshot `{name}` was deleted, but volumes are still backed by its data; delete these volumes, or choose \
             another name"
        )));
    }
    purge(export, name, lock).await
}

/// Moves the tree and the notes of a snapshot into the trash.
pub(super) async fn discard_parts<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    trash::discard(export, &layout.snapshots, &Record::tree(name)?).await?;
    trash::discard(export, &layout.snapshots, &Record::shown(name)?).await.map(drop)
}
