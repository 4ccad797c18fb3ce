//! Creates empty volumes (CSI `CreateVolume`).
//!
//! The caller takes the volume's lock, so that it can stop waiting for the lock, and passes the guard as proof. The
//! steps are claim, directory, record and limit. In this order, a retried call completes what a crash interrupted. A
//! volume exists as soon as its record does.

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::nfs::source::SubDir;
use crate::volume::access::CapacityRange;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::kubernetes::KubernetesNames;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::{Attributes, volume_directory};
use crate::volume::record::{Origin, Record};
use crate::volume::record_file::{RecordFile as _, new_generation, now};
use crate::volume::{claims, delete, directory, directory_owners, kept, overcommit, quota, space};

/// A volume to create.
#[derive(Debug, Clone)]
pub struct Create {
    /// The volume's name.
    pub name: VolumeName,
    /// The volume's directory; `None` for a directory that has the volume's name.
    pub sub_dir: Option<SubDir>,
    /// The requested capacity.
    pub capacity: CapacityRange,
    /// The requested attributes.
    pub asked: Attributes,
    /// The driver's defaults, for attributes that were not requested.
    pub defaults: Attributes,
    /// The options with which the controller mounts the export.
    pub mount_options: Vec<String>,
    /// The source of the content; `None` for an empty volume.
    pub origin: Option<Origin>,
    /// What Kubernetes calls the volume.
    pub kubernetes: Option<KubernetesNames>,
}

impl Create {
    /// The identifier that the volume will have.
    pub fn id<F: Fs>(&self, export: &Export<F>) -> Result<VolumeId> {
        let on_delete = self.asked.or(self.defaults).on_delete.filter(|policy| *policy != OnDelete::Delete);
        let (sub_dir, uuid) = match &self.sub_dir {
            Some(sub_dir) => (sub_dir.clone(), Some(self.name.clone())),
            None => (volume_directory("name", self.name.as_str())?, None),
        };
        let source = export.source();
        Ok(VolumeId { server: source.server.clone(), share: source.share.clone(), sub_dir, uuid, on_delete })
    }
}

/// Creates a volume, or returns the record that an earlier call with the same arguments wrote (CSI `CreateVolume`).
/// Waits until `until` for a limit that is required.
///
/// # Errors
/// [`Error::Conflict`] if the name belongs to a volume with another directory, capacity, content or other parameters,
/// or if another volume is being filled in the directory; [`Error::Precondition`] if the directory is inside another
/// volume's directory or contains one; [`Error::Exhausted`] if the export lacks space or the class's `overcommit`
/// forbids the volume; [`Error::NoAgent`] if a required limit is not in force in time. A volume that this call created
/// is removed again then.
pub async fn create<F: Fs>(export: &Export<F>, create: &Create, until: Instant, lock: &Guard<F>) -> Result<Record> {
    let id = create.id(export)?;
    let wanted = create.asked.or(create.defaults);
    // What a retry does not need is read at the same time: a new volume waits for one answer less.
    let (record, neighbours) = directory_owners::record_and_neighbours(export, &create.name, &id.sub_dir, lock).await;
    if let Some(record) = record? {
        check_same(create, &id, &record)?;
        // The directory was created before the record, but somebody may have removed it by hand since.
        directory::make(export, &create.name, &id.sub_dir, record.attributes).await?;
        quota::enforced_where_required(export, &create.name, &record, until).await?;
        kept::replace(export, &record, &create.name).await?;
        return Ok(record);
    }
    quota::check_possible(export, wanted.quota, until).await?;
    let neighbours = neighbours?;
    neighbours.check_nesting(&id.sub_dir)?;
    neighbours.check_filled(&id.sub_dir)?;
    let capacity = create.capacity.choose();
    space::check_free(export, wanted.overcommit, capacity).await?;
    let change = overcommit::begin(export, &create.name, wanted.overcommit, capacity).await?;
    claims::claim(export, &id, Some(&neighbours.way)).await?;
    let kept = kept::holds(export, &id.sub_dir, &neighbours).await?;
    let mut record = new(create, id, capacity, false);
    let alone = neighbours.same.is_none() && !kept;
    if !(alone && directory::make_and_record(export, &record.id.sub_dir, wanted, &record).await?) {
        let was_there = directory::make(export, &create.name, &record.id.sub_dir, wanted).await?;
        let adopted = match &neighbours.same {
            Some(_) => directory_owners::is_adopted(export, &record.id.sub_dir, &neighbours).await?,
            // An empty directory may be this volume's own, from an earlier call that was interrupted.
            None => was_there && directory::has_content(export, &record.id.sub_dir).await?,
        };
        record.adopted = kept || adopted;
        record.write(export).await?;
    }
    change.end(export).await?;
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
        generation: new_generation(),
        kubernetes: create.kubernetes.clone(),
    }
}

/// Returns [`Error::Conflict`] if the existing volume of `record` is not the requested one.
pub fn check_same(create: &Create, id: &VolumeId, record: &Record) -> Result<()> {
    let differs = |what: &str, is: String, asked: String| {
        let reason = format!("it has {what} {is}, but the request has {asked}; choose another name");
        Err(Error::conflict(format!("volume `{}`", create.name), reason))
    };
    if (&id.server, &id.share, &id.sub_dir) != (&record.id.server, &record.id.share, &record.id.sub_dir) {
        return differs("directory", record.id.source().to_string(), id.source().to_string());
    }
    if !create.capacity.allows(record.capacity) {
        return differs("capacity", record.capacity.to_string(), create.capacity.to_string());
    }
    if create.origin != record.origin {
        let content = |origin: &Option<Origin>| origin.as_ref().map_or("nothing".to_owned(), Origin::to_string);
        return differs("the content of", content(&record.origin), content(&create.origin));
    }
    if create.asked != record.created_with {
        return differs("parameters", record.created_with.to_string(), create.asked.to_string());
    }
    Ok(())
}
