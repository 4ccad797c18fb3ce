//! A tree that is copied, and the place in staging that its copy is made in.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::export::copy::{self, CopyError, Progress, Side, copy_tree};
use crate::export::fs::{Attr, Fs, Name, Status};
use crate::export::locks::Guard;
use crate::export::{Export, trash};
use crate::volume::id::VolumeName;

/// What is copied: a directory on an export.
pub struct Tree<F: Fs> {
    /// Where it is.
    pub export: Arc<Export<F>>,
    /// The names that lead to it from the share.
    pub path: Vec<Name>,
    /// The identifier of the volume, or of the snapshot, that it is.
    pub of: String,
    /// The bytes that a volume with this content has at least; 0 where that is not known.
    pub size: u64,
    /// The name of the snapshot that it is; `None` for a volume.
    pub snapshot: Option<VolumeName>,
}

impl<F: Fs> Clone for Tree<F> {
    fn clone(&self) -> Self {
        Self {
            export: self.export.clone(),
            path: self.path.clone(),
            of: self.of.clone(),
            size: self.size,
            snapshot: self.snapshot.clone(),
        }
    }
}

impl<F: Fs> Tree<F> {
    /// The tree as a copy to `target` reads it: where both are one export, the server does the copying.
    fn seen_from(&self, target: &Arc<Export<F>>) -> Self {
        let export = if self.export.source() == target.source() { target } else { &self.export };
        Self { export: export.clone(), ..self.clone() }
    }

    /// What to call it in a message.
    fn what(&self) -> String {
        let kind = if self.snapshot.is_some() { "snapshot" } else { "volume" };
        format!("{kind} `{}`", self.of)
    }

    async fn open(&self) -> Result<(F::Handle, Attr)> {
        let fs = self.export.fs();
        let found = self.export.find_dir(&fs.root(), self.path.iter().cloned()).await?;
        let gone = || Error::not_found(self.what(), format!("{} has no such directory", self.export.source()));
        let dir = found.ok_or_else(gone)?;
        let attr = fs.getattr(&dir).await.map_err(|e| self.export.failed(format!("opening {}", self.what()), e))?;
        Ok((dir, attr))
    }

    /// Refuses a tree that is not there.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn check(&self) -> Result<()> {
        self.open().await.map(drop)
    }
}

/// How trees are copied.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// Options of the copy engine.
    pub options: copy::Options,
    /// What is copied already.
    pub progress: Progress,
    /// Ends the copy.
    pub cancel: CancellationToken,
    /// The process ends: what is begun is left for the caller's retry, which finds another process.
    pub ending: CancellationToken,
}

/// A place in staging, which nobody else uses as long as this lives: neither in this process nor another controller.
pub struct Stage<F: Fs> {
    export: Arc<Export<F>>,
    name: Name,
    _lock: Guard<F>,
}

impl<F: Fs> Stage<F> {
    /// Waits for the place called `job`, unless it is cancelled; what an earlier process left there goes.
    pub async fn take(export: &Arc<Export<F>>, job: &str, cancel: &CancellationToken) -> Result<Self> {
        let names = [job];
        let lock = tokio::select! {
            lock = export.lock(&names) => lock?,
            () = cancel.cancelled() => {
                return Err(Error::Interrupted("waiting for another controller's copy was broken off; call again".to_owned()));
            }
        };
        let name = Name::new(job).map_err(|e| export.failed(format!("naming `{job}` in staging"), e))?;
        let stage = Self { export: export.clone(), name, _lock: lock };
        stage.discard().await?;
        Ok(stage)
    }

    /// Clears the place called `job`, if nobody uses it.
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

    /// What it is called in staging.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The export that it is on.
    pub fn export(&self) -> &Arc<Export<F>> {
        &self.export
    }

    /// Makes the root of what is to be here.
    pub async fn make(&self) -> Result<F::Handle> {
        let layout = self.export.make_layout().await?;
        let made = self.export.fs().mkdir(&layout.staging, &self.name, 0o700).await;
        made.map(|(dir, _)| dir).map_err(|e| self.export.failed(format!("creating `{}` in staging", self.name), e))
    }

    /// Copies a tree here, whole; answers its root.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the tree is gone, or not where it was, when the copy ends; [`Error::Interrupted`] where it
    /// was cancelled; [`Error::Export`] with the path that could not be copied.
    pub async fn fill(&self, source: &Tree<F>, how: &How) -> Result<F::Handle> {
        let source = source.seen_from(&self.export);
        let (from, before) = source.open().await?;
        let to = self.make().await?;
        let target = self.export.fs();
        let copied = copy_tree(source.export.fs(), &from, target, &to, &how.options, &how.progress, &how.cancel).await;
        match copied {
            Ok(_) => {}
            Err(CopyError::Cancelled) => {
                return Err(Error::Interrupted(format!("copying {} was broken off; call again", source.what())));
            }
            Err(CopyError::Failed { side, action, path, status }) => {
                // That it is gone says more than what could not be read of it.
                if side == Side::Source && matches!(status, Status::NoEnt | Status::Stale) {
                    self.check_in_place(&source, before.fileid).await?;
                }
                let export = if side == Side::Source { &source.export } else { &self.export };
                return Err(export.failed(format!("copying {}: {action} `{path}`", source.what()), status));
            }
        }
        self.check_in_place(&source, before.fileid).await?;
        Ok(to)
    }

    async fn check_in_place(&self, source: &Tree<F>, fileid: u64) -> Result<()> {
        match source.open().await {
            Ok((_, now)) if now.fileid == fileid => Ok(()),
            Ok(_) | Err(Error::NotFound { .. }) => {
                Err(Error::not_found(source.what(), "it was deleted while it was copied"))
            }
            Err(error) => Err(error),
        }
    }

    /// Clears the place.
    pub async fn discard(&self) -> Result<()> {
        let layout = self.export.make_layout().await?;
        trash::discard(&self.export, &layout.staging, &self.name).await.map(drop)
    }
}
