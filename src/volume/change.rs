//! Changing a volume: its capacity (CSI `ControllerExpandVolume`), and its attributes (CSI `ControllerModifyVolume`).
//!
//! The caller holds the volume's lock, and hands it in as a proof. The order is such that a repeated call finishes what a crash cut
//! short: attributes, record, limit.

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Status};
use crate::export::locks::Guard;
use crate::volume::access::CapacityRange;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::parameters::Attributes;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory, directory_owners, find, kept, overcommit, quota, space};

/// Reads the record of a volume for a change; a volume without one is taken over: it gets one.
///
/// # Errors
/// [`Error::NotFound`] also where the volume was deleted and its directory kept, or the name belongs to a volume with
/// another directory: a late call changes nothing of either.
async fn for_change<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<(VolumeName, Record)> {
    let found = find::get(export, id).await?;
    let name = id.name().ok_or_else(|| {
        Error::Precondition(format!(
            "volume `{id}` cannot be changed: its ID does not tell its name (a nested directory without UUID)"
        ))
    })?;
    if let Some(record) = found.record {
        return Ok((name, record));
    }
    let not_found = |reason: String| Err(Error::not_found(format!("volume `{id}`"), reason));
    if kept::is_kept(export, id).await? {
        return not_found(format!(
            "it was deleted, and its directory `{}` was kept; to use that again, create a volume with this `subDir`, or a PersistentVolume that names the directory",
            id.sub_dir
        ));
    }
    if let Some(other) = Record::read(export, &name).await? {
        return not_found(format!("the volume of that name is `{}`", other.id));
    }
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(&name)).await?;
    let adopted = !neighbours.kept.is_empty() || directory_owners::is_adopted(export, &id.sub_dir, &neighbours).await?;
    Ok((name, Record { adopted, ..Record::unrecorded(id) }))
}

/// Makes a volume larger (CSI `ControllerExpandVolume`): answers its capacity, in bytes, with its limit in
/// force where there was one.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::CapacityOutOfRange`] where it is larger than the limit already; [`Error::Exhausted`].
pub async fn expand<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    range: CapacityRange,
    until: Instant,
    _lock: &Guard<F>,
) -> Result<u64> {
    let (name, mut record) = for_change(export, id).await?;
    let capacity = range.required().max(record.capacity);
    if !range.allows(capacity) {
        return Err(Error::CapacityOutOfRange(format!(
            "volume `{id}` has {} bytes already, more than the limit; volumes do not shrink",
            record.capacity
        )));
    }
    if capacity > record.capacity {
        let more = capacity - record.capacity;
        space::check_free(export, more).await?;
        let _promise = overcommit::check(export, record.attributes.overcommit, more).await?;
        record.capacity = capacity;
        // A volume that is taken over may have no claim yet.
        directory_owners::claim(export, &record.id).await?;
        record.write(export).await?;
    }
    // Also where it was large enough: an earlier call may not have waited to the end.
    quota::enforced_where_it_was(export, &name, &record, until).await?;
    Ok(capacity)
}

/// Changes what can be changed of a volume (CSI `ControllerModifyVolume`).
pub async fn modify<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    changes: Attributes,
    until: Instant,
    _lock: &Guard<F>,
) -> Result<()> {
    let (name, mut record) = for_change(export, id).await?;
    quota::check_possible(export, changes.quota, until).await?;
    let failed = |status| export.failed(format!("changing directory `{}`", id.sub_dir), status);
    let owned = changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
    if record.backing_snapshot.is_some() && owned {
        let reason = "shows a snapshot, which does not change: mountPermissions, uid and gid cannot be given to it";
        return Err(Error::Precondition(format!("volume `{id}` {reason}")));
    }
    let directory = export.find_dir(&export.fs().root(), id.sub_dir.names()).await?;
    if record.backing_snapshot.is_none() {
        let directory = directory.ok_or_else(|| failed(Status::NoEnt))?;
        export.fs().setattr(&directory, directory::set_attr(changes)).await.map_err(failed)?;
    }
    let attributes = changes.or(record.attributes);
    let on_delete_modified = record.on_delete_modified || changes.on_delete.is_some();
    if (attributes, on_delete_modified) != (record.attributes, record.on_delete_modified) {
        (record.attributes, record.on_delete_modified) = (attributes, on_delete_modified);
        // A volume that is taken over may have no claim yet.
        directory_owners::claim(export, &record.id).await?;
        record.write(export).await?;
    }
    if changes.quota.is_some() || changes.inodes.is_some() {
        quota::enforced_where_required(export, &name, &record, until).await?;
    }
    Ok(())
}
