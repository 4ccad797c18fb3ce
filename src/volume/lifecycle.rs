//! Volumes on an export: create, get, expand, modify, list. (Deleting has a file of its own.)
//!
//! Every change is made under the volume's lock, which the caller takes (so that it can give up waiting for it) and hands
//! in as a proof, and in an order in which a crash at any point leaves nothing that a repeated call would not finish:
//!
//! - create: claim, directory, record, limit. The record is what makes the volume exist.
//! - delete: directory into the trash, record, claim.
//! - expand, modify: attributes, record, limit.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsStat, Kind, Name, SetAttr, Status};
use crate::export::locks::Guard;
use crate::nfs::source::SubDir;
use crate::volume::access::CapacityRange;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::limits::Overcommit;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::record::{Origin, Record};
use crate::volume::{delete, directory_owners, kept, overcommit, quota};

/// The mode of a volume's directory, and of the directories above it, where none was asked for.
const DIRECTORY_MODE: u32 = 0o755;

/// A volume to be made.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its name.
    pub name: VolumeName,
    /// Its directory; `None` for one named after it.
    pub sub_dir: Option<SubDir>,
    /// Its capacity.
    pub capacity: CapacityRange,
    /// What was asked for.
    pub asked: Attributes,
    /// What holds where nothing was asked for: the driver's defaults.
    pub defaults: Attributes,
    /// The options that the controller mounts the export with.
    pub mount_options: Vec<String>,
    /// What it is to be filled with.
    pub origin: Option<Origin>,
}

impl Create {
    /// The identifier that the volume will have.
    pub fn id<F: Fs>(&self, export: &Export<F>) -> Result<VolumeId> {
        let on_delete = self.asked.or(self.defaults).on_delete.filter(|policy| *policy != OnDelete::Delete);
        let (sub_dir, uuid) = match &self.sub_dir {
            Some(sub_dir) => (sub_dir.clone(), Some(self.name.clone())),
            None => (crate::volume::parameters::volume_directory("name", self.name.as_str())?, None),
        };
        let source = export.source();
        Ok(VolumeId { server: source.server.clone(), share: source.share.clone(), sub_dir, uuid, on_delete })
    }
}

/// Makes a volume, or finds the one that an earlier call with the same arguments made (CSI `CreateVolume`). A limit that is
/// required is waited for `until` then.
///
/// # Errors
/// [`Error::Conflict`] where the name belongs to a volume of another capacity or other parameters,
/// [`Error::Precondition`] where the directory is inside another volume's, [`Error::Exhausted`] where the export has not
/// enough free or is promised to others; [`Error::NoAgent`] where a limit is required and cannot be had: nothing of the volume stays then.
pub async fn create<F: Fs>(export: &Export<F>, create: &Create, until: Instant, lock: &Guard<F>) -> Result<Record> {
    let id = create.id(export)?;
    let wanted = create.asked.or(create.defaults);
    if let Some(record) = Record::read(export, &create.name).await? {
        check_same(create, &id, &record)?;
        // Whoever wrote the record had made the directory; it may have been removed by hand since.
        make_directory(export, &create.name, &id.sub_dir, record.attributes).await?;
        quota::enforced_where_required(export, &create.name, &record, until).await?;
        kept::replace(export, &record, &create.name).await?;
        return Ok(record);
    }
    quota::check_possible(export, wanted.quota, until).await?;
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(&create.name)).await?;
    neighbours.check_nesting(&id.sub_dir)?;
    neighbours.check_filled(&id.sub_dir)?;
    let capacity = create.capacity.choose();
    check_space(export, capacity).await?;
    let promise = overcommit::check(export, wanted.overcommit, capacity).await?;
    directory_owners::claim(export, &id).await?;
    let kept = kept::holds(export, &id.sub_dir, &neighbours).await?;
    let was_there = make_directory(export, &create.name, &id.sub_dir, wanted).await?;
    let adopted = match &neighbours.same {
        Some(_) => directory_owners::is_adopted(export, &id.sub_dir, &neighbours).await?,
        // One that is empty may be this volume's own, made by an earlier call that came no further.
        None => was_there && kept::has_content(export, &id.sub_dir).await?,
    };
    let record = new(create, id, capacity, kept || adopted);
    record.write(export, &create.name).await?;
    drop(promise);
    if let Err(error) = quota::enforced_where_required(export, &create.name, &record, until).await {
        delete::undo(export, &record.id, &create.name, lock).await?;
        return Err(error);
    }
    kept::replace(export, &record, &create.name).await?;
    Ok(record)
}

