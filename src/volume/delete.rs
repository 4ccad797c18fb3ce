//! Deleting a volume: into the trash, kept, or archived (CSI `DeleteVolume`).

use uuid::Uuid;

use crate::error::Result;
use crate::export::fs::{Fs, Kind, Name, Status};
use crate::export::locks::Guard;
use crate::export::{Export, trash};
use crate::nfs::source::SubDir;
use crate::volume::directory_owners::{self, Neighbours};
use crate::volume::find::read_own;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::ARCHIVED;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory, kept};

/// Beyond this many archives of one directory, the next one is numbered at random.
const ARCHIVES: u32 = 100;

/// What the driver's flags say of deleting.
#[derive(Debug, Clone, Copy)]
pub struct DeletePolicy {
    /// `--default-ondelete-policy`: what becomes of a directory where neither record nor identifier tells.
    pub default: OnDelete,
    /// `--remove-archived-volume-path`: an archive of the same name is replaced.
    pub replace_archive: bool,
}

/// Whether there is nothing of a volume on an export that the driver never wrote to, and so nothing to lock.
pub async fn is_gone<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<bool> {
    Ok(export.layout().await?.is_none()
        && match place(export, &id.sub_dir).await?.at {
            Some((dir, name)) => export.find(&dir, &name).await?.is_none(),
            None => true,
        })
}

/// Deletes a volume. One that is not there is deleted. One that shows a snapshot is left to who knows of snapshots: its
/// record is the answer then.
///
/// # Errors
/// [`Error::Precondition`] where the directory is inside another volume's, or another volume is inside it.
pub async fn delete<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    policy: DeletePolicy,
    lock: &Guard<F>,
) -> Result<Option<Record>> {
    let name = id.name();
    let record = read_own(export, id).await?;
    if record.as_ref().is_some_and(|record| record.backing_snapshot.is_some()) {
        return Ok(record);
    }
    // A name whose record is of another directory is another volume's, and is no reason to spare this directory.
    let me = if record.is_some() { name.as_ref() } else { None };
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, me).await?;
    neighbours.check_nesting(&id.sub_dir)?;
    match fate(export, id, record.as_ref(), policy, &neighbours).await? {
        Fate::Kept if directory::find(export, &id.sub_dir).await?.is_some() => {
            kept::keep(export, id, record.as_ref(), lock).await?;
            return Ok(None);
        }
        Fate::Untouched if directory::find(export, &id.sub_dir).await?.is_some() => return Ok(None),
        // What was to be kept is gone.
        Fate::Kept | Fate::Untouched => kept::forget(export, &id.sub_dir, &neighbours.kept).await?,
        Fate::Shared => {
            let own: Vec<VolumeName> = neighbours.kept.into_iter().filter(|kept| me == Some(kept)).collect();
            kept::forget(export, &id.sub_dir, &own).await?;
        }
        Fate::Removed(how) => {
            remove(export, id, how, record.is_some()).await?;
            kept::forget(export, &id.sub_dir, &neighbours.kept).await?;
        }
    }
    if record.is_some() {
        forget_volume(export, id, lock).await?;
    } else {
        // An earlier call may have come no further.
        directory_owners::release(export, id).await?;
    }
    Ok(None)
}

/// What becomes of a volume's directory.
enum Fate {
    /// It stays, and so does the record of that.
    Kept,
    /// It stays: other volumes have it, or it was never this one's.
    Shared,
    /// It stays as it is: it is not this volume's, or was kept before.
    Untouched,
    /// It goes.
    Removed(How),
}

/// How a directory goes.
enum How {
    Trashed,
    Archived {
        /// Whether it takes the place of an archive of the same name.
        replaces: bool,
    },
}

async fn fate<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    record: Option<&Record>,
    policy: DeletePolicy,
    neighbours: &Neighbours,
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
        // Nobody ever had it, so that nothing of it is kept; but a directory that it was not put into is somebody else's.
        Some(record) if record.pending => {
            return Ok(if directory::is_placed(export, record).await? { of(OnDelete::Delete) } else { Fate::Shared });
        }
        // A repeated call, or a late one: what was decided when the volume was deleted counts.
        None if !neighbours.kept.is_empty() || neighbours.kept_above.is_some() => return Ok(Fate::Untouched),
        None => id.on_delete.unwrap_or(policy.default),
        Some(record) => record.attributes.on_delete.or(id.on_delete).unwrap_or(policy.default),
    };
    let explicit = record.is_none_or(|record| record.explicit_on_delete().is_some());
    if on_delete != OnDelete::Retain {
        if let Some(inside) = &neighbours.kept_below {
            stays(&format!(
                "directory `{inside}` inside it was kept when its volume was deleted; move that away first"
            ));
            return Ok(Fate::Kept);
        }
        if !explicit && record.is_some_and(|record| record.adopted) {
            stays(
                "it was there before its first volume, and neither the class nor a VolumeAttributesClass says onDelete",
            );
            return Ok(Fate::Kept);
        }
        if !explicit && !neighbours.kept.is_empty() {
            stays("it was kept for an earlier volume, and neither the class nor a VolumeAttributesClass says onDelete");
            return Ok(Fate::Kept);
        }
    }
    Ok(of(on_delete))
}

