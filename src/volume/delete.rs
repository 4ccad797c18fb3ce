//! Deletes volumes (CSI `DeleteVolume`). The volume's directory is moved to the trash, kept, or archived.

use uuid::Uuid;

use crate::error::Result;
use crate::export::emptying::Leaving;
use crate::export::fs::{Fs, Kind, LockMode, Name, Status};
use crate::export::locks::Guard;
use crate::export::{Export, owner_access, trash};
use crate::nfs::source::SubDir;
use crate::volume::claims::{self, Way};
use crate::volume::directory_owners::{self, Neighbours};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lock::lock_archives;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::ARCHIVED;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory, kept, overcommit};

/// After this many archives of one directory, the next archive gets a random suffix.
const ARCHIVES: u32 = 100;

/// The driver's flags for deletion.
#[derive(Debug, Clone, Copy)]
pub struct DeletePolicy {
    /// `--default-ondelete-policy`: the policy if neither the record nor the identifier has one.
    pub default: OnDelete,
    /// `--remove-archived-volume-path`: whether an archive replaces an earlier archive of the same name.
    pub replace_archive: bool,
}

/// Whether the export has neither the driver's private directory nor the volume's directory. Then there is nothing to
/// delete and nothing to lock.
pub async fn is_gone<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<bool> {
    Ok(export.layout().await?.is_none()
        && match export.despite_removals(|| place(export, &id.sub_dir)).await?.at {
            Some((dir, name)) => export.find(&dir, &name).await?.is_none(),
            None => true,
        })
}

/// What a deletion finds of a volume.
pub struct Found<F: Fs> {
    /// The volume's own record.
    pub record: Option<Record>,
    /// The volumes with directories that overlap with the volume's, other than the one that has the volume's name.
    neighbours: Result<Neighbours<F>>,
}

/// Finds what [`delete`] needs to know of a volume.
pub async fn find<F: Fs>(export: &Export<F>, id: &VolumeId, lock: &Guard<F>) -> Result<Found<F>> {
    // What a volume that is backed by a snapshot does not need is read at the same time.
    let (record, neighbours) = match id.name() {
        Some(name) => directory_owners::record_and_neighbours(export, &name, &id.sub_dir, lock).await,
        None => (Ok(None), directory_owners::neighbours(export, &id.sub_dir, None, lock).await),
    };
    Ok(Found { record: record?.filter(|record| record.id.sub_dir == id.sub_dir), neighbours })
}

/// Deletes a volume, as it was found under the same lock. Succeeds if the volume does not exist. Does not delete a volume
/// that is backed by a snapshot, but returns its record: the caller deletes the volume together with what the snapshot has
/// noted of it.
///
/// # Errors
/// [`Error::Precondition`](crate::error::Error::Precondition) if the directory is inside another volume's directory or
/// contains one.
pub async fn delete<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    policy: DeletePolicy,
    Found { record, neighbours }: Found<F>,
    lock: &Guard<F>,
) -> Result<Option<Record>> {
    let name = id.name();
    if record.as_ref().is_some_and(|record| record.backing_snapshot.is_some()) {
        return Ok(record);
    }
    // Without a record of its own, the volume's name may belong to a volume with another directory. That volume is a
    // neighbour like any other.
    let me = if record.is_some() { name.as_ref() } else { None };
    let neighbours = match me == name.as_ref() {
        true => neighbours?,
        false => directory_owners::neighbours(export, &id.sub_dir, None, lock).await?,
    };
    neighbours.check_nesting(&id.sub_dir)?;
    match fate(export, id, record.as_ref(), policy, &neighbours).await? {
        Fate::Kept if directory::find(export, &id.sub_dir).await?.is_some() => {
            kept::keep(export, id, record.as_ref(), lock).await?;
            return Ok(None);
        }
        Fate::Untouched if directory::find(export, &id.sub_dir).await?.is_some() => return Ok(None),
        // The directory that was to be kept is gone, and so the kept records are of no use.
        Fate::Kept | Fate::Untouched => kept::forget(export, &id.sub_dir, &neighbours.kept).await?,
        Fate::Shared => {
            let own: Vec<VolumeName> = neighbours.kept.iter().filter(|kept| me == Some(kept)).cloned().collect();
            kept::forget(export, &id.sub_dir, &own).await?;
        }
        Fate::Removed(How::Trashed)
            if let Some(name) = me
                && neighbours.kept.is_empty()
                && discard_and_forget(export, id, name).await? =>
        {
            claims::release(export, id, Some(&neighbours.way)).await?;
            return Ok(None);
        }
        Fate::Removed(how) => {
            remove(export, id, how, record.is_some()).await?;
            kept::forget(export, &id.sub_dir, &neighbours.kept).await?;
        }
    }
    if record.is_some() {
        forget_volume(export, id, Some(&neighbours.way), lock).await?;
    } else {
        // An earlier call may have been interrupted after it removed the record.
        claims::release(export, id, Some(&neighbours.way)).await?;
    }
    Ok(None)
}

