//! A tree to copy, and the staging directory that receives the copy.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::export::copy::{self, CopyError, Side, copy_tree};
use crate::export::fs::{Attr, Fs, Name, Status};
use crate::export::locks::Guard;
use crate::export::progress::Progress;
use crate::export::{Export, trash};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::record::Record;
use crate::snapshot::turns::Place;
use crate::volume::find;
use crate::volume::id::VolumeId;
use crate::volume::record_file::RecordFile as _;

/// A tree to copy: a directory on an export.
pub struct Tree<F: Fs> {
    /// The export that the directory is on.
    pub export: Arc<Export<F>>,
    /// The path of the directory below the share.
    pub path: Vec<Name>,
    /// The volume or snapshot.
    pub of: Of,
    /// The least size in bytes of a volume with this content, when it was found; 0 if unknown.
    pub size: u64,
    /// The generation of the volume's or snapshot's record; `None` if it has no record.
    pub generation: Option<u64>,
}

/// The object that a tree belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// A volume.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl Of {
    /// The size and the generation in the object's record now; 0 and `None` if it has no record.
    async fn recorded<F: Fs>(&self, export: &Export<F>) -> Result<(u64, Option<u64>)> {
        let recorded = match self {
            Self::Volume(id) => find::read_own(export, id).await?.map(|record| (record.capacity, record.generation)),
            Self::Snapshot(id) => Record::read(export, &id.name).await?.map(|record| (record.size, record.generation)),
        };
        Ok(recorded.unwrap_or_default())
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => id.fmt(f),
            Self::Snapshot(id) => id.fmt(f),
        }
    }
}

impl<F: Fs> Clone for Tree<F> {
    fn clone(&self) -> Self {
        Self {
            export: self.export.clone(),
            path: self.path.clone(),
            of: self.of.clone(),
            size: self.size,
            generation: self.generation,
        }
    }
}

impl<F: Fs> Tree<F> {
    /// The tree on the connection of `target`, if both are on one export: then the server does the copying.
    fn seen_from(&self, target: &Arc<Export<F>>) -> Self {
        let export = if self.export.source() == target.source() { target } else { &self.export };
        Self { export: export.clone(), ..self.clone() }
    }

    /// The volume or snapshot, for a message.
    fn what(&self) -> String {
        match &self.of {
            Of::Volume(id) => format!("volume `{id}`"),
            Of::Snapshot(id) => format!("snapshot `{id}`"),
        }
    }

    async fn open(&self) -> Result<(F::Handle, Attr)> {
        let fs = self.export.fs();
        let found = self.export.find_dir(&fs.root(), self.path.iter().cloned()).await?;
        let gone = || Error::not_found(self.what(), format!("{} has no such directory", self.export.source()));
        let dir = found.ok_or_else(gone)?;
        let attr = fs.getattr(&dir).await.map_err(|e| self.export.failed(format!("opening {}", self.what()), e))?;
        Ok((dir, attr))
    }

    /// Checks that the directory exists.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn check(&self) -> Result<()> {
        self.open().await.map(drop)
    }

    /// The size that the volume or snapshot has now: a volume may have been expanded since it was found.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if it is gone, or another one of the same name is in its place.
    pub async fn size_now(&self) -> Result<u64> {
        let (size, generation) = self.of.recorded(&self.export).await?;
        match generation == self.generation {
            true => Ok(size),
            false => Err(Error::Interrupted(format!("{} was deleted during the copy; call again", self.what()))),
        }
    }
}

/// How to copy trees.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// The options of the copy engine.
    pub options: copy::Options,
    /// How much has been copied.
    pub progress: Progress,
    /// The copy's place among those on its server. It takes its turn when it has its locks.
    pub place: Place,
    /// Cancels the copy.
    pub cancel: CancellationToken,
    /// Cancelled when the process ends. Pending records then stay, and a retry with the next process continues.
    pub ending: CancellationToken,
}

/// A staging directory. As long as this value lives, no other call and no other controller uses it.
pub struct Stage<F: Fs> {
    export: Arc<Export<F>>,
    name: Name,
    _lock: Guard<F>,
}