/// The record of a new volume.
pub(super) fn new(create: &Create, id: VolumeId, capacity: u64, adopted: bool) -> Record {
    Record {
        id,
        capacity,
        created_with: create.asked,
        attributes: create.asked.or(create.defaults),
        on_delete_modified: false,
        adopted,
        mount_options: create.mount_options.clone(),
        created: now(),
        origin: create.origin.clone(),
        backing_snapshot: None,
        pending: false,
        staged: None,
        attempt: None,
    }
}

/// Locks a volume for a change: its name, and the part of the export that its directory is in.
pub async fn lock<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Guard<F>> {
    let name = id.name();
    let first = id.sub_dir.first();
    export.lock(&[name.as_ref().map_or(first, VolumeName::as_str), first]).await
}

pub(super) fn check_same(create: &Create, id: &VolumeId, record: &Record) -> Result<()> {
    let differs = |what: &str, is: String, asked: String| {
        let reason = format!("it has {what} {is}, and {asked} is asked for now; choose another name");
        Err(Error::conflict(format!("volume `{}`", create.name), reason))
    };
    if (&id.server, &id.share, &id.sub_dir) != (&record.id.server, &record.id.share, &record.id.sub_dir) {
        return differs("directory", record.id.source().to_string(), id.source().to_string());
    }
    if !create.capacity.allows(record.capacity) {
        let asked = format!("{:?}", create.capacity);
        return differs("capacity", record.capacity.to_string(), asked);
    }
    if create.origin != record.origin {
        return differs("content", format!("{:?}", record.origin), format!("{:?}", create.origin));
    }
    if create.asked != record.created_with {
        return differs("parameters", format!("{:?}", record.created_with), format!("{:?}", create.asked));
    }
    Ok(())
}

/// Refuses what the export has not free, in bytes or in inodes.
pub(super) async fn check_space<F: Fs>(export: &Export<F>, bytes: u64) -> Result<()> {
    let stat = statfs(export).await?;
    if stat.available_bytes < bytes {
        return Err(Error::Exhausted(format!(
            "{} has {} bytes free, and {bytes} are asked for; free space on the server or ask for less",
            export.source(),
            stat.available_bytes
        )));
    }
    if stat.total_inodes > 0 && stat.free_inodes == 0 {
        return Err(Error::Exhausted(format!("{} has no inodes free; free some on the server", export.source())));
    }
    Ok(())
}

async fn statfs<F: Fs>(export: &Export<F>) -> Result<FsStat> {
    let fs = export.fs();
    fs.statfs(&fs.root()).await.map_err(|e| export.failed("asking for the free space", e))
}

/// The bytes that a new volume could have (CSI `GetCapacity`).
pub async fn available<F: Fs>(export: &Export<F>, overcommit: Option<Overcommit>) -> Result<u64> {
    let free = statfs(export).await?.available_bytes;
    Ok(free.min(overcommit::left(export, overcommit).await?))
}