/// What happens to a volume's directory.
enum Fate {
    /// The directory stays, and the volume's record becomes a kept record.
    Kept,
    /// The directory stays: other volumes have it, or it was never this volume's.
    Shared,
    /// The directory stays: it was kept before, or it is inside a directory that was kept.
    Untouched,
    /// The directory is removed from its place.
    Removed(How),
}

/// How a directory is removed from its place.
#[derive(Clone, Copy)]
enum How {
    Trashed,
    Archived {
        /// Whether the archive replaces an earlier archive of the same name.
        replaces: bool,
    },
}

async fn fate<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    record: Option<&Record>,
    policy: DeletePolicy,
    neighbours: &Neighbours<F>,
) -> Result<Fate> {
    let of = |on_delete| match on_delete {
        OnDelete::Retain => Fate::Kept,
        _ if neighbours.same.is_some() => Fate::Shared,
        OnDelete::Archive => Fate::Removed(How::Archived { replaces: policy.replace_archive }),
        OnDelete::Delete => Fate::Removed(How::Trashed),
    };
    let stays = |why: &str| {
        let (directory, export) = (&id.sub_dir, export.source());
        tracing::warn!(volume = %id, %export, %directory, "the directory of a deleted volume is kept: {why}");
    };
    let on_delete = match record {
        // Nobody ever used a pending volume, so its content is deleted whatever the policy. But a directory that was
        // not staged for the volume belongs to somebody else.
        Some(record) if record.pending => {
            return Ok(if directory::is_placed(export, record).await? { of(OnDelete::Delete) } else { Fate::Shared });
        }
        // This call is a retry or late: the decision that was made when the volume was deleted holds.
        None if !neighbours.kept.is_empty() || neighbours.kept_above.is_some() => return Ok(Fate::Untouched),
        None => id.on_delete.unwrap_or(policy.default),
        Some(record) => record.attributes.on_delete.or(id.on_delete).unwrap_or(policy.default),
    };
    let explicit = record.is_none_or(|record| record.explicit_on_delete().is_some());
    if on_delete != OnDelete::Retain {
        if let Some(inside) = &neighbours.kept_below {
            stays(&format!(
                "it contains directory `{inside}`, which was kept when its volume was deleted; move `{inside}` away \
                 before you remove this directory by hand"
            ));
            return Ok(Fate::Kept);
        }
        if !explicit && record.is_some_and(|record| record.adopted) {
            stays(
                "it existed before its first volume, and neither the StorageClass nor a VolumeAttributesClass sets \
                 onDelete; if you do not need it, remove it by hand",
            );
            return Ok(Fate::Kept);
        }
        if !explicit && !neighbours.kept.is_empty() {
            stays(
                "it was kept when an earlier volume was deleted, and neither the StorageClass nor a \
                 VolumeAttributesClass sets onDelete; if you do not need it, remove it by hand",
            );
            return Ok(Fate::Kept);
        }
    }
    Ok(of(on_delete))
}

/// Removes a volume's directory, if it exists, and the parent directories that are empty then.
async fn remove<F: Fs>(export: &Export<F>, id: &VolumeId, how: How, recorded: bool) -> Result<()> {
    let move_away = || async move {
        let place = place(export, &id.sub_dir).await?;
        let moved = match (&place.at, how) {
            (Some((dir, name)), How::Archived { replaces }) => {
                archive(export, dir, name, &id.sub_dir, replaces).await?
            }
            (Some((dir, name)), How::Trashed) => trash::discard(export, dir, name).await?,
            (None, _) => false,
        };
        Ok((place, moved))
    };
    // Only a deletion that removes the parents for certain is one that others may leave them to.
    let above = directory::above(&id.sub_dir).filter(|_| recorded);
    let leaving = above.map(|above| export.emptying.begin(above.to_owned()));
    let (place, moved) = export.despite_removals(move_away).await?;
    // With a record, even if the directory is gone: an earlier call may have been interrupted before it removed the
    // parents.
    let removes = leaving.map_or(moved, Leaving::leave);
    if removes { remove_empty(export, &place.parents).await } else { Ok(()) }
}

/// Moves a volume's directory into the trash and removes the record, both in one request where the client can. Returns
/// whether both is done. If not, the caller goes on step by step. So it does for a directory that is not directly in the
/// share: without the record, a retry would leave those above it.
async fn discard_and_forget<F: Fs>(export: &Export<F>, id: &VolumeId, name: &VolumeName) -> Result<bool> {
    let (above, directory) = directory::split(&id.sub_dir)?;
    if !above.is_empty() {
        return Ok(false);
    }
    let change = overcommit::begin(export, name, None, 0).await?;
    let forget = Record::removal(export, name).await?;
    let done = trash::discard_and(export, &export.fs().root(), &directory, forget).await?;
    change.end(export).await?;
    Ok(done)
}

/// Removes a volume's record and its claim on its directory. `way` is what the caller has seen of the way to the claim.
pub async fn forget_volume<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    way: Option<&Way<F>>,
    _lock: &Guard<F>,
) -> Result<()> {
    if let Some(name) = id.name() {
        remove_record(export, &name).await?;
    }
    claims::release(export, id, way).await
}

