//! Volumes that begin with content: a copy of another volume, or of a snapshot (CSI `VolumeContentSource`).
//!
//! Nobody sees such a volume before it is whole. Its claim and its record, which says `pending`, come first and keep its
//! name and its directory for it; the copy is made in staging without the volume's lock, which would keep its neighbours
//! waiting; then, under the lock again, it is renamed into place, and the record made final. Before the rename the record is
//! written with the file ID of what is staged: a directory that is found beside a pending record is that volume's, and whole,
//! if it has this file ID. Any other directory is somebody else's, and a conflict.

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Name, Status};
use crate::export::locks::Guard;
use crate::volume::create::{Create, check_same, new};
use crate::volume::delete::forget_volume;
use crate::volume::directory_owners::{self, Neighbours};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lock::lock;
use crate::volume::record::Record;
use crate::volume::record_file::{RecordFile as _, new_attempt};
use crate::volume::{directory, kept, overcommit, quota, space};

/// A volume that [`begin`] found, or began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is whole already.
    Whole(Record),
    /// It is to be filled.
    Pending(Record),
}

/// Begins a volume that is to be filled with content of `size` bytes (0 where that is not known), or finds the one that an
/// earlier call with the same arguments began. The caller holds the volume's lock, and has no content (`None`) where it saw
/// that the volume is whole.
///
/// # Errors
/// [`Error::Interrupted`] where there is no content, and the volume was deleted meanwhile.
/// [`Error::CapacityOutOfRange`] for less than `size`; [`Error::Conflict`] where the name is another volume's, or something
/// is in the directory; otherwise as [`create`](super::create::create).
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
    let record = prepare(export, create, size, lock).await?;
    let _promise = overcommit::check(export, record.attributes.overcommit, record.capacity).await?;
    make_way(export, &record).await?;
    directory_owners::claim(export, &id).await?;
    record.write(export).await?;
    Ok(Begun::Pending(record))
}

/// The pending record of a volume that may be made.
pub async fn prepare<F: Fs>(export: &Export<F>, create: &Create, size: u64, _lock: &Guard<F>) -> Result<Record> {
    let id = create.id(export)?;
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(&create.name)).await?;
    neighbours.check_nesting(&id.sub_dir)?;
    check_alone(&id, &neighbours)?;
    let capacity = capacity(create, size)?;
    space::check_free(export, capacity).await?;
    let adopted = kept::holds(export, &id.sub_dir, &neighbours).await?;
    Ok(Record { pending: true, attempt: new_attempt(), ..new(create, id, capacity, adopted) })
}

/// Refuses a directory that another volume has.
fn check_alone(id: &VolumeId, neighbours: &Neighbours) -> Result<()> {
    neighbours.check_filled(&id.sub_dir)?;
    let Some(other) = &neighbours.same else { return Ok(()) };
    Err(Error::conflict(
        format!("directory `{}`", id.sub_dir),
        format!("it is volume {}'s, and what it would be filled with has no place there", other.name),
    ))
}

/// What was asked for, but not less than the content's size.
fn capacity(create: &Create, size: u64) -> Result<u64> {
    let chosen = create.capacity.choose();
    let capacity = if chosen == 0 { size } else { chosen };
    if capacity < size {
        return Err(Error::CapacityOutOfRange(format!(
            "{capacity} bytes are asked for, and what the volume is to hold was given {size}; ask for at least as much"
        )));
    }
    Ok(capacity)
}

/// Makes sure that nothing is where the volume will be: an empty directory goes, anything else is somebody's.
async fn make_way<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    let mut names: Vec<Name> = record.id.sub_dir.names().collect();
    let Some(name) = names.pop() else { return Ok(()) };
    let Some(parent) = export.find_dir(&export.fs().root(), names).await? else { return Ok(()) };
    match export.fs().rmdir(&parent, &name).await {
        Ok(()) | Err(Status::NoEnt) => Ok(()),
        Err(Status::NotEmpty | Status::NotDir) => Err(taken(record)),
        Err(status) => Err(export.failed(format!("making way for directory `{}`", record.id.sub_dir), status)),
    }
}

fn taken(record: &Record) -> Error {
    Error::conflict(
        format!("directory `{}`", record.id.sub_dir),
        "something else is there, and a volume that is filled starts with nothing; move it away",
    )
}

/// Refuses a directory in the volume's place, which is not what was staged for it.
///
/// # Errors
/// [`Error::Conflict`].
pub async fn check_free<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    if directory::file_id(export, record).await?.is_some() { Err(taken(record)) } else { Ok(()) }
}

/// Forgets what was staged before, as it is staged anew: its file ID may be given to another directory. Answers the record
/// that is written.
pub async fn begin_anew<F: Fs>(export: &Export<F>, record: Record, name: &VolumeName) -> Result<Record> {
    if record.staged.is_none() {
        return Ok(record);
    }
    let _lock = lock(export, &record.id).await?;
    check_pending(export, &record, name).await?;
    let anew = Record { staged: None, ..record };
    anew.write(export).await?;
    Ok(anew)
}

/// Puts the content, which is called `staged` in staging, into its place, with what the volume's attributes say. Answers the
/// record that is written. The caller holds the volume's lock.
///
/// # Errors
/// [`Error::Interrupted`] where the volume was deleted meanwhile; [`Error::Conflict`] where another volume, or something
/// else, has the directory. Nothing was done then.
pub async fn place<F: Fs>(
    export: &Export<F>,
    record: &Record,
    name: &VolumeName,
    (content, staged): (&F::Handle, &Name),
    _lock: &Guard<F>,
) -> Result<Record> {
    check_pending(export, record, name).await?;
    let neighbours = directory_owners::neighbours(export, &record.id.sub_dir, Some(name)).await?;
    check_alone(&record.id, &neighbours)?;
    check_free(export, record).await?;
    kept::forget(export, &record.id.sub_dir, &neighbours.kept).await?;
    let failed = |status| export.failed(format!("putting directory `{}` in place", record.id.sub_dir), status);
    export.fs().setattr(content, directory::set_attr(record.attributes)).await.map_err(failed)?;
    let fileid = export.fs().getattr(content).await.map_err(failed)?.fileid;
    let record = Record { staged: Some(fileid), ..record.clone() };
    record.write(export).await?;
    let layout = export.make_layout().await?;
    let (parent, last) = directory::make_parent(export, &record.id.sub_dir).await?;
    match export.fs().rename(&layout.staging, staged, &parent, &last).await {
        Err(Status::NotEmpty | Status::Exist | Status::NotDir) => Err(taken(&record)),
        renamed => renamed.map_err(failed).map(|()| record),
    }
}

/// Makes the volume exist, its content being in place. The caller holds the volume's lock.
pub async fn finish<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName, _lock: &Guard<F>) -> Result<Record> {
    check_pending(export, record, name).await?;
    let whole = Record { pending: false, staged: None, attempt: None, ..record.clone() };
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

/// Gives up a volume whose content is not in its place. The caller holds the volume's lock.
pub async fn abandon<F: Fs>(export: &Export<F>, record: &Record, name: &VolumeName, lock: &Guard<F>) -> Result<()> {
    if Record::read(export, name).await?.as_ref() != Some(record) {
        return Ok(());
    }
    forget_volume(export, &record.id, lock).await
}