/// Makes a volume's directory so that nobody sees it without its mode and owner. One that is there is taken as it is, and
/// given what `attributes` say. Answers whether it was there.
async fn make_directory<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    sub_dir: &SubDir,
    attributes: Attributes,
) -> Result<bool> {
    let fs = export.fs();
    let failed = |status| export.failed(format!("creating directory `{sub_dir}`"), status);
    let (parent, last) = make_parent(export, sub_dir).await?;
    let mode = attributes.mode.unwrap_or(DIRECTORY_MODE);
    let plain = attributes.uid.is_none() && attributes.gid.is_none() && mode <= 0o777;
    if plain {
        match fs.mkdir(&parent, &last, mode).await {
            Err(Status::Exist) => {}
            made => return made.map(|_| false).map_err(failed),
        }
    }
    if let Some((directory, attr)) = export.find(&parent, &last).await? {
        if attr.kind != Kind::Directory {
            return Err(failed(Status::NotDir));
        }
        return fs.setattr(&directory, set_attr(attributes)).await.map(|()| true).map_err(failed);
    }
    let layout = export.make_layout().await?;
    let staged = Name::new(name.as_str()).map_err(failed)?;
    let (directory, _) = match fs.mkdir(&layout.staging, &staged, 0o700).await {
        // Left by a process that died here: the lock says that nobody else uses it.
        Err(Status::Exist) => fs.lookup(&layout.staging, &staged).await.map_err(failed)?,
        made => made.map_err(failed)?,
    };
    let attr = SetAttr { mode: Some(mode), ..set_attr(attributes) };
    let place = async {
        fs.setattr(&directory, attr).await?;
        fs.rename(&layout.staging, &staged, &parent, &last).await
    };
    let placed = place.await;
    if let Err(status) = placed
        && status != Status::TimedOut
        && let Err(left) = fs.rmdir(&layout.staging, &staged).await
    {
        // A server that squashes root, say, gives it no other owner. What does not go now is swept later.
        tracing::debug!(name = %staged, %left, "nothing is cleared in staging");
    }
    placed.map(|()| false).map_err(failed)
}

pub(super) async fn make_parent<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<(F::Handle, Name)> {
    let mut names: Vec<Name> = sub_dir.names().collect();
    let last = names.pop().ok_or_else(|| Error::Internal("a directory without a name".to_owned()))?;
    Ok((export.make_dirs(&export.fs().root(), names, DIRECTORY_MODE).await?, last))
}

pub(super) fn set_attr(attributes: Attributes) -> SetAttr {
    SetAttr { mode: attributes.mode, uid: attributes.uid, gid: attributes.gid, ..SetAttr::default() }
}

/// A volume as it is found on the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its record; `None` for one that was made by hand or by csi-driver-nfs.
    pub record: Option<Record>,
    /// Whether its directory is there.
    pub directory: bool,
}

/// Looks a volume up by its identifier (CSI `ControllerGetVolume`).
///
/// # Errors
/// [`Error::NotFound`] where there is neither a record nor a directory.
pub async fn get<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Found> {
    let record = read_own(export, id).await?;
    let pending = record.as_ref().is_some_and(|record| record.pending);
    let record = record.filter(|record| !record.pending);
    let path = record.as_ref().map_or_else(|| Ok(id.sub_dir.names().collect()), Record::path)?;
    let directory = export.find_dir(&export.fs().root(), path).await?.filter(|_| !pending);
    if record.is_none() && directory.is_none() {
        let reason = format!("{} has no directory `{}`", export.source(), id.sub_dir);
        return Err(Error::not_found(format!("volume `{id}`"), reason));
    }
    Ok(Found { record, directory: directory.is_some() })
}

/// The same for a volume that is to be copied. One without a record is looked up under its lock: its CreateVolume may have
/// made its directory, and be about to record what its size is.
///
/// # Errors
/// As [`get`].
pub async fn get_settled<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Found> {
    let found = get(export, id).await?;
    if found.record.is_some() || export.layout().await?.is_none() {
        return Ok(found);
    }
    let _lock = lock(export, id).await?;
    get(export, id).await
}

/// The record of the volume that `id` names; `None` where the name's record is of a volume with another directory.
pub(super) async fn read_own<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Option<Record>> {
    match id.name() {
        Some(name) => Ok(Record::read(export, &name).await?.filter(|record| record.id.sub_dir == id.sub_dir)),
        None => Ok(None),
    }
}