async fn remove_record<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let change = overcommit::begin(export, name, None, 0).await?;
    Record::remove(export, name).await?;
    change.end(export).await
}

/// Removes a volume that was just created and that nobody has used. Removes its directory if that is empty and belongs
/// to no other volume.
pub(super) async fn undo<F: Fs>(export: &Export<F>, id: &VolumeId, name: &VolumeName, lock: &Guard<F>) -> Result<()> {
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(name), lock).await?;
    remove_record(export, name).await?;
    if neighbours.same.is_none() && neighbours.kept.is_empty() {
        let place = export.despite_removals(|| place(export, &id.sub_dir)).await?;
        let made: Vec<_> = place.parents.into_iter().chain(place.at).collect();
        remove_empty(export, &made).await?;
    }
    claims::release(export, id, Some(&neighbours.way)).await
}

/// The place of a directory, which may or may not exist.
struct Place<F: Fs> {
    /// The existing directories on the path, each as the directory that contains it and its name there.
    parents: Vec<(F::Handle, Name)>,
    /// The containing directory and the name there; `None` if the containing directory does not exist.
    at: Option<(F::Handle, Name)>,
}

async fn place<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<Place<F>> {
    let mut place = Place { parents: Vec::new(), at: None };
    let mut names: Vec<Name> = sub_dir.names().collect();
    let Some(name) = names.pop() else { return Ok(place) };
    let mut dir = export.fs().root();
    for parent in names {
        let Some(next) = export.find_dir(&dir, [parent.clone()]).await? else { return Ok(place) };
        place.parents.push((dir, parent));
        dir = next;
    }
    place.at = Some((dir, name));
    Ok(place)
}

/// Renames a directory to `archived-…`. Returns whether it existed.
async fn archive<F: Fs>(
    export: &Export<F>,
    from_dir: &F::Handle,
    from: &Name,
    sub_dir: &SubDir,
    replace: bool,
) -> Result<bool> {
    if export.find(from_dir, from).await?.is_none() {
        return Ok(false);
    }
    let failed = |status| export.failed(format!("archiving directory `{sub_dir}`"), status);
    let first = Name::new(format!("{ARCHIVED}{}", sub_dir.first())).map_err(failed)?;
    let mut names: Vec<Name> = [first].into_iter().chain(sub_dir.names().skip(1)).collect();
    let name = names.pop().ok_or_else(|| failed(Status::Inval))?;
    let mut mode = LockMode::Shared;
    loop {
        let _lock = lock_archives(export, sub_dir.first(), mode).await?;
        let dir = export.make_dirs(&export.fs().root(), names.iter().cloned(), 0o755).await?;
        let target = match export.find(&dir, &name).await? {
            None => name.clone(),
            Some((archived, attr)) if replace => {
                // Late retries of CreateVolume and DeleteVolume make and delete an empty directory. It must not replace
                // the archive that the first calls made.
                let keeps = attr.kind != Kind::Directory || !export.is_empty(&archived).await?;
                if keeps && remove_if_empty(export, from_dir, from).await? {
                    return Ok(true);
                }
                trash::discard(export, &dir, &name).await?;
                name.clone()
            }
            // The second archive of `a` may want the name of the first one of `a-1`.
            Some(_) if mode == LockMode::Shared => {
                mode = LockMode::Exclusive;
                continue;
            }
            Some(_) => free_name(export, &dir, &name).await?,
        };
        return owner_access::rename(export.fs(), (from_dir, from), (&dir, &target))
            .await
            .map(|()| true)
            .map_err(failed);
    }
}

/// Returns `name` with a suffix, such that the name is free in `dir`.
async fn free_name<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name) -> Result<Name> {
    let suffixed = |suffix: &str| {
        Name::new([name.as_bytes(), b"-", suffix.as_bytes()].concat())
            .map_err(|status| export.failed(format!("choosing a free archive name like `{name}`"), status))
    };
    for number in 1..ARCHIVES {
        let candidate = suffixed(&number.to_string())?;
        if export.find(dir, &candidate).await?.is_none() {
            return Ok(candidate);
        }
    }
    suffixed(&Uuid::new_v4().to_string())
}

/// Removes parent directories, deepest first, until one is not empty or may not be removed.
async fn remove_empty<F: Fs>(export: &Export<F>, parents: &[(F::Handle, Name)]) -> Result<()> {
    for (dir, name) in parents.iter().rev() {
        if !remove_if_empty(export, dir, name).await? {
            break;
        }
    }
    Ok(())
}

/// Removes a directory if it is empty and may be removed. Returns whether it is gone.
async fn remove_if_empty<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name) -> Result<bool> {
    match export.fs().rmdir(dir, name).await {
        // Stale: another call has removed the directory that contained it.
        Ok(()) | Err(Status::NoEnt | Status::Stale) => Ok(true),
        Err(Status::NotEmpty | Status::Access | Status::Perm) => Ok(false),
        Err(status) => Err(export.failed(format!("removing the empty directory `{name}`"), status)),
    }
}
