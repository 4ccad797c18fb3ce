//! Deleting a snapshot on its export.
//!
//! The record says so first, where there is room to write, and is removed last, when the tree is gone: who finds it goes on.

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

pub(super) async fn delete_locked<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    record: Option<Record>,
    lock: &Guard<F>,
) -> Result<()> {
    if let Some(record) = record {
        let shown = in_use::is_shown(export, name, lock).await?;
        if record.state != State::Deleted {
            match (Record { state: State::Deleted, attempt: None, ..record }).write(export).await {
                // A full export must not keep anything from going: then the record goes first.
                Err(error) if is_full(&error) && !shown => Record::remove(export, name).await?,
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
    Record::remove(export, name).await
}

/// Finishes the deletion of the snapshot that has the name.
pub(super) async fn make_way<F: Fs>(export: &Export<F>, name: &VolumeName, lock: &Guard<F>) -> Result<()> {
    if in_use::is_shown(export, name, lock).await? {
        return Err(Error::Precondition(format!(
            "a snapshot `{name}` was deleted, and volumes still show its data; choose another name"
        )));
    }
    purge(export, name, lock).await
}

/// Moves what belongs to no snapshot that is there into the trash.
pub(super) async fn discard_parts<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    trash::discard(export, &layout.snapshots, &Record::tree(name)?).await?;
    trash::discard(export, &layout.snapshots, &Record::shown(name)?).await.map(drop)
}
