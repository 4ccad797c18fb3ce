//! Deleting a volume: into the trash, kept, or archived (CSI `DeleteVolume`).

use uuid::Uuid;

use crate::error::Result;
use crate::export::fs::{Fs, Name, Status, gone};
use crate::export::locks::Guard;
use crate::export::{Export, trash};
use crate::nfs::source::SubDir;
use crate::volume::claims;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle::read_own;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::ARCHIVED;
use crate::volume::record::Record;

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
    if record.as_ref().is_some_and(|record| record.shows.is_some()) {
        return Ok(record);
    }
    // A name whose record is of another directory is another volume's, and is no reason to spare this directory.
    let me = if record.is_some() { name.as_ref() } else { None };
    let neighbours = claims::neighbours(export, &id.sub_dir, me).await?;
    neighbours.check_nesting(&id.sub_dir)?;
    let recorded = record.as_ref().and_then(|record| record.attributes.on_delete);
    let half_made = record.as_ref().is_some_and(|record| record.pending);
    // What nobody ever had is not kept.
    let on_delete = if half_made { OnDelete::Delete } else { recorded.or(id.on_delete).unwrap_or(policy.default) };
    if neighbours.same.is_none() && on_delete != OnDelete::Retain {
        let place = place(export, &id.sub_dir).await?;
        let moved = match &place.at {
            Some((dir, name)) if on_delete == OnDelete::Archive => {
                archive(export, dir, name, &id.sub_dir, policy.replace_archive).await?
            }
            Some((dir, name)) => trash::discard(export, dir, name).await?,
            None => false,
        };
        // Also where the directory is gone: an earlier call may have come no further.
        if moved || record.is_some() {
            remove_empty(export, &place.parents).await?;
        }
    }
    if record.is_some() {
        forget_volume(export, id, lock).await?;
    } else {
        // An earlier call may have come no further.
        claims::release(export, id).await?;
    }
    Ok(None)
}

/// Removes a volume's record, and its claim on its directory.
pub async fn forget_volume<F: Fs>(export: &Export<F>, id: &VolumeId, _lock: &Guard<F>) -> Result<()> {
    if let Some(name) = id.name() {
        forget(export, &name).await?;
    }
    claims::release(export, id).await
}

/// Takes back a volume that was just made, and that nobody has seen: its directory goes where it is empty and its own.
pub(super) async fn undo<F: Fs>(export: &Export<F>, id: &VolumeId, name: &VolumeName, _lock: &Guard<F>) -> Result<()> {
    let neighbours = claims::neighbours(export, &id.sub_dir, Some(name)).await?;
    forget(export, name).await?;
    if neighbours.same.is_none() {
        let place = place(export, &id.sub_dir).await?;
        let made: Vec<_> = place.parents.into_iter().chain(place.at).collect();
        remove_empty(export, &made).await?;
    }
    claims::release(export, id).await
}

/// Removes a volume's record.
async fn forget<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<()> {
    let layout = export.make_layout().await?;
    gone(export.fs().unlink(&layout.volumes, &Record::file(name)?).await)
        .map_err(|status| export.failed(format!("removing the record of volume `{name}`"), status))
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
        Some(_) if replace => {
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
        match export.fs().rmdir(dir, name).await {
            Ok(()) | Err(Status::NoEnt) => {}
            Err(Status::NotEmpty | Status::Access | Status::Perm) => break,
            Err(status) => return Err(export.failed(format!("removing the empty directory `{name}`"), status)),
        }
    }
    Ok(())
}
