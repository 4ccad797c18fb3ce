//! Creates one snapshot on its export: [`begin`], [`fill`], [`give_up`].
//!
//! [`begin`] writes a record that says `pending`. [`fill`] copies the tree in staging without holding the record's
//! lock. Under the lock it then renames the tree to its place beside the record, and changes the record to `ready`.
//!
//! [`begin`] clears the tree's place before it writes the pending record. So a tree beside a pending record is the
//! complete copy of an earlier call.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::owner_access;
use crate::snapshot::delete::{delete_locked, discard_parts, make_way};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::lock::{job, lock};
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::{How, Stage, Tree};
use crate::volume::id::VolumeName;
use crate::volume::record_file::{RecordFile as _, new_generation, now};

/// A snapshot to create.
#[derive(Debug, Clone)]
pub struct Create {
    /// The snapshot's name.
    pub name: VolumeName,
    /// The identifier of the source volume.
    pub source: String,
}

/// Finds the snapshot of that name, pending, ready or deleted.
///
/// # Errors
/// [`Error::Conflict`] if the snapshot has another source volume than `source`, or belongs to a group.
pub async fn find<F: Fs>(export: &Export<F>, name: &VolumeName, source: &str) -> Result<Option<Record>> {
    match Record::read(export, name).await? {
        Some(record) if record.source != source && record.state != State::Deleted => Err(Error::conflict(
            format!("snapshot `{name}`"),
            format!(
                "it is a snapshot of volume `{}`, and a snapshot of `{source}` is requested; choose another name",
                record.source
            ),
        )),
        Some(Record { group: Some(group), state, .. }) if state != State::Deleted => {
            let reason = format!("it belongs to group `{group}`; choose another name");
            Err(Error::conflict(format!("snapshot `{name}`"), reason))
        }
        found => Ok(found),
    }
}

/// Writes the pending record of a snapshot of `tree`, or finds the record of an earlier call (CSI `CreateSnapshot`).
///
/// The controller mounts the export with `mount_options`. The returned record is `ready`, or `pending`: then [`fill`]
/// comes next.
///
/// # Errors
/// As [`find`]; [`Error::Precondition`] if volumes are still backed by a deleted snapshot of that name;
/// [`Error::NotFound`] if `tree` does not exist.
pub async fn begin<F: Fs>(
    export: &Export<F>,
    create: &Create,
    tree: &Tree<F>,
    mount_options: Vec<String>,
) -> Result<Record> {
    let lock = lock(export, &create.name).await?;
    match find(export, &create.name, &create.source).await? {
        Some(record) if record.state == State::Deleted => make_way(export, &create.name, &lock).await?,
        Some(record) => return Ok(record),
        None => {}
    }
    tree.check().await?;
    discard_parts(export, &create.name).await?;
    let record = Record {
        id: SnapshotId::new(export.source(), create.name.clone()),
        source: create.source.clone(),
        size: tree.size,
        created: now(),
        mount_options,
        group: None,
        state: State::Pending,
        generation: new_generation(),
    };
    record.write(export).await?;
    Ok(record)
}

/// Writes the pending record of a group's snapshot, unless an earlier call did. The caller holds the group's lock.
///
/// # Errors
/// [`Error::Conflict`] if another snapshot has the name; [`Error::Precondition`] if volumes are still backed by a
/// deleted snapshot of that name.
pub(super) async fn begin_member<F: Fs>(export: &Export<F>, member: &Record) -> Result<()> {
    let name = &member.id.name;
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(record) if record.state == State::Deleted => make_way(export, name, &lock).await?,
        Some(record) if record.group == member.group && record.source == member.source => return Ok(()),
        Some(record) => {
            let reason = format!(
                "it is a snapshot of volume `{}` and does not belong to this group; choose another name for the group",
                record.source
            );
            return Err(Error::conflict(format!("snapshot `{name}`"), reason));
        }
        None => {}
    }
    discard_parts(export, name).await?;
    member.write(export).await
}

/// Copies `tree` for a pending snapshot, and changes the record to `ready`. If the copy fails, gives the snapshot up.
///
/// Returns the snapshot's size in bytes: the volume's size, or what was copied if the volume's size is not known.
///
/// # Errors
/// As [`Stage::fill`]; [`Error::Interrupted`] if the snapshot was deleted during the copy.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName, tree: &Tree<F>, how: &How) -> Result<u64> {
    let stage = Stage::take(export, &job(name), &how.cancel).await?;
    let _turn = how.place.turn(&how.cancel).await;
    fill_in(stage, name, tree, how).await
}

/// Like [`fill`], in the snapshot's staging directory.
pub(super) async fn fill_in<F: Fs>(stage: Stage<F>, name: &VolumeName, tree: &Tree<F>, how: &How) -> Result<u64> {
    let export = stage.export();
    let mut record = match Record::read(export, name).await? {
        Some(record) if record.state == State::Ready => return Ok(record.size),
        Some(record) if record.state == State::Pending => record,
        _ => return Err(deleted(name)),
    };
    let (layout, placed) = (export.make_layout().await?, Record::tree(name)?);
    let in_place = export.find(&layout.snapshots, &placed).await?.is_some();
    let copied = match in_place {
        true => None,
        false => match stage.fill(tree, how).await {
            Ok((_, size)) => Some(size),
            Err(error) => {
                stage.discard().await?;
                if !how.ending.is_cancelled() {
                    give_up(export, &record).await?;
                }
                return Err(error);
            }
        },
    };
    let _lock = lock(export, name).await?;
    if Record::read(export, name).await?.as_ref() != Some(&record) {
        stage.discard().await?;
        return Err(deleted(name));
    }
    if let Some(size) = copied {
        // The volume may be another one than when the record was written, or may have been expanded.
        if record.size != size {
            // Before the rename: a retry that finds the tree in place counts nothing.
            record.size = size;
            record.write(export).await?;
        }
        let (from, to) = ((&layout.staging, stage.name()), (&layout.snapshots, &placed));
        let renamed = owner_access::rename(export.fs(), from, to).await;
        renamed.map_err(|e| export.failed(format!("renaming snapshot `{name}` into place"), e))?;
    }
    let size = record.size;
    Record { state: State::Ready, ..record }.write(export).await?;
    Ok(size)
}

fn deleted(name: &VolumeName) -> Error {
    Error::Interrupted(format!("snapshot `{name}` was deleted while it was being created"))
}

/// Deletes the pending snapshot of that record. Does nothing if the record has changed.
pub async fn give_up<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    let name = &record.id.name;
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(now) if now == *record => delete_locked(export, name, Some(now), &lock).await,
        _ => Ok(()),
    }
}
