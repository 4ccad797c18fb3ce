//! Read-only volumes that are backed by a snapshot's tree and have no directory of their own.
//!
//! A note beside the tree (`in_use.rs`) keeps the tree if the snapshot is deleted.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::snapshot::delete::purge;
use crate::snapshot::lock::lock;
use crate::snapshot::record::{Record, State};
use crate::snapshot::{find, in_use};
use crate::volume::claims;
use crate::volume::create::Create;
use crate::volume::delete;
use crate::volume::fill;
use crate::volume::id::VolumeName;
use crate::volume::record::Record as VolumeRecord;
use crate::volume::record_file::RecordFile as _;

/// Creates a volume that is backed by a snapshot on the same export. The caller holds the volume's lock, and has
/// checked that the volume does not exist.
///
/// # Errors
/// [`Error::NotFound`] if the snapshot does not exist or is not ready; otherwise as [`fill::begin`].
pub async fn create<F: Fs>(
    export: &Export<F>,
    create: &Create,
    snapshot: &VolumeName,
    volume: &Guard<F>,
) -> Result<VolumeRecord> {
    let _lock = lock(export, snapshot).await?;
    let ready = find::read(export, snapshot).await?.filter(|record| record.state == State::Ready);
    let gone = || {
        Error::not_found(
            format!("snapshot `{snapshot}`"),
            format!("{} has no ready snapshot of that name", export.source()),
        )
    };
    let size = ready.ok_or_else(gone)?.size;
    let (prepared, way) = fill::prepare(export, create, size, volume).await?;
    let record = VolumeRecord { backing_snapshot: Some(snapshot.clone()), pending: false, adopted: false, ..prepared };
    claims::claim(export, &record.id, Some(&way)).await?;
    in_use::note(export, snapshot, &create.name).await?;
    record.write(export).await?;
    Ok(record)
}

/// Deletes a volume that is backed by a snapshot. If the snapshot is deleted and backs no other volume, deletes its
/// tree, too. The caller holds the volume's lock.
pub async fn delete<F: Fs>(export: &Export<F>, record: &VolumeRecord, volume: &Guard<F>) -> Result<()> {
    let (Some(snapshot), Some(name)) = (&record.backing_snapshot, record.id.name()) else { return Ok(()) };
    let lock = lock(export, snapshot).await?;
    in_use::unnote(export, snapshot, &name).await?;
    // Without a snapshot's record, too: an earlier call may have removed the record, and not yet the rest.
    if !in_use::is_shown(export, snapshot, &lock).await?
        && Record::read(export, snapshot).await?.is_none_or(|record| record.state == State::Deleted)
    {
        purge(export, snapshot, &lock).await?;
    }
    delete::forget_volume(export, &record.id, None, volume).await
}
