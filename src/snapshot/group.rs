//! Creates, reads and deletes groups of snapshots on an export. All snapshots of a group exist, or none.
//!
//! The group's record decides for its snapshots, called members: they exist if the record says `ready`. So one write
//! makes all of them visible.
//!
//! Create: the group's record is written first and says `pending`. Then the members' records are written, and their
//! trees are copied at the same time, each like that of a single snapshot. The last write changes the group's record to
//! `ready`.
//!
//! Delete: a deletion, or a member whose copy fails, changes the group's record to `deleted`. That one write removes
//! all members from view. The record itself is removed last, so that a retry after a crash finds it and continues. If
//! the export is too full to write, the record is removed first: the retried deletion names the members.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::snapshot::group_record::{GroupRecord, Member};
use crate::snapshot::id::{GroupId, SnapshotId};
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::{How, Stage, Tree};
use crate::snapshot::{delete, single};
use crate::volume::id::VolumeName;
use crate::volume::record_file::{RecordFile as _, new_generation, now};

/// A group to create.
#[derive(Debug, Clone)]
pub struct Create {
    /// The group's name.
    pub name: VolumeName,
    /// The identifiers of the source volumes, sorted, each once.
    pub sources: Vec<String>,
}

/// The name of a group's copy job, and of the lock of that job. It has a `#`, which no volume's name has.
pub fn job(name: &VolumeName) -> String {
    format!("#groupcopy#{name}")
}

async fn lock<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Guard<F>> {
    export.lock(&[&GroupRecord::lock_name(name)]).await
}

/// The name of the `n`-th snapshot of a group: `GROUP-n`. A long group name is shortened and gets a hash.
fn member(group: &VolumeName, n: usize) -> Result<VolumeName> {
    let suffix = format!("-{n}");
    if let Ok(name) = VolumeName::parse("name", &format!("{group}{suffix}")) {
        return Ok(name);
    }
    // The hash tells groups apart whose names begin alike.
    let suffix = format!("-{:016x}{suffix}", fnv(group.as_str()));
    let head = group.as_str().floor_char_boundary(VolumeName::MAX - suffix.len());
    VolumeName::parse("name", &format!("{}{suffix}", &group.as_str()[..head]))
}

fn fnv(text: &str) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Finds the group of that name, pending, ready or deleted.
///
/// # Errors
/// [`Error::Conflict`] if the group has other source volumes than `sources` (sorted).
pub async fn find<F: Fs>(export: &Export<F>, name: &VolumeName, sources: &[String]) -> Result<Option<GroupRecord>> {
    let found = GroupRecord::read(export, name).await?;
    if let Some(record) = found.as_ref().filter(|record| record.state != State::Deleted) {
        let own: Vec<&str> = record.members.iter().map(|member| member.source.as_str()).collect();
        if own != sources {
            let reason = format!("it has snapshots of the volumes {}; choose another name", own.join(", "));
            return Err(Error::conflict(format!("group `{name}`"), reason));
        }
    }
    Ok(found)
}

/// Writes the pending records of a group, or finds those of an earlier call (CSI `CreateVolumeGroupSnapshot`).
///
/// `trees` are the trees of the source volumes, in the order of `create.sources`. The returned record is `ready`, or
/// `pending`: then [`fill`] comes next.
///
/// # Errors
/// [`Error::Conflict`] if the name belongs to a group of other volumes, or a member's name to another snapshot;
/// [`Error::Precondition`] if volumes are still backed by a deleted snapshot with a member's name; [`Error::NotFound`]
/// if one of the trees does not exist; [`Error::Invalid`] if the group is too large. An error leaves no new records.
pub async fn begin<F: Fs>(
    export: &Export<F>,
    create: &Create,
    trees: &[Tree<F>],
    mount_options: Vec<String>,
) -> Result<GroupRecord> {
    let lock = lock(export, &create.name).await?;
    let record = match find(export, &create.name, &create.sources).await? {
        Some(record) if record.state == State::Ready => return Ok(record),
        Some(record) if record.state == State::Pending => record,
        deleted => {
            if let Some(deleted) = deleted {
                remove(export, &deleted, &lock).await?;
            }
            for tree in trees {
                tree.check().await?;
            }
            let record = GroupRecord { mount_options, ..new(export, create, trees)? };
            record.check_size()?;
            // A deletion on a full export may have left members without a group record.
            delete_members(export, &record).await?;
            record.write(export).await?;
            record
        }
    };
    if let Err(error) = begin_members(export, &record).await {
        remove(export, &record, &lock).await?;
        return Err(error);
    }
    Ok(record)
}

