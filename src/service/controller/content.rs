//! What volumes are made of, and snapshots: other volumes, snapshots, archives.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::Controller;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::service::controller::snapshots::{Known, known_snapshot};
use crate::service::controller::volumes::{known_id, volume};
use crate::service::proto::csi;
use crate::snapshot::archive::Archive;
use crate::snapshot::record::State;
use crate::snapshot::tree::Tree;
use crate::snapshot::{clone, snapshot_backed};
use crate::volume::access::CapacityRange;
use crate::volume::fill::{self, Begun};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle as volumes;
use crate::volume::record::{Origin, Record as VolumeRecord, snapshot_tree};

/// A volume that is copied.
pub(super) struct Content<C: Connect> {
    pub(super) tree: Tree<C::Fs>,
    /// Its identifier.
    pub(super) of: String,
    /// Bytes; 0 where that is not known.
    pub(super) size: u64,
}

/// What a volume is made of.
struct Filling<C: Connect> {
    from: clone::Content<C::Fs>,
    /// Its identifier.
    of: String,
    /// Bytes; 0 where that is not known.
    size: u64,
    /// The snapshot that it is, where that is a tree.
    snapshot: Option<VolumeName>,
}

impl<C: Connect> Controller<C> {
    /// CreateVolume with a `volume_content_source`. `may_show` says whether the volume may show a snapshot itself.
    pub(super) async fn create_filled(
        &self,
        create: volumes::Create,
        origin: &Origin,
        (share, options): (&Source, &MountOptions),
        may_show: bool,
        until: Instant,
        secrets: &HashMap<String, String>,
    ) -> Result<csi::Volume> {
        let key = (share.clone(), clone::job(&create.name));
        if let Some(error) = self.jobs.failure(&key) {
            return Err(error);
        }
        // Only a directory of its own could be given a mode or an owner.
        let plain = create.asked.mode.is_none() && create.asked.uid.is_none() && create.asked.gid.is_none();
        let may_show = may_show && plain;
        let work = |export: Arc<Export<C::Fs>>| {
            let (create, key) = (create.clone(), key.clone());
            async move {
                let known = VolumeRecord::read(&export, &create.name).await?;
                let id = create.id(&export)?;
                let content = match known {
                    // What it was made of may be gone; it is compared, and answered.
                    Some(record) if !record.pending => None,
                    _ => Some(self.filling(origin, create.capacity, secrets).await?),
                };
                let size = content.as_ref().map(|content| content.size);
                let snapshot = content
                    .as_ref()
                    .filter(|content| may_show && content.from.export().source() == export.source())
                    .and_then(|content| content.snapshot.clone());
                let name = create.name.clone();
                let begin = async move |export: Arc<Export<C::Fs>>, lock| {
                    let begun = VolumeRecord::read(&export, &create.name).await?;
                    match snapshot.filter(|_| begun.is_none()) {
                        Some(snapshot) => {
                            snapshot_backed::create(&export, &create, &snapshot, &lock).await.map(Begun::Whole)
                        }
                        None => fill::begin(&export, &create, size, until, &lock).await,
                    }
                };
                match (self.change(export.clone(), &id, begin).await?, content) {
                    (Begun::Whole(record), _) => return Ok(record),
                    (Begun::Pending(_), Some(Filling { from, of, .. })) => {
                        let (target, filled) = (export.clone(), name.clone());
                        let copy = async move |how| clone::fill(&target, &filled, &from, &how).await;
                        self.jobs.join(key, vec![of], copy).wait().await?;
                    }
                    (Begun::Pending(_), None) => {}
                }
                match VolumeRecord::read(&export, &name).await? {
                    Some(record) if !record.pending => Ok(record),
                    _ => Err(Error::Interrupted(format!("volume `{name}` changed while it was made; call again"))),
                }
            }
        };
        self.on(share, options, work).await.map(|record| volume(&record))
    }

    /// Finds what a volume of that capacity is to be made of.
    async fn filling(
        &self,
        origin: &Origin,
        capacity: CapacityRange,
        secrets: &HashMap<String, String>,
    ) -> Result<Filling<C>> {
        match origin {
            Origin::Volume(id) => {
                let id = known_id(id)?;
                let Content { tree, of, size } = self.content_of_volume(&id, secrets).await?;
                Ok(Filling { from: clone::Content::Tree(tree), of, size, snapshot: None })
            }
            Origin::Snapshot(id) => {
                let id = known_snapshot(id)?;
                let of = id.to_string();
                match self.find_snapshot(&id, secrets).await? {
                    (_, Known::Own(record)) if record.state != State::Ready => {
                        Err(Error::Precondition(format!("snapshot `{id}` is not ready yet")))
                    }
                    (export, Known::Own(record)) => {
                        let name = record.id.name;
                        let tree = Tree { export, path: snapshot_tree(&name)?, what: format!("snapshot `{id}`") };
                        Ok(Filling { from: clone::Content::Tree(tree), of, size: record.size, snapshot: Some(name) })
                    }
                    (export, Known::Archive(found)) => {
                        // How much is in it shows while it is unpacked. Who asks for no size gets what there is room for.
                        let (size, limit) = match capacity.choose() {
                            0 => (0, u64::MAX),
                            chosen => (found.size, chosen),
                        };
                        let from = clone::Content::Archive(Archive::new(export, found, limit));
                        Ok(Filling { from, of, size, snapshot: None })
                    }
                }
            }
        }
    }

    pub(super) async fn content_of_volume(
        &self,
        id: &VolumeId,
        secrets: &HashMap<String, String>,
    ) -> Result<Content<C>> {
        let find = |export: Arc<Export<C::Fs>>| async move {
            let found = volumes::get_settled(&export, id).await?;
            Ok((export, found))
        };
        let (export, found) = self.on_volume(id, secrets, find).await?;
        let size = found.record.as_ref().map_or(0, |record| record.capacity);
        let path = found.record.as_ref().map_or_else(|| Ok(id.sub_dir.names().collect()), VolumeRecord::path)?;
        let tree = Tree { export, path, what: format!("volume `{id}`") };
        Ok(Content { tree, of: id.to_string(), size })
    }
}
