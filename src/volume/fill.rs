//! Creates volumes with content: the clone of a volume or the restore of a snapshot (CSI `VolumeContentSource`).
//!
//! Nobody sees such a volume before it is complete. First, [`begin`] writes the claim and a pending record, which
//! reserve the name and the directory. Then the content is copied into the staging directory, without the volume's
//! lock, because the lock would make other volumes wait. Under the lock again, [`place`] renames the content into place
//! and [`finish`] makes the record final.
//!
//! Before the rename, [`place`] writes the file ID of the staged directory into the record. If the directory in the
//! volume's place has this file ID, it is the volume's and complete. Any other directory belongs to somebody else, and
//! the result is a conflict.

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Name, Status};
use crate::export::locks::Guard;
use crate::export::owner_access;
use crate::volume::claims::{self, Way};
use crate::volume::create::{Create, check_same, new};
use crate::volume::delete::forget_volume;
use crate::volume::directory_owners::{self, Neighbours};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lock::lock;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory, kept, overcommit, quota, space};

/// A volume that [`begin`] found or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The volume is complete.
    Whole(Record),
    /// The volume has to be filled.
    Pending(Record),
}

/// Starts a volume that needs `size` bytes for its content (0 if the size is unknown), or finds the volume that an
/// earlier call with the same arguments started. `size` is `None` if the caller saw a complete volume and so did not
/// look for the content. The caller holds the volume's lock.
///
/// # Errors
/// [`Error::Interrupted`] if `size` is `None` but the volume is not complete, because it was deleted meanwhile;
/// [`Error::CapacityOutOfRange`] if the request is for less than `size`; [`Error::Conflict`] if the name or the
/// directory belongs to another volume, or if the directory exists and is not empty; otherwise as
/// [`create`](super::create::create).
pub async fn begin<F: Fs>(
    export: &Export<F>,
    create: &Create,
    size: Option<u64>,
    until: Instant,
    lock: &Guard<F>,
) -> Result<Begun> {
    let changed = || Error::Interrupted(format!("volume `{}` changed while it was made; call again", create.name));
    let id = create.id(export)?;
    if let Some(record) = Record::read(export, &create.name).await? {
        check_same(create, &id, &record)?;
        if record.pending {
            return size.map(|_| Begun::Pending(record)).ok_or_else(changed);
        }
        quota::enforced_where_required(export, &create.name, &record, until).await?;
        return Ok(Begun::Whole(record));
    }
    let size = size.ok_or_else(changed)?;
    quota::check_possible(export, create.asked.or(create.defaults).quota, until).await?;
    let (record, way) = prepare(export, create, size, lock).await?;
    let change = overcommit::begin(export, &create.name, record.attributes.overcommit, record.capacity).await?;
    make_way(export, &record).await?;
    claims::claim(export, &id, Some(&way)).await?;
    record.write(export).await?;
    change.end(export).await?;
    Ok(Begun::Pending(record))
}

/// Checks that the volume can be created. Returns its pending record, which the caller writes, and the way to its claim.
pub async fn prepare<F: Fs>(
    export: &Export<F>,
    create: &Create,
    size: u64,
    lock: &Guard<F>,
) -> Result<(Record, Way<F>)> {
    let id = create.id(export)?;
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(&create.name), lock).await?;
    neighbours.check_nesting(&id.sub_dir)?;
    check_alone(&id, &neighbours)?;
    let capacity = capacity(create, size)?;
    space::check_free(export, create.asked.or(create.defaults).overcommit, capacity).await?;
    let adopted = kept::holds(export, &id.sub_dir, &neighbours).await?;
    Ok((Record { pending: true, ..new(create, id, capacity, adopted) }, neighbours.way))
}

/// Returns [`Error::Conflict`] if another volume has the directory.
fn check_alone<F: Fs>(id: &VolumeId, neighbours: &Neighbours<F>) -> Result<()> {
    neighbours.check_filled(&id.sub_dir)?;
    let Some(other) = &neighbours.same else { return Ok(()) };
    Err(Error::conflict(
        format!("directory `{}`", id.sub_dir),
        format!(
            "volume {} has this directory, and a restore or a clone needs a directory of its own; choose another one",
            other.name
        ),
    ))
}

/// Returns the capacity of a volume whose content needs `size` bytes: the requested capacity, otherwise `size`.
fn capacity(create: &Create, size: u64) -> Result<u64> {
    let chosen = create.capacity.choose();
    let capacity = if chosen == 0 { size } else { chosen };
    if capacity < size {
        return Err(Error::CapacityOutOfRange(format!(
            "{capacity} bytes are requested, but a volume with this content needs {size}; request at least that much"
        )));
    }
    Ok(capacity)
}