impl<F: Fs> Stage<F> {
    /// Waits for the staging directory `job`, and removes what an earlier process left there.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if `cancel` is cancelled first.
    pub async fn take(export: &Arc<Export<F>>, job: &str, cancel: &CancellationToken) -> Result<Self> {
        let names = [job];
        let lock = tokio::select! {
            lock = export.lock(&names) => lock?,
            () = cancel.cancelled() => {
                let reason = "waiting for another controller's copy was interrupted; call again";
                return Err(Error::Interrupted(reason.to_owned()));
            }
        };
        let name = Name::new(job).map_err(|e| export.failed(format!("naming `{job}` in staging"), e))?;
        let stage = Self { export: export.clone(), name, _lock: lock };
        stage.discard().await?;
        Ok(stage)
    }

    /// Removes the staging directory `job`, unless a copy is using it.
    pub async fn clear(export: &Export<F>, job: &str) -> Result<()> {
        let name = Name::new(job).map_err(|e| export.failed(format!("naming `{job}` in staging"), e))?;
        let layout = export.make_layout().await?;
        if export.find(&layout.staging, &name).await?.is_none() {
            return Ok(());
        }
        match export.try_lock(job).await? {
            Some(_lock) => trash::discard(export, &layout.staging, &name).await.map(drop),
            None => Ok(()),
        }
    }

    /// The directory's name in staging.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The export that the staging directory is on.
    pub fn export(&self) -> &Arc<Export<F>> {
        &self.export
    }

    /// Creates the staging directory, and returns it.
    pub async fn make(&self) -> Result<F::Handle> {
        let layout = self.export.make_layout().await?;
        let made = self.export.fs().mkdir(&layout.staging, &self.name, 0o700).await;
        made.map(|(dir, _)| dir).map_err(|e| self.export.failed(format!("creating `{}` in staging", self.name), e))
    }

    /// Copies a whole tree here. Returns the root of the copy, and the least size in bytes of a volume with this content:
    /// the size that the volume or snapshot has after the copy, or what was copied if that is unknown.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the tree was deleted or moved before the copy ended; [`Error::Interrupted`] if its volume
    /// or snapshot was, and its directory was kept or belongs to another of the same name, or if the copy was cancelled;
    /// [`Error::Export`] with the path that could not be copied.
    pub async fn fill(&self, source: &Tree<F>, how: &How) -> Result<(F::Handle, u64)> {
        let source = source.seen_from(&self.export);
        let (from, before) = source.open().await?;
        let to = self.make().await?;
        let target = self.export.fs();
        let copied = copy_tree(source.export.fs(), &from, target, &to, &how.options, &how.progress, &how.cancel).await;
        let totals = match copied {
            Ok(totals) => totals,
            Err(CopyError::Cancelled) => {
                return Err(Error::Interrupted(format!("copying {} was interrupted; call again", source.what())));
            }
            Err(CopyError::Failed { side, action, path, status }) => {
                // If the whole tree was deleted, that error says more than one about a path in it.
                if side == Side::Source && matches!(status, Status::NoEnt | Status::Stale) {
                    self.check_in_place(&source, before.fileid).await?;
                }
                let export = if side == Side::Source { &source.export } else { &self.export };
                return Err(export.failed(format!("copying {}: {action} `{path}`", source.what()), status));
            }
        };
        self.check_in_place(&source, before.fileid).await?;
        // The server may have given the directory of another volume the same file ID. Or a deletion kept the directory.
        let size = source.size_now().await?;
        Ok((to, if size == 0 { totals.bytes } else { size }))
    }

    async fn check_in_place(&self, source: &Tree<F>, fileid: u64) -> Result<()> {
        match source.open().await {
            Ok((_, now)) if now.fileid == fileid => Ok(()),
            Ok(_) | Err(Error::NotFound { .. }) => {
                Err(Error::not_found(source.what(), "it was deleted during the copy"))
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the staging directory.
    pub async fn discard(&self) -> Result<()> {
        let layout = self.export.make_layout().await?;
        trash::discard(&self.export, &layout.staging, &self.name).await.map(drop)
    }
}
