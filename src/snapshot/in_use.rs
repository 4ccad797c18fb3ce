//! Notes of the volumes that a snapshot's tree backs. A note keeps the tree when the snapshot is deleted.
//!
//! A note is an empty file, `.csi-nfs/snapshots/SNAPSHOT.shown/VOLUME`. Under the snapshot's lock, it is written before
//! the volume's record, and removed before the record is removed. So a note without a record is the leftover of a
//! crash, and the driver removes it.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Fs, Name, Status, gone};
use crate::export::locks::Guard;
use crate::snapshot::record::Record;
use crate::volume::id::VolumeName;
use crate::volume::record::Record as VolumeRecord;
use crate::volume::record_file::RecordFile as _;

/// Whether the snapshot backs any volume. Removes stale notes. The caller holds the snapshot's lock.
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

/// Whether the snapshot backs the volume that the note `file` is named after.
pub async fn shows<F: Fs>(export: &Export<F>, file: &Name, snapshot: &VolumeName) -> Result<bool> {
    let Some(name) = VolumeName::of_file(file, "") else { return Ok(false) };
    Ok(VolumeRecord::read(export, &name)
        .await?
        .is_some_and(|record| record.backing_snapshot.as_ref() == Some(snapshot)))
}

/// Writes the note that the snapshot backs a volume. The caller holds the snapshot's lock.
pub(super) async fn note<F: Fs>(export: &Export<F>, snapshot: &VolumeName, volume: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    let shown = export.make_dirs(&layout.snapshots, [Record::shown(snapshot)?], 0o700).await?;
    match export.fs().create(&shown, &volume.file("")?, 0o600).await {
        Ok(_) | Err(Status::Exist) => Ok(()),
        Err(status) => {
            Err(export.failed(format!("writing the note of volume `{volume}` at snapshot `{snapshot}`"), status))
        }
    }
}

/// Removes the note of a volume. The caller holds the snapshot's lock.
pub(super) async fn unnote<F: Fs>(export: &Export<F>, snapshot: &VolumeName, volume: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    match export.find_dir(&layout.snapshots, [Record::shown(snapshot)?]).await? {
        Some(shown) => remove(export, &shown, &volume.file("")?).await,
        None => Ok(()),
    }
}

async fn remove<F: Fs>(export: &Export<F>, dir: &F::Handle, file: &Name) -> Result<()> {
    gone(export.fs().unlink(dir, file).await)
        .map_err(|status| export.failed(format!("removing the note of volume `{file}`"), status))
}