/// Makes sure that nothing is in the volume's place: removes an empty directory, and returns [`Error::Conflict`] for
/// anything else, which belongs to somebody.
async fn make_way<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    let mut names: Vec<Name> = record.id.sub_dir.names().collect();
    let Some(name) = names.pop() else { return Ok(()) };
    let Some(parent) = export.find_dir(&export.fs().root(), names).await? else { return Ok(()) };
    match export.fs().rmdir(&parent, &name).await {
        // Stale: another call has removed the directory above it.
        Ok(()) | Err(Status::NoEnt | Status::Stale) => Ok(()),
        Err(Status::NotEmpty | Status::NotDir) => Err(taken(record)),
        Err(status) => Err(export.failed(format!("removing the empty directory `{}`", record.id.sub_dir), status)),
    }
}

fn taken(record: &Record) -> Error {
    Error::conflict(
        format!("directory `{}`", record.id.sub_dir),
        "something else is there, and a restore or a clone needs a new directory; move it away",
    )
}

/// Returns [`Error::Conflict`] if any directory is in the volume's place. The caller knows that the staged directory is
/// not there yet.
pub async fn check_free<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    if directory::file_id(export, record).await?.is_some() { Err(taken(record)) } else { Ok(()) }
}

/// Prepares the record for a copy of `size` bytes from the start. Returns the record that is on the export now.
///
/// The source may have another size than when the record was written. The file ID of an earlier staged directory is
/// removed, because the server may give it to another directory.
///
/// # Errors
/// [`Error::Interrupted`] if the volume was deleted meanwhile; [`Error::CapacityOutOfRange`] and [`Error::Exhausted`] as
/// [`begin`].
pub async fn begin_anew<F: Fs>(export: &Export<F>, record: &Record, create: &Create, size: u64) -> Result<Record> {
    let capacity = capacity(create, size)?;
    if record.staged.is_none() && record.capacity == capacity {
        return Ok(record.clone());
    }
    let _lock = lock(export, &record.id).await?;
    check_pending(export, record, &create.name).await?;
    let anew = Record { staged: None, capacity, ..record.clone() };
    let more = capacity.saturating_sub(record.capacity);
    let change = overcommit::begin(export, &create.name, anew.attributes.overcommit, more).await?;
    anew.write(export).await?;
    change.end(export).await?;
    Ok(anew)
}

/// Gives the content the volume's mode and owner and renames it from `staged`, its name in the staging directory, into
/// the volume's place. Returns the record that was written. The caller holds the volume's lock.
///
/// # Errors
/// [`Error::Interrupted`] if the volume was deleted meanwhile; [`Error::Conflict`] if another volume or something else
/// is in the place. The content is still in the staging directory then.
pub async fn place<F: Fs>(
    export: &Export<F>,
    record: &Record,
    name: &VolumeName,
    (content, staged): (&F::Handle, &Name),
    lock: &Guard<F>,
) -> Result<Record> {
    check_pending(export, record, name).await?;
    let neighbours = directory_owners::neighbours(export, &record.id.sub_dir, Some(name), lock).await?;
    check_alone(&record.id, &neighbours)?;
    check_free(export, record).await?;
    kept::forget(export, &record.id.sub_dir, &neighbours.kept).await?;
    let failed = |status| export.failed(format!("moving the content into directory `{}`", record.id.sub_dir), status);
    export.fs().setattr(content, directory::set_attr(record.attributes)).await.map_err(failed)?;
    let fileid = export.fs().getattr(content).await.map_err(failed)?.fileid;
    let record = Record { staged: Some(fileid), ..record.clone() };
    record.write(export).await?;
    let layout = export.make_layout().await?;
    let (place, from) = (&record, &layout.staging);
    let rename = || async move {
        let (parent, last) = directory::make_parent(export, &place.id.sub_dir).await?;
        match owner_access::rename(export.fs(), (from, staged), (&parent, &last)).await {
            Err(Status::NotEmpty | Status::Exist | Status::NotDir) => Err(taken(place)),
            renamed => renamed.map_err(failed),
        }
    };
    export.despite_removals(rename).await?;
    Ok(record)
}

/// Makes the record final, because the content is in place, and waits for a limit that is required. The caller holds
/// the volume's lock.
pub async fn finish<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName, _lock: &Guard<F>) -> Result<Record> {
    check_pending(export, record, name).await?;
    let whole = Record { pending: false, staged: None, ..record.clone() };
    whole.write(export).await?;
    quota::enforced_where_required(export, name, &whole, quota::patience()).await?;
    Ok(whole)
}

async fn check_pending<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName) -> Result<()> {
    match Record::read(export, name).await? {
        Some(now) if now == *record => Ok(()),
        _ => Err(Error::Interrupted(format!("volume `{name}` was deleted while it was filled"))),
    }
}

/// Removes the record and the claim of a volume whose content is not in place. Does nothing if the record has changed.
/// The caller holds the volume's lock.
pub async fn abandon<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName, lock: &Guard<F>) -> Result<()> {
    if Record::read(export, name).await?.as_ref() != Some(record) {
        return Ok(());
    }
    forget_volume(export, &record.id, None, lock).await
}
