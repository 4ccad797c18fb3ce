//! Groups of snapshots on an export, all of them or none: create, get, delete.
//!
//! The group's record decides for its members: they are there when it says `ready`, and that one write makes them so, all at
//! once. It comes first and says `pending`, then come the members' records; their trees are copied at the same time, each as
//! that of a snapshot of its own. A deletion, or a member that fails, turns it to `deleted`, which takes all of them away at
//! once; it is removed when nothing of them is left. Who finds it goes on where a crash cut that short. (Where there is no room
//! to write that, it is removed first; a repeated deletion is told the members, and finds what is left of them.)

use std::sync::Arc;

use futures_util::future::join_all;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::snapshot::group_record::{GroupRecord, Member};
use crate::snapshot::id::{GroupId, SnapshotId};
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::{How, Tree};
use crate::snapshot::{delete, single};
use crate::volume::id::VolumeName;
use crate::volume::record_file::{RecordFile as _, new_attempt, now};

/// A group to be made.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its name.
    pub name: VolumeName,
    /// The identifiers of the volumes that it is of, sorted, each once.
    pub sources: Vec<String>,
}

/// What the copying of a group is called, and its lock. (No volume's name has a `#`.)
pub fn job(name: &VolumeName) -> String {
    format!("#groupcopy#{name}")
}

async fn lock<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Guard<F>> {
    export.lock(&[&GroupRecord::lock_name(name)]).await
}

/// What the `n`-th snapshot of a group is called: after the group, as far as a name has room for that.
fn member(group: &VolumeName, n: usize) -> Result<VolumeName> {
    let suffix = format!("-{n}");
    if let Ok(name) = VolumeName::parse("name", &format!("{group}{suffix}")) {
        return Ok(name);
    }
    // The hash tells it from that of a group whose name begins alike.
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

/// The group of that name, pending, ready or deleted; `None` where there is none.
///
/// # Errors
/// [`Error::Conflict`] where it is of other volumes than `sources` (sorted).
pub async fn find<F: Fs>(export: &Export<F>, name: &VolumeName, sources: &[String]) -> Result<Option<GroupRecord>> {
    let found = GroupRecord::read(export, name).await?;
    if let Some(record) = found.as_ref().filter(|record| record.state != State::Deleted) {
        let own: Vec<&str> = record.members.iter().map(|member| member.source.as_str()).collect();
        if own != sources {
            let reason = format!("it is of the volumes {}; choose another name", own.join(", "));
            return Err(Error::conflict(format!("group `{name}`"), reason));
        }
    }
    Ok(found)
}

/// Begins a group, or finds the one that an earlier call began (CSI `CreateVolumeGroupSnapshot`): pending, to be filled, or
/// ready. `trees` are those of the volumes, in their order.
///
/// # Errors
/// [`Error::Conflict`] where the name is that of a group of other volumes, or a member's that of another snapshot;
/// [`Error::NotFound`] where one of the trees is not there. Nothing of the group stays then.
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
            // What a deletion left that could not say so.
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
        attempt: new_attempt(),
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
            attempt: group.attempt,
        };
        single::begin_member(export, &record).await?;
    }
    Ok(())
}

/// Copies the trees of a group that is pending, all at the same time, and makes it ready. Where one cannot be copied, all are
/// given up.
///
/// # Errors
/// As [`single::fill`], of the member that failed first; [`Error::Interrupted`] where the group was deleted meanwhile.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName, trees: &[Tree<F>], how: &How) -> Result<()> {
    // One controller at a time: another one's failure would be this one's.
    let job = job(name);
    let names = [job.as_str()];
    let _copying = tokio::select! {
        lock = export.lock(&names) => lock?,
        () = how.cancel.cancelled() => {
            return Err(Error::Interrupted(format!("waiting for group `{name}`, which another controller copies, was broken off; call again")));
        }
    };
    let record = match GroupRecord::read(export, name).await? {
        Some(record) if record.state == State::Ready => return Ok(()),
        Some(record) if record.state == State::Pending => record,
        _ => return Err(deleted(name)),
    };
    if let Err(error) = fill_members(export, &record, trees, how).await {
        if !how.ending.is_cancelled() {
            give_up(export, &record).await?;
        }
        return Err(error);
    }
    let _lock = lock(export, name).await?;
    if GroupRecord::read(export, name).await?.as_ref() != Some(&record) {
        return Err(deleted(name));
    }
    GroupRecord { state: State::Ready, attempt: None, ..record }.write(export).await
}