fn new<F: Fs>(export: &Export<F>, create: &Create, trees: &[Tree<F>]) -> Result<GroupRecord> {
    let of = |(n, (source, tree)): (usize, (&String, &Tree<F>))| {
        Ok(Member { snapshot: member(&create.name, n)?, source: source.clone(), size: tree.size })
    };
    Ok(GroupRecord {
        id: GroupId { export: export.source().clone(), name: create.name.clone() },
        members: create.sources.iter().zip(trees).enumerate().map(of).collect::<Result<_>>()?,
        mount_options: Vec::new(),
        state: State::Pending,
        created: now(),
        generation: new_generation(),
    })
}

async fn begin_members<F: Fs>(export: &Export<F>, group: &GroupRecord) -> Result<()> {
    for member in &group.members {
        let record = Record {
            id: group.snapshot_id(member),
            source: member.source.clone(),
            size: member.size,
            created: group.created,
            mount_options: group.mount_options.clone(),
            group: Some(group.id.name.clone()),
            state: State::Pending,
            generation: group.generation,
        };
        single::begin_member(export, &record).await?;
    }
    Ok(())
}

/// Copies the trees of a pending group, all at the same time, and changes the record to `ready`. If one copy fails,
/// gives the whole group up.
///
/// # Errors
/// As [`single::fill`], for the member that failed first; [`Error::Interrupted`] if the group was deleted during the
/// copy.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName, trees: &[Tree<F>], how: &How) -> Result<()> {
    // Only one controller copies at a time: if another controller's copy fails, it deletes the members.
    let job = job(name);
    let names = [job.as_str()];
    let _copying = tokio::select! {
        lock = export.lock(&names) => lock?,
        () = how.cancel.cancelled() => {
            return Err(Error::Interrupted(format!(
                "waiting for another controller's copy of group `{name}` was interrupted; call again"
            )));
        }
    };
    let record = match GroupRecord::read(export, name).await? {
        Some(record) if record.state == State::Ready => return Ok(()),
        Some(record) if record.state == State::Pending => record,
        _ => return Err(deleted(name)),
    };
    let sizes = match fill_members(export, &record, trees, how).await {
        Ok(sizes) => sizes,
        Err(error) => {
            if !how.ending.is_cancelled() {
                give_up(export, &record).await?;
            }
            return Err(error);
        }
    };
    let _lock = lock(export, name).await?;
    if GroupRecord::read(export, name).await?.as_ref() != Some(&record) {
        return Err(deleted(name));
    }
    let mut ready = GroupRecord { state: State::Ready, ..record };
    ready.members.iter_mut().zip(sizes).for_each(|(member, size)| member.size = size);
    ready.write(export).await
}

/// Copies the trees of the members. Returns the sizes of the snapshots in bytes.
async fn fill_members<F: Fs>(
    export: &Arc<Export<F>>,
    record: &GroupRecord,
    trees: &[Tree<F>],
    how: &How,
) -> Result<Vec<u64>> {
    let mut how = How { cancel: how.cancel.child_token(), ..how.clone() };
    // One turn for all members.
    let _turn = how.place.turn(&how.cancel).await;
    // All members together put the load of one copy on the server.
    how.options.in_flight = how.options.in_flight.div_ceil(record.members.len().max(1));
    let copy = async |(member, tree): (&Member, &Tree<F>)| {
        let copy = async {
            let stage = Stage::take(export, &crate::snapshot::lock::job(&member.snapshot), &how.cancel).await?;
            single::fill_in(stage, &member.snapshot, tree, &how).await
        };
        let copied = copy.await;
        if copied.is_err() {
            how.cancel.cancel();
        }
        copied
    };
    let copied = join_all(record.members.iter().zip(trees).map(copy)).await;
    let errors: Vec<&Error> = copied.iter().filter_map(|copied| copied.as_ref().err()).collect();
    // The first failure interrupts the other copies, so their errors do not tell the cause.
    match errors.iter().find(|error| !matches!(error, Error::Interrupted(_))).or(errors.first()) {
        Some(&cause) => Err(cause.clone()),
        None => copied.into_iter().collect(),
    }
}

