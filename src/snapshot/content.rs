//! What a volume is made of: a copy of another volume or of a snapshot, or what is in an archive.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::snapshot::archive::Archive;
use crate::snapshot::find::{self, Found};
use crate::snapshot::id::KnownId;
use crate::snapshot::record::State;
use crate::snapshot::tree::{How, Stage, Tree};
use crate::volume::access::CapacityRange;
use crate::volume::exports::Exports;
use crate::volume::find::get_settled;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::{Origin, Record, snapshot_tree};

/// What a volume is made of.
pub enum Content<F: Fs> {
    /// A copy of a tree.
    Tree(Tree<F>),
    /// What is in an archive.
    Archive(Archive<F>),
}

impl<F: Fs> Content<F> {
    /// Its identifier.
    pub fn of(&self) -> String {
        match self {
            Self::Tree(tree) => tree.of.clone(),
            Self::Archive(archive) => archive.id().to_string(),
        }
    }

    /// The bytes that a volume with this content has at least; 0 where that is not known.
    pub fn size(&self) -> u64 {
        match self {
            Self::Tree(tree) => tree.size,
            Self::Archive(archive) => archive.size(),
        }
    }

    /// The name of the snapshot that it is the tree of, where that is on `export`.
    pub fn snapshot_on(&self, export: &Source) -> Option<&VolumeName> {
        match self {
            Self::Tree(tree) if tree.export.source() == export => tree.snapshot.as_ref(),
            _ => None,
        }
    }

    /// Copies it to its place in staging.
    pub(super) async fn fill(&self, stage: &Stage<F>, how: &How) -> Result<F::Handle> {
        match self {
            Self::Tree(tree) => stage.fill(tree, how).await,
            Self::Archive(archive) => archive.unpack(stage, how).await,
        }
    }
}

/// Finds what a volume of that capacity is to be made of.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Precondition`] for a snapshot that is not ready.
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
        (_, Found::Own(record)) if record.state != State::Ready => {
            Err(Error::Precondition(format!("snapshot `{id}` is not ready yet")))
        }
        (export, Found::Own(record)) => {
            let (name, size) = (record.id.name, record.size);
            let path = snapshot_tree(&name)?;
            Ok(Content::Tree(Tree { export, path, of: id.to_string(), size, snapshot: Some(name) }))
        }
        (export, Found::Archive(found)) => {
            // A volume without a size gets what there is room for.
            let limit = Some(capacity.choose()).filter(|&chosen| chosen > 0).unwrap_or(u64::MAX);
            Ok(Content::Archive(Archive::new(export, found, limit)))
        }
    }
}

/// Finds the tree of a volume that is to be copied.
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
    let size = found.record.as_ref().map_or(0, |record| record.capacity);
    let path = found.record.as_ref().map_or_else(|| Ok(id.sub_dir.names().collect()), Record::path)?;
    Ok(Tree { export, path, of: id.to_string(), size, snapshot: None })
}
