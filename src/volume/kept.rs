//! Directories that are kept when their volume is deleted, and the kept records, which store that decision.
//!
//! Deleting a volume with `onDelete: retain` renames its record from `.csi-nfs/volumes/NAME.json` to
//! `.csi-nfs/paths/SUBDIR/#/NAME#kept`. Then the volume no longer exists, because only `volumes` is read for volumes.
//! But the decision to keep the directory still holds, because a deletion reads `paths`. It holds for a retried
//! DeleteVolume, whatever the ID of that call or the driver's default says, and for any other deletion that would
//! remove the directory. A kept record is of no use without its directory and is removed when the directory is gone.
//!
//! The caller holds the volume's lock.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::nfs::source::SubDir;
use crate::volume::claims::{self, kept_file};
use crate::volume::directory_owners::Neighbours;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lock::lock_directory;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory, overcommit};

/// Deletes a volume and keeps its directory. `record` is `None` for a volume without a record.
pub(super) async fn keep<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    record: Option<&Record>,
    _lock: &Guard<F>,
) -> Result<()> {
    // If the ID does not contain the name, there is no record to keep. A retry with the same ID decides the same.
    let Some(name) = id.name() else { return Ok(()) };
    let node = claims::make_files_dir(export, &id.sub_dir).await?;
    let kept = kept_file(&name)?;
    match record {
        Some(_) => {
            let layout = export.make_layout().await?;
            let change = overcommit::begin(export, &name, None, 0).await?;
            let renamed = export.fs().rename(&layout.volumes, &Record::file(&name)?, &node, &kept).await;
            renamed
                .map_err(|e| export.failed(format!("moving the record of volume `{name}` to `.csi-nfs/paths`"), e))?;
            change.end(export).await?;
        }
        None => export.write_small_under(name.as_str(), &node, &kept, Record::unrecorded(id).encode()?).await?,
    }
    claims::release(export, id, None).await
}

/// Whether the volume was deleted and its directory kept.
pub(super) async fn is_kept<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<bool> {
    match id.name() {
        Some(name) => claims::is_kept(export, &id.sub_dir, &name).await,
        None => Ok(false),
    }
}

/// Removes the kept records of `volumes`, because the directory is gone or in use again.
pub(super) async fn forget<F: Fs>(export: &Export<F>, sub_dir: &SubDir, volumes: &[VolumeName]) -> Result<()> {
    for name in volumes {
        claims::forget(export, sub_dir, name).await?;
    }
    Ok(())
}

/// Whether the directory exists and was kept when a volume was deleted. If it is gone, removes its kept records.
pub(super) async fn holds<F: Fs>(export: &Export<F>, sub_dir: &SubDir, neighbours: &Neighbours<F>) -> Result<bool> {
    if neighbours.kept.is_empty() {
        return Ok(false);
    }
    let there = directory::find(export, sub_dir).await?.is_some();
    if !there {
        forget(export, sub_dir, &neighbours.kept).await?;
    }
    Ok(there)
}

/// Removes the kept record of an earlier volume of that name, if the new volume has adopted the directory.
pub(super) async fn replace<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName) -> Result<()> {
    match record.adopted {
        true => forget(export, &record.id.sub_dir, std::slice::from_ref(name)).await,
        false => Ok(()),
    }
}

/// Repairs a kept record (`csi-nfs check --repair`): removes it if the directory is gone, or if a volume of that name
/// has the directory again.
pub async fn mend<F: Fs>(export: &Export<F>, sub_dir: &SubDir, name: &VolumeName) -> Result<()> {
    let _lock = lock_directory(export, Some(name), sub_dir).await?;
    let again = Record::read(export, name).await?.is_some_and(|record| record.id.sub_dir == *sub_dir);
    if again || directory::find(export, sub_dir).await?.is_none() {
        forget(export, sub_dir, std::slice::from_ref(name)).await?;
    }
    Ok(())
}