fn deleted(name: &VolumeName) -> Error {
    Error::Interrupted(format!("group `{name}` was deleted while it was being created"))
}

/// Deletes the pending group of that record. Does nothing if the record has changed.
pub async fn give_up<F: Fs>(export: &Export<F>, record: &GroupRecord) -> Result<()> {
    let lock = lock(export, &record.id.name).await?;
    match GroupRecord::read(export, &record.id.name).await? {
        Some(now) if now == *record => remove(export, record, &lock).await,
        _ => Ok(()),
    }
}

/// Reads a group, pending or ready, that must exist (CSI `GetVolumeGroupSnapshot`).
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<GroupRecord> {
    let record = GroupRecord::read(export, name).await?.filter(|record| record.state != State::Deleted);
    let reason = || format!("{} has no record of it", export.source());
    record.ok_or_else(|| Error::not_found(format!("group `{name}`"), reason()))
}

/// Deletes a group and its snapshots (CSI `DeleteVolumeGroupSnapshot`). Succeeds if the group does not exist.
///
/// # Errors
/// [`Error::Invalid`] if `snapshots` are not exactly the group's snapshots.
pub async fn delete<F: Fs>(export: &Export<F>, name: &VolumeName, snapshots: &[String]) -> Result<()> {
    if export.layout().await?.is_none() {
        return Ok(());
    }
    let lock = lock(export, name).await?;
    match GroupRecord::read(export, name).await? {
        Some(record) => {
            record.check_members(snapshots)?;
            remove(export, &record, &lock).await
        }
        // An earlier call on a full export may have removed the group's record, and not yet its members.
        None => {
            for id in snapshots.iter().filter_map(|id| SnapshotId::parse(id).ok()) {
                if id.export() == *export.source() {
                    delete::delete_member(export, &id.name, name).await?;
                }
            }
            Ok(())
        }
    }
}

/// Finishes a deletion that was interrupted. Does nothing to a group that is not deleted.
pub async fn finish_deletion<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let lock = lock(export, name).await?;
    match GroupRecord::read(export, name).await? {
        Some(record) if record.state == State::Deleted => remove(export, &record, &lock).await,
        _ => Ok(()),
    }
}

async fn remove<F: Fs>(export: &Export<F>, record: &GroupRecord, _lock: &Guard<F>) -> Result<()> {
    if record.state != State::Deleted {
        match (GroupRecord { state: State::Deleted, ..record.clone() }).write(export).await {
            // A deletion must succeed on a full export. Without the group's record, the members do not exist either.
            Err(error) if delete::is_full(&error) => GroupRecord::remove(export, &record.id.name).await?,
            written => written?,
        }
    }
    delete_members(export, record).await?;
    GroupRecord::remove(export, &record.id.name).await
}

async fn delete_members<F: Fs>(export: &Export<F>, record: &GroupRecord) -> Result<()> {
    for member in &record.members {
        delete::delete_member(export, &member.snapshot, &record.id.name).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_belong_to_one_group_only() {
        let name = |text: &str| VolumeName::parse("", text).unwrap();
        assert_eq!(member(&name("g"), 1).unwrap().as_str(), "g-1");
        let (one, two) = (name(&"é".repeat(64)), name(&format!("{}ab", "é".repeat(63))));
        assert_ne!(member(&one, 0).unwrap(), member(&two, 0).unwrap());
        assert_ne!(member(&one, 0).unwrap(), member(&one, 1).unwrap());
    }
}
