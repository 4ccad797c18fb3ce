//! The content that a new volume starts with: a copy of a volume or of a snapshot, or the content of an archive.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::snapshot::archive::Archive;
use crate::snapshot::find::{self, Found};
use crate::snapshot::id::{KnownId, SnapshotId};
use crate::snapshot::record::State;
use crate::snapshot::tree::{How, Of, Stage, Tree};
use crate::volume::access::CapacityRange;
use crate::volume::exports::Exports;
use crate::volume::find::get_settled;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::{Origin, Record, snapshot_tree};

/// The content that a new volume starts with.
pub enum Content<F: Fs> {
    /// The tree of a volume or of a snapshot, to copy.
    Tree(Tree<F>),
    /// An archive, to unpack.
    Archive(Archive<F>),
}

impl<F: Fs> Content<F> {
    /// The identifier of the volume or snapshot.
    pub fn of(&self) -> String {
        match self {
            Self::Tree(tree) => tree.of.to_string(),
            Self::Archive(archive) => archive.id().to_string(),
        }
    }

    /// The least size in bytes of a volume with this content, when the content was found; 0 if unknown.
    pub fn size(&self) -> u64 {
        match self {
            Self::Tree(tree) => tree.size,
            Self::Archive(archive) => archive.size(),
        }
    }

    /// The same, now.
    ///
    /// # Errors
    /// As [`Tree::size_now`].
    pub(super) async fn size_now(&self) -> Result<u64> {
        match self {
            Self::Tree(tree) => tree.size_now().await,
            Self::Archive(archive) => Ok(archive.size()),
        }
    }

    /// The name of the snapshot, if the content is the tree of a snapshot on `export`.
    pub fn snapshot_on(&self, export: &Source) -> Option<&VolumeName> {
        match self {
            Self::Tree(Tree { of: Of::Snapshot(id), export: on, .. }) if on.source() == export => Some(&id.name),
            _ => None,
        }
    }

    /// Copies or unpacks the content into a staging directory. Returns the root of the copy.
    pub(super) async fn fill(&self, stage: &Stage<F>, how: &How) -> Result<F::Handle> {
        match self {
            Self::Tree(tree) => stage.fill(tree, how).await.map(|(root, _)| root),
            Self::Archive(archive) => archive.unpack(stage, how).await,
        }
    }
}

/// Finds the content for a new volume of that capacity.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Precondition`] if the snapshot is not ready.
pub async fn find<C: Connect>(
    exports: &Exports<C>,
    origin: &Origin,
    capacity: CapacityRange,
    secret: Option<&MountOptions>,
) -> Result<Content<C::Fs>> {
    let id = match origin {
        Origin::Volume(id) => {
            return tree_of_volume(exports, &VolumeId::parse_existing(id)?, secret).await.map(Content::Tree);
        }
        Origin::Snapshot(id) => KnownId::parse_existing(id)?,
    };
    match find::find(exports, &id, secret).await? {
        (_, Found::Own(record)) if record.state != State::Ready => Err(Error::Precondition(format!(
            "snapshot `{id}` is not ready yet; call again when CreateSnapshot has completed it"
        ))),
        (export, Found::Own(record)) => {
            let path = snapshot_tree(&record.id.name)?;
            let of = Of::Snapshot(SnapshotId::new(&id.export(), record.id.name));
            Ok(Content::Tree(Tree { export, path, of, size: record.size, generation: record.generation }))
        }
        (export, Found::Archive(found)) => {
            // Without a requested size, only the space on the export limits the volume.
            let limit = Some(capacity.choose()).filter(|&chosen| chosen > 0).unwrap_or(u64::MAX);
            Ok(Content::Archive(Archive::new(export, found, limit)))
        }
    }
}

/// Finds the tree of an existing volume, to copy.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn tree_of_volume<C: Connect>(
    exports: &Exports<C>,
    id: &VolumeId,
    secret: Option<&MountOptions>,
) -> Result<Tree<C::Fs>> {
    let find = |export: Arc<Export<C::Fs>>| async move {
        let found = get_settled(&export, id).await?;
        Ok((export, found))
    };
    let (export, found) = exports.on_volume(id, secret, find).await?;
    let (size, generation) = found.record.as_ref().map_or((0, None), |record| (record.capacity, record.generation));
    let path = found.record.as_ref().map_or_else(|| Ok(id.sub_dir.names().collect()), Record::path)?;
    Ok(Tree { export, path, of: Of::Volume(id.clone()), size, generation })
}