async fn fill_members<F: Fs>(
    export: &Arc<Export<F>>,
    record: &GroupRecord,
    trees: &[Tree<F>],
    how: &How,
) -> Result<()> {
    let mut how = How { cancel: how.cancel.child_token(), ..how.clone() };
    // Together they are one copy to the server.
    how.options.in_flight = how.options.in_flight.div_ceil(record.members.len().max(1));
    let copy = async |(member, tree): (&Member, &Tree<F>)| {
        let copied = single::fill(export, &member.snapshot, tree, &how).await;
        if copied.is_err() {
            how.cancel.cancel();
        }
        copied
    };
    let errors: Vec<Error> =
        join_all(record.members.iter().zip(trees).map(copy)).await.into_iter().filter_map(Result::err).collect();
    // Those that were broken off for it say less.
    let cause = errors.iter().find(|error| !matches!(error, Error::Interrupted(_))).or(errors.first());
    cause.cloned().map_or(Ok(()), Err)
}

fn deleted(name: &VolumeName) -> Error {
    Error::Interrupted(format!("group `{name}` was deleted while it was made"))
}

/// Gives up a pending group.
pub async fn give_up<F: Fs>(export: &Export<F>, record: &GroupRecord) -> Result<()> {
    let lock = lock(export, &record.id.name).await?;
    match GroupRecord::read(export, &record.id.name).await? {
        Some(now) if now == *record => remove(export, record, &lock).await,
        _ => Ok(()),
    }
}

/// The group, pending or ready (CSI `GetVolumeGroupSnapshot`).
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<GroupRecord> {
    let record = GroupRecord::read(export, name).await?.filter(|record| record.state != State::Deleted);
    let reason = || format!("{} has no record of it", export.source());
    record.ok_or_else(|| Error::not_found(format!("group `{name}`"), reason()))
}

/// Deletes a group with these snapshots, which are all of its (CSI `DeleteVolumeGroupSnapshot`). One that is not there is
/// deleted.
///
/// # Errors
/// [`Error::Invalid`] where these are not its snapshots.
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
        // An earlier call may have come no further.
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

/// Finishes the deletion of a group that was cut short.
pub async fn finish_deletion<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let lock = lock(export, name).await?;
    match GroupRecord::read(export, name).await? {
        Some(record) if record.state == State::Deleted => remove(export, &record, &lock).await,
        _ => Ok(()),
    }
}

async fn remove<F: Fs>(export: &Export<F>, record: &GroupRecord, _lock: &Guard<F>) -> Result<()> {
    if record.state != State::Deleted {
        match (GroupRecord { state: State::Deleted, attempt: None, ..record.clone() }).write(export).await {
            // A full export must not keep anything from going: without the record the members are as gone.
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
    fn members_are_called_after_their_group_and_after_no_other_one() {
        let name = |text: &str| VolumeName::parse("", text).unwrap();
        assert_eq!(member(&name("g"), 1).unwrap().as_str(), "g-1");
        let (one, two) = (name(&"é".repeat(64)), name(&format!("{}ab", "é".repeat(63))));
        assert_ne!(member(&one, 0).unwrap(), member(&two, 0).unwrap());
        assert_ne!(member(&one, 0).unwrap(), member(&one, 1).unwrap());
    }
}
