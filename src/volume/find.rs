//! Finds volumes by their identifiers (CSI `ControllerGetVolume`).

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::volume::id::VolumeId;
use crate::volume::lock::lock;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// A volume on the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The record; `None` for a volume that was made by hand or by csi-driver-nfs.
    pub record: Option<Record>,
    /// Whether the volume's directory exists.
    pub directory: bool,
}

/// Finds a volume by its identifier (CSI `ControllerGetVolume`).
///
/// # Errors
/// [`Error::NotFound`] if there is neither a record nor a directory, or if the volume is still being filled.
pub async fn get<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Found> {
    let record = read_own(export, id).await?;
    let pending = record.as_ref().is_some_and(|record| record.pending);
    let record = record.filter(|record| !record.pending);
    let path = record.as_ref().map_or_else(|| Ok(id.sub_dir.names().collect()), Record::path)?;
    let directory = export.find_dir(&export.fs().root(), path).await?.filter(|_| !pending);
    if record.is_none() && directory.is_none() {
        let reason = format!("{} has neither a record of it nor its directory `{}`", export.source(), id.sub_dir);
        return Err(Error::not_found(format!("volume `{id}`"), reason));
    }
    Ok(Found { record, directory: directory.is_some() })
}

/// Like [`get`], for a volume that is to be copied. If there is no record, looks again under the volume's lock, because
/// a running CreateVolume may have created the directory but not yet written the record with the size.
///
/// # Errors
/// As [`get`].
pub async fn get_settled<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Found> {
    let found = get(export, id).await?;
    if found.record.is_some() || export.layout().await?.is_none() {
        return Ok(found);
    }
    let _lock = lock(export, id).await?;
    get(export, id).await
}

/// Whether the driver has a record of the volume `id`.
pub async fn is_recorded<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<bool> {
    Ok(read_own(export, id).await?.is_some())
}

/// Reads the record of the volume `id`; `None` if there is none, or if it is the record of a volume with the same name
/// and another directory.
pub async fn read_own<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Option<Record>> {
    match id.name() {
        Some(name) => Ok(Record::read(export, &name).await?.filter(|record| record.id.sub_dir == id.sub_dir)),
        None => Ok(None),
    }
}
