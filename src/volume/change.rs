//! Changes to a volume: its capacity (CSI `ControllerExpandVolume`) and its attributes (CSI `ControllerModifyVolume`).
//!
//! The caller holds the volume's lock and passes the guard as proof. A change sets the attributes, then the record,
//! then the limit, so that a retried call completes what a crash interrupted.

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
use crate::volume::{claims, directory, directory_owners, find, kept, overcommit, quota, space};

/// Reads the record of a volume that is to be changed. For a volume without a record, returns a new record, which the
/// caller writes.
///
/// # Errors
/// [`Error::Precondition`] if the ID does not contain the volume's name. [`Error::NotFound`] if there is no such
/// volume, if it was deleted and its directory kept, or if its name now belongs to a volume with another directory: a
/// late call must change neither of these.
async fn for_change<F: Fs>(export: &Export<F>, id: &VolumeId, lock: &Guard<F>) -> Result<(VolumeName, Record)> {
    let found = find::get(export, id).await?;
    let name = id.name().ok_or_else(|| {
        Error::Precondition(format!(
            "volume `{id}` cannot be changed: its ID does not contain its name; use an ID of the form \
             SERVER#SHARE#DIRECTORY#NAME#"
        ))
    })?;
    if let Some(record) = found.record {
        return Ok((name, record));
    }
    let not_found = |reason: String| Err(Error::not_found(format!("volume `{id}`"), reason));
    if kept::is_kept(export, id).await? {
        return not_found(format!(
            "it was deleted, and its directory `{}` was kept; to use the directory again, create a volume with this \
             `subDir`, or a PersistentVolume that names the directory",
            id.sub_dir
        ));
    }
    if let Some(other) = Record::read(export, &name).await? {
        return not_found(format!("the volume of that name has another directory: its ID is `{}`", other.id));
    }
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(&name), lock).await?;
    let adopted = !neighbours.kept.is_empty() || directory_owners::is_adopted(export, &id.sub_dir, &neighbours).await?;
    Ok((name, Record { adopted, ..Record::unrecorded(id) }))
}

/// Expands a volume (CSI `ControllerExpandVolume`) and returns its capacity in bytes. Waits until `until` for the new
/// limit, if the quota is required or an earlier limit is in force.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::CapacityOutOfRange`] if the volume is larger than the limit of `range` already;
/// [`Error::Exhausted`] if the export lacks space or the class's `overcommit` forbids the expansion;
/// [`Error::NoAgent`] if the limit is not in force in time.
pub async fn expand<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    range: CapacityRange,
    until: Instant,
    lock: &Guard<F>,
) -> Result<u64> {
    let (name, mut record) = for_change(export, id, lock).await?;
    let capacity = range.required().max(record.capacity);
    if !range.allows(capacity) {
        return Err(Error::CapacityOutOfRange(format!(
            "volume `{id}` already has {} bytes, more than limit_bytes; volumes cannot shrink",
            record.capacity
        )));
    }
    if capacity > record.capacity {
        let more = capacity - record.capacity;
        space::check_free(export, record.attributes.overcommit, more).await?;
        let change = overcommit::begin(export, &name, record.attributes.overcommit, more).await?;
        record.capacity = capacity;
        // A volume that had no record may have no claim either.
        claims::claim(export, &record.id, None).await?;
        record.write(export).await?;
        change.end(export).await?;
    }
    // Even if the capacity does not change: an earlier call may have ended before the limit was in force.
    quota::enforced_where_it_was(export, &name, &record, until).await?;
    Ok(capacity)
}

/// Changes the attributes of a volume (CSI `ControllerModifyVolume`). Waits until `until` for a limit that is required.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Precondition`] if the volume is backed by a snapshot and `changes` has a mode or an
/// owner; [`Error::NoAgent`] or [`Error::Precondition`] if a required limit cannot be enforced.
pub async fn modify<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    changes: Attributes,
    until: Instant,
    lock: &Guard<F>,
) -> Result<()> {
    let (name, mut record) = for_change(export, id, lock).await?;
    quota::check_possible(export, changes.quota, until).await?;
    let failed = |status| export.failed(format!("changing directory `{}`", id.sub_dir), status);
    let owned = changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
    if record.backing_snapshot.is_some() && owned {
        let reason = "is backed by a snapshot, which cannot change; leave out mountPermissions, uid and gid";
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
        // A volume that had no record may have no claim either.
        claims::claim(export, &record.id, None).await?;
        record.write(export).await?;
    }
    if changes.quota.is_some() || changes.inodes.is_some() {
        quota::enforced_where_required(export, &name, &record, until).await?;
    }
    Ok(())
}
