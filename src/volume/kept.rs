//! Directories that stay when their volume is deleted, and the records of that.
//!
//! The record of a volume that is deleted with `onDelete: retain` does not go: it is renamed from
//! `.csi-nfs/volumes/NAME.json` to `.csi-nfs/paths/SUBDIR/#/NAME#kept`. From then on there is no volume, since nothing but
//! `volumes` is read for volumes. The decision to keep the directory is remembered, since a deletion reads `paths`: it
//! counts for a repeated DeleteVolume, whatever that one's ID or the driver's default says, and for everybody else who would
//! remove the directory. A kept record is of no use without its directory, and is removed when that is gone.
//!
//! The caller holds the volume's lock.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::nfs::source::SubDir;
use crate::volume::directory;
use crate::volume::directory_owners::{self, Neighbours, kept_file};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// Deletes a volume whose directory stays. `record` is `None` for one that has no record.
pub(super) async fn keep<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    record: Option<&Record>,
    _lock: &Guard<F>,
) -> Result<()> {
    // A volume whose ID does not tell its name is deleted by its ID alone, always with the same answer.
    let Some(name) = id.name() else { return Ok(()) };
    let node = directory_owners::make_node(export, &id.sub_dir).await?;
    let kept = kept_file(&name)?;
    match record {
        Some(_) => {
            let layout = export.make_layout().await?;
            let renamed = export.fs().rename(&layout.volumes, &Record::file(&name)?, &node, &kept).await;
            renamed.map_err(|e| export.failed(format!("keeping the record of volume `{name}`"), e))?;
        }
        None => export.write_small_under(name.as_str(), &node, &kept, Record::unrecorded(id).encode()?).await?,
    }
    directory_owners::release(export, id).await
}

/// Whether the volume was deleted, and its directory kept.
pub(super) async fn is_kept<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<bool> {
    let (Some(name), Some(layout)) = (id.name(), export.layout().await?) else { return Ok(false) };
    let path = id.sub_dir.names().chain([directory_owners::claims_dir()?]);
    let Some(node) = export.find_dir(&layout.paths, path).await? else { return Ok(false) };
    Ok(export.find(&node, &kept_file(&name)?).await?.is_some())
}

/// Removes the records of volumes whose directory, which was kept, is gone or in use again.
pub(super) async fn forget<F: Fs>(export: &Export<F>, sub_dir: &SubDir, volumes: &[VolumeName]) -> Result<()> {
    for name in volumes {
        directory_owners::remove_entry(export, sub_dir, &kept_file(name)?).await?;
    }
    Ok(())
}

/// Whether the directory is there and was kept when a volume was deleted. The kept records of one that is gone go, too.
pub(super) async fn holds<F: Fs>(export: &Export<F>, sub_dir: &SubDir, neighbours: &Neighbours) -> Result<bool> {
    if neighbours.kept.is_empty() {
        return Ok(false);
    }
    let there = directory::find(export, sub_dir).await?.is_some();
    if !there {
        forget(export, sub_dir, &neighbours.kept).await?;
    }
    Ok(there)
}

/// Removes the kept record of an earlier volume of that name, whose directory the new one has adopted.
pub(super) async fn replace<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName) -> Result<()> {
    match record.adopted {
        true => forget(export, &record.id.sub_dir, std::slice::from_ref(name)).await,
        false => Ok(()),
    }
}

/// Removes the kept record of a volume if it is of no use: its directory is gone, or a volume of that name has the
/// directory again. (`csi-nfs check --repair`)
pub async fn mend<F: Fs>(export: &Export<F>, sub_dir: &SubDir, name: &VolumeName) -> Result<()> {
    let _lock = export.lock(&[name.as_str(), sub_dir.first()]).await?;
    let again = Record::read(export, name).await?.is_some_and(|record| record.id.sub_dir == *sub_dir);
    if again || directory::find(export, sub_dir).await?.is_none() {
        forget(export, sub_dir, std::slice::from_ref(name)).await?;
    }
    Ok(())
}