/// Removes a volume's directory, if it is there, and the directories that led to it, as far as they are empty.
async fn remove<F: Fs>(export: &Export<F>, id: &VolumeId, how: How, recorded: bool) -> Result<()> {
    let place = place(export, &id.sub_dir).await?;
    let moved = match (&place.at, how) {
        (Some((dir, name)), How::Archived { replaces }) => archive(export, dir, name, &id.sub_dir, replaces).await?,
        (Some((dir, name)), How::Trashed) => trash::discard(export, dir, name).await?,
        (None, _) => false,
    };
    // Also where the directory is gone: an earlier call may have come no further.
    if moved || recorded { remove_empty(export, &place.parents).await } else { Ok(()) }
}

/// Removes a volume's record, and its claim on its directory.
pub async fn forget_volume<F: Fs>(export: &Export<F>, id: &VolumeId, _lock: &Guard<F>) -> Result<()> {
    if let Some(name) = id.name() {
        Record::remove(export, &name).await?;
    }
    directory_owners::release(export, id).await
}

/// Takes back a volume that was just made, and that nobody has seen: its directory goes where it is empty and its own.
pub(super) async fn undo<F: Fs>(export: &Export<F>, id: &VolumeId, name: &VolumeName, _lock: &Guard<F>) -> Result<()> {
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(name)).await?;
    Record::remove(export, name).await?;
    if neighbours.same.is_none() && neighbours.kept.is_empty() {
        let place = place(export, &id.sub_dir).await?;
        let made: Vec<_> = place.parents.into_iter().chain(place.at).collect();
        remove_empty(export, &made).await?;
    }
    directory_owners::release(export, id).await
}

/// Where a directory is, or was.
struct Place<F: Fs> {
    /// The directories that lead to it, as far as they are there, each by the one above it and its name.
    parents: Vec<(F::Handle, Name)>,
    /// The directory that it is in, if it is there at all, and its name there.
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

/// Renames a directory to `archived-…`, if it is there; answers whether it was.
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
    let dir = export.make_dirs(&export.fs().root(), names, 0o755).await?;
    let target = match export.find(&dir, &name).await? {
        None => name,
        Some((archived, attr)) if replace => {
            // A Create and a Delete that arrive once more, late, must not cost what the first ones archived.
            let keeps = attr.kind != Kind::Directory || !export.is_empty(&archived).await?;
            if keeps && remove_if_empty(export, from_dir, from).await? {
                return Ok(true);
            }
            trash::discard(export, &dir, &name).await?;
            name
        }
        Some(_) => free_name(export, &dir, &name).await?,
    };
    export.fs().rename(from_dir, from, &dir, &target).await.map(|()| true).map_err(failed)
}

/// `name` with a suffix that makes it free in `dir`.
async fn free_name<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name) -> Result<Name> {
    let suffixed = |suffix: &str| {
        Name::new([name.as_bytes(), b"-", suffix.as_bytes()].concat())
            .map_err(|status| export.failed(format!("archiving to `{name}`, which is taken"), status))
    };
    for number in 1..ARCHIVES {
        let candidate = suffixed(&number.to_string())?;
        if export.find(dir, &candidate).await?.is_none() {
            return Ok(candidate);
        }
    }
    suffixed(&Uuid::new_v4().to_string())
}

/// Removes the directories that led to one that is gone, as far as they are empty and may be removed.
async fn remove_empty<F: Fs>(export: &Export<F>, parents: &[(F::Handle, Name)]) -> Result<()> {
    for (dir, name) in parents.iter().rev() {
        if !remove_if_empty(export, dir, name).await? {
            break;
        }
    }
    Ok(())
}

/// Removes a directory if it is empty and may be removed; answers whether it is gone.
async fn remove_if_empty<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name) -> Result<bool> {
    match export.fs().rmdir(dir, name).await {
        Ok(()) | Err(Status::NoEnt) => Ok(true),
        Err(Status::NotEmpty | Status::Access | Status::Perm) => Ok(false),
        Err(status) => Err(export.failed(format!("removing the empty directory `{name}`"), status)),
    }
}
