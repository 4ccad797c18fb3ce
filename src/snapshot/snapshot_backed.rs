//! Volumes that show a snapshot's tree, for reading, and have no directory of their own.
//!
//! An empty file `.csi-nfs/snapshots/SNAPSHOT.shown/VOLUME` keeps the tree when the snapshot is deleted. It is written
//! before the volume's record and removed before it, under the snapshot's lock, so that one without a record is left from a
//! crash, means nothing, and is cleared away.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Name, Status, gone};
use crate::export::locks::Guard;
use crate::snapshot::lifecycle::{self, lock, purge};
use crate::snapshot::record::{Record, State};
use crate::volume::delete;
use crate::volume::directory_owners;
use crate::volume::fill;
use crate::volume::id::VolumeName;
use crate::volume::lifecycle::Create;
use crate::volume::record::Record as VolumeRecord;

/// Makes a volume that shows a snapshot on the same export. The caller holds the volume's lock, and has seen that there is
/// no such volume yet.
///
/// # Errors
/// [`Error::NotFound`] where there is no such snapshot, or it is not ready; otherwise as [`fill::begin`].
pub async fn create<F: Fs>(
    export: &Export<F>,
    create: &Create,
    snapshot: &VolumeName,
    volume: &Guard<F>,
) -> Result<VolumeRecord> {
    let _lock = lock(export, snapshot).await?;
    let ready = lifecycle::read(export, snapshot).await?.filter(|record| record.state == State::Ready);
    let gone = || Error::not_found(format!("snapshot `{snapshot}`"), format!("{} has none", export.source()));
    let size = ready.ok_or_else(gone)?.size;
    let prepared = fill::prepare(export, create, size, volume).await?;
    let record = VolumeRecord {
        backing_snapshot: Some(snapshot.clone()),
        pending: false,
        attempt: None,
        adopted: false,
        ..prepared
    };
    directory_owners::claim(export, &record.id).await?;
    let layout = export.make_layout().await?;
    let shown = export.make_dirs(&layout.snapshots, [Record::shown(snapshot)?], 0o700).await?;
    match export.fs().create(&shown, &create.name.file("")?, 0o600).await {
        Ok(_) | Err(Status::Exist) => {}
        Err(status) => return Err(export.failed(format!("noting that a volume shows snapshot `{snapshot}`"), status)),
    }
    record.write(export, &create.name).await?;
    Ok(record)
}

/// Deletes a volume that shows a snapshot; the snapshot's tree goes with the last one, where the snapshot is deleted. The
/// caller holds the volume's lock.
pub async fn delete<F: Fs>(export: &Export<F>, record: &VolumeRecord, volume: &Guard<F>) -> Result<()> {
    let (Some(snapshot), Some(name)) = (&record.backing_snapshot, record.id.name()) else { return Ok(()) };
    let lock = lock(export, snapshot).await?;
    let layout = export.make_layout().await?;
    if let Some(shown) = export.find_dir(&layout.snapshots, [Record::shown(snapshot)?]).await? {
        remove(export, &shown, &name.file("")?).await?;
    }
    // Also without a record of the snapshot: an earlier call may have come no further.
    if !is_shown(export, snapshot, &lock).await?
        && Record::read(export, snapshot).await?.is_none_or(|record| record.state == State::Deleted)
    {
        purge(export, snapshot, &lock).await?;
    }
    delete::forget_volume(export, &record.id, volume).await
}

/// Whether a volume shows the snapshot. The caller holds the snapshot's lock.
pub(super) async fn is_shown<F: Fs>(export: &Export<F>, snapshot: &VolumeName, _lock: &Guard<F>) -> Result<bool> {
    let layout = export.make_layout().await?;
    let shown = Record::shown(snapshot)?;
    let Some(dir) = export.find_dir(&layout.snapshots, [shown.clone()]).await? else { return Ok(false) };
    let mut live = false;
    for file in export.names(&dir).await? {
        if shows(export, &file, snapshot).await? {
            live = true;
        } else {
            remove(export, &dir, &file).await?;
        }
    }
    if !live {
        match export.fs().rmdir(&layout.snapshots, &shown).await {
            Ok(()) | Err(Status::NoEnt | Status::NotEmpty) => {}
            Err(status) => return Err(export.failed(format!("removing `{shown}`"), status)),
        }
    }
    Ok(live)
}

/// Whether the volume that a file is named after shows the snapshot.
pub async fn shows<F: Fs>(export: &Export<F>, file: &Name, snapshot: &VolumeName) -> Result<bool> {
    let Some(name) = VolumeName::of_file(file, "") else { return Ok(false) };
    Ok(VolumeRecord::read(export, &name)
        .await?
        .is_some_and(|record| record.backing_snapshot.as_ref() == Some(snapshot)))
}

async fn remove<F: Fs>(export: &Export<F>, dir: &F::Handle, file: &Name) -> Result<()> {
    gone(export.fs().unlink(dir, file).await)
        .map_err(|status| export.failed(format!("removing the note of volume `{file}`"), status))
}