/// Reads the record of a volume for a change; a volume without one is taken over: it gets one.
///
/// # Errors
/// [`Error::NotFound`] also where the volume was deleted and its directory kept, or the name belongs to a volume with
/// another directory: a late call changes nothing of either.
async fn for_change<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<(VolumeName, Record)> {
    let found = get(export, id).await?;
    let name = id.name().ok_or_else(|| {
        Error::Precondition(format!(
            "volume `{id}` cannot be changed: its ID does not tell its name (a nested directory without UUID)"
        ))
    })?;
    if let Some(record) = found.record {
        return Ok((name, record));
    }
    let not_found = |reason: String| Err(Error::not_found(format!("volume `{id}`"), reason));
    if kept::is_kept(export, id).await? {
        return not_found(format!(
            "it was deleted, and its directory `{}` was kept; to use that again, create a volume with this `subDir`, or a PersistentVolume that names the directory",
            id.sub_dir
        ));
    }
    if let Some(other) = Record::read(export, &name).await? {
        return not_found(format!("the volume of that name is `{}`", other.id));
    }
    let neighbours = directory_owners::neighbours(export, &id.sub_dir, Some(&name)).await?;
    let adopted = !neighbours.kept.is_empty() || directory_owners::is_adopted(export, &id.sub_dir, &neighbours).await?;
    Ok((name, Record { adopted, ..Record::unrecorded(id) }))
}

/// Makes a volume larger (CSI `ControllerExpandVolume`): answers its capacity, in bytes, with its limit in
/// force where there was one.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::CapacityOutOfRange`] where it is larger than the limit already; [`Error::Exhausted`].
pub async fn expand<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    range: CapacityRange,
    until: Instant,
    _lock: &Guard<F>,
) -> Result<u64> {
    let (name, mut record) = for_change(export, id).await?;
    let capacity = range.required().max(record.capacity);
    if !range.allows(capacity) {
        return Err(Error::CapacityOutOfRange(format!(
            "volume `{id}` has {} bytes already, more than the limit; volumes do not shrink",
            record.capacity
        )));
    }
    if capacity > record.capacity {
        let more = capacity - record.capacity;
        check_space(export, more).await?;
        let _promise = overcommit::check(export, record.attributes.overcommit, more).await?;
        record.capacity = capacity;
        // A volume that is taken over may have no claim yet.
        directory_owners::claim(export, &record.id).await?;
        record.write(export, &name).await?;
    }
    // Also where it was large enough: an earlier call may not have waited to the end.
    quota::enforced_where_it_was(export, &name, &record, until).await?;
    Ok(capacity)
}

/// Changes what can be changed of a volume (CSI `ControllerModifyVolume`).
pub async fn modify<F: Fs>(
    export: &Export<F>,
    id: &VolumeId,
    changes: Attributes,
    until: Instant,
    _lock: &Guard<F>,
) -> Result<()> {
    let (name, mut record) = for_change(export, id).await?;
    quota::check_possible(export, changes.quota, until).await?;
    let failed = |status| export.failed(format!("changing directory `{}`", id.sub_dir), status);
    let owned = changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
    if record.backing_snapshot.is_some() && owned {
        let reason = "shows a snapshot, which does not change: mountPermissions, uid and gid cannot be given to it";
        return Err(Error::Precondition(format!("volume `{id}` {reason}")));
    }
    let directory = export.find_dir(&export.fs().root(), id.sub_dir.names()).await?;
    if record.backing_snapshot.is_none() {
        let directory = directory.ok_or_else(|| failed(Status::NoEnt))?;
        export.fs().setattr(&directory, set_attr(changes)).await.map_err(failed)?;
    }
    let attributes = changes.or(record.attributes);
    let on_delete_modified = record.on_delete_modified || changes.on_delete.is_some();
    if (attributes, on_delete_modified) != (record.attributes, record.on_delete_modified) {
        (record.attributes, record.on_delete_modified) = (attributes, on_delete_modified);
        // A volume that is taken over may have no claim yet.
        directory_owners::claim(export, &record.id).await?;
        record.write(export, &name).await?;
    }
    if changes.quota.is_some() || changes.inodes.is_some() {
        quota::enforced_where_required(export, &name, &record, until).await?;
    }
    Ok(())
}

/// The names of the volumes that have records on an export, sorted (CSI `ListVolumes`).
pub async fn names<F: Fs>(export: &Export<F>) -> Result<Vec<VolumeName>> {
    let Some(layout) = export.layout().await? else { return Ok(Vec::new()) };
    let mut names: Vec<VolumeName> = export.names(&layout.volumes).await?.iter().filter_map(Record::volume).collect();
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
