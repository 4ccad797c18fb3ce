//! Filling a volume: with a copy of another volume or of a snapshot, or with what an archive holds.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::snapshot::archive::Archive;
use crate::snapshot::tree::{How, Stage, Tree};
use crate::volume::fill;
use crate::volume::id::VolumeName;
use crate::volume::lifecycle;
use crate::volume::record::Record;

/// What a volume is filled with.
pub enum Content<F: Fs> {
    /// A copy of a tree.
    Tree(Tree<F>),
    /// What is in an archive.
    Archive(Archive<F>),
}

impl<F: Fs> Content<F> {
    /// The export that it is on.
    pub fn export(&self) -> &Arc<Export<F>> {
        match self {
            Self::Tree(tree) => &tree.export,
            Self::Archive(archive) => archive.export(),
        }
    }

    async fn fill(&self, stage: &Stage<F>, how: &How) -> Result<F::Handle> {
        match self {
            Self::Tree(tree) => stage.fill(tree, how).await,
            Self::Archive(archive) => archive.unpack(stage, how).await,
        }
    }
}

/// What the copy for a volume is called in staging, and its lock. (No volume's name has a `#`.)
pub fn job(name: &VolumeName) -> String {
    format!("#volume#{name}")
}

/// Fills a volume that is pending, and makes it whole. One that cannot be filled is given up.
///
/// # Errors
/// As [`Stage::fill`] and [`Archive::unpack`]; [`Error::Interrupted`] where the volume was deleted meanwhile; [`Error::Conflict`] where something is
/// in its directory.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName, content: &Content<F>, how: &How) -> Result<()> {
    let stage = Stage::take(export, &job(name), &how.cancel).await?;
    let record = match Record::read(export, name).await? {
        Some(record) if !record.pending => return Ok(()),
        Some(record) => record,
        None => return Err(Error::Interrupted(format!("volume `{name}` was deleted while it was filled"))),
    };
    let (record, filled) = if fill::is_placed(export, &record).await? {
        (record, Ok(None))
    } else {
        let record = fill::begin_anew(export, record, name).await?;
        let filled = match fill::check_free(export, &record).await {
            Ok(()) => content.fill(&stage, how).await.map(Some),
            Err(taken) => Err(taken),
        };
        (record, filled)
    };
    let root = match filled {
        Ok(root) => root,
        Err(error) => {
            give_up(export, &stage, &record, name, how).await?;
            return Err(error);
        }
    };
    let lock = lifecycle::lock(export, &record.id).await?;
    let placed = match root {
        Some(root) => fill::place(export, &record, name, (&root, stage.name()), &lock).await,
        None => Ok(record.clone()),
    };
    if let Err(error @ (Error::Conflict { .. } | Error::Interrupted(_))) = placed {
        drop(lock);
        give_up(export, &stage, &record, name, how).await?;
        return Err(error);
    }
    fill::finish(export, &placed?, name, &lock).await.map(drop)
}

async fn give_up<F: Fs>(
    export: &Export<F>,
    stage: &Stage<F>,
    record: &Record,
    name: &VolumeName,
    how: &How,
) -> Result<()> {
    stage.discard().await?;
    if how.ending.is_cancelled() {
        return Ok(());
    }
    let lock = lifecycle::lock(export, &record.id).await?;
    fill::abandon(export, record, name, &lock).await
}
