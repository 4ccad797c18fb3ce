//! A snapshot on its export: begun, filled, given up.
//!
//! The record comes first and says `pending`; the tree is copied in staging without the record's lock, then, under it,
//! renamed beside the record, which is made final. The tree was not there when the pending record was written: where it is
//! found beside one, an earlier call put it there, whole.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::snapshot::delete::{delete_locked, discard_parts, make_way};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::lock::{job, lock};
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::{How, Stage, Tree};
use crate::volume::id::VolumeName;
use crate::volume::record_file::{RecordFile as _, new_attempt, now};

/// A snapshot to be made.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its name.
    pub name: VolumeName,
    /// The identifier of the volume that it is of.
    pub source: String,
}

/// The snapshot of that name, pending, ready or deleted; `None` where there is none.
///
/// # Errors
/// [`Error::Conflict`] where it is of another volume than `source`, or of a group.
pub async fn find<F: Fs>(export: &Export<F>, name: &VolumeName, source: &str) -> Result<Option<Record>> {
    match Record::read(export, name).await? {
        Some(record) if record.source != source && record.state != State::Deleted => Err(Error::conflict(
            format!("snapshot `{name}`"),
            format!("it is of volume `{}`, and one of `{source}` is asked for now; choose another name", record.source),
        )),
        Some(Record { group: Some(group), state, .. }) if state != State::Deleted => {
            Err(Error::conflict(format!("snapshot `{name}`"), format!("it is of group `{group}`; choose another name")))
        }
        found => Ok(found),
    }
}

/// Begins a snapshot of `tree`, or finds the one that an earlier call began (CSI `CreateSnapshot`): pending, to be filled,
/// or ready. `mount_options` are those that the controller mounts the export with.
///
/// # Errors
/// [`Error::Conflict`] where the name is that of a snapshot of another volume; [`Error::Precondition`] where it is that of a
/// deleted one, which volumes show; [`Error::NotFound`] where there is no such tree.
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
        attempt: new_attempt(),
    };
    record.write(export).await?;
    Ok(record)
}

/// Begins the snapshot of a group that is pending, unless an earlier call did. The caller holds the group's lock.
///
/// # Errors
/// [`Error::Conflict`] where another snapshot has the name; [`Error::Precondition`] where a deleted one has, which volumes
/// show.
pub(super) async fn begin_member<F: Fs>(export: &Export<F>, member: &Record) -> Result<()> {
    let name = &member.id.name;
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(record) if record.state == State::Deleted => make_way(export, name, &lock).await?,
        Some(record) if record.group == member.group && record.source == member.source => return Ok(()),
        Some(record) => {
            let reason = format!("it is of volume `{}`, and not of this group; choose another name", record.source);
            return Err(Error::conflict(format!("snapshot `{name}`"), reason));
        }
        None => {}
    }
    discard_parts(export, name).await?;
    member.write(export).await
}

/// Copies the tree of a snapshot that is pending, and makes it ready. One that cannot be copied is given up.
///
/// # Errors
/// As [`Stage::fill`]; [`Error::Interrupted`] where the snapshot was deleted meanwhile.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName, tree: &Tree<F>, how: &How) -> Result<()> {
    let stage = Stage::take(export, &job(name), &how.cancel).await?;
    let record = match Record::read(export, name).await? {
        Some(record) if record.state == State::Ready => return Ok(()),
        Some(record) if record.state == State::Pending => record,
        _ => return Err(deleted(name)),
    };
    let (layout, placed) = (export.make_layout().await?, Record::tree(name)?);
    let in_place = export.find(&layout.snapshots, &placed).await?.is_some();
    if !in_place && let Err(error) = stage.fill(tree, how).await {
        stage.discard().await?;
        if !how.ending.is_cancelled() {
            give_up(export, &record).await?;
        }
        return Err(error);
    }
    let _lock = lock(export, name).await?;
    if Record::read(export, name).await?.as_ref() != Some(&record) {
        stage.discard().await?;
        return Err(deleted(name));
    }
    if !in_place {
        let renamed = export.fs().rename(&layout.staging, stage.name(), &layout.snapshots, &placed).await;
        renamed.map_err(|e| export.failed(format!("putting snapshot `{name}` in place"), e))?;
    }
    Record { state: State::Ready, attempt: None, ..record }.write(export).await
}

fn deleted(name: &VolumeName) -> Error {
    Error::Interrupted(format!("snapshot `{name}` was deleted while it was made"))
}

/// Gives up a pending snapshot.
pub async fn give_up<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
    let name = &record.id.name;
    let lock = lock(export, name).await?;
    match Record::read(export, name).await? {
        Some(now) if now == *record => delete_locked(export, name, Some(now), &lock).await,
        _ => Ok(()),
    }
}
