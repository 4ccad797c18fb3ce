//! The space that snapshots use. It is charged to no volume, but to a project of its own, so that the file system
//! accounts it.
//!
//! The tree of a snapshot does not change. Its content gets the project ID first and its root last, so a tree whose
//! root has the ID is done.

use crate::agent::projects::Projects;
use crate::agent::reconciler::{Reconciler, name};
use crate::error::Result;
use crate::export::fs::{Fs, Kind, Name};
use crate::volume::id::VolumeName;
use crate::volume::limits::Limits;
use crate::volume::quota::{SNAPSHOTS, Snapshots, read_in};

/// A limit that is never reached. An ID that has a limit is not given to others.
pub(crate) const KEPT: Limits = Limits { bytes: Some(1 << 60), inodes: None };

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Accounts the space of snapshots, and records it if it changed. Returns whether every snapshot could be
    /// accounted.
    pub async fn count_snapshots(&mut self) -> bool {
        self.try_count().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "snapshots are not counted; will be tried again");
            false
        })
    }

    async fn try_count(&mut self) -> Result<bool> {
        let Some(layout) = self.export.layout().await? else { return Ok(true) };
        let mut trees = self.export.names(&layout.snapshots).await?;
        trees.retain(|name| VolumeName::of_file(name, ".tree").is_some());
        let before: Option<Snapshots> = read_in(&self.export, &self.quota, &name(SNAPSHOTS)?).await?;
        self.snapshots = before.map(|before| before.project).filter(|id| self.range.contains(id));
        if self.snapshots.is_none() && trees.is_empty() {
            return Ok(true);
        }
        let project = match self.snapshots {
            Some(project) => project,
            None => self.give_project().await?,
        };
        let mut all = true;
        for tree in trees {
            if let Err(error) = self.count_tree(&layout.snapshots, &tree, project).await {
                tracing::warn!(snapshot = %tree, %error, "a snapshot is not counted; will be tried again");
                all = false;
            }
        }
        let used = self.used(project).await?;
        if used.limits != KEPT {
            self.keep(project).await?;
        }
        let now = Snapshots { project, bytes: used.bytes, inodes: used.inodes };
        if before != Some(now) {
            self.write(&self.quota, &name(SNAPSHOTS)?, &now).await?;
        }
        Ok(all)
    }

    /// Gives snapshots a project. From now on it is in use, even if no object belongs to it.
    async fn give_project(&mut self) -> Result<u32> {
        let ids = self.ids.clone();
        let _choosing = ids.lock().await;
        let project = self.free_id().await?;
        // This is written first: an ID with a limit that nothing names could not be given to anyone again.
        self.write(&self.quota, &name(SNAPSHOTS)?, &Snapshots { project, ..Snapshots::default() }).await?;
        self.keep(project).await?;
        self.snapshots = Some(project);
        Ok(project)
    }

    async fn keep(&self, project: u32) -> Result<()> {
        let kept = self.projects.limit(project, KEPT).await;
        kept.map_err(|e| self.export.failed("keeping a project ID for snapshots", e))
    }

    async fn count_tree(&self, snapshots: &F::Handle, tree: &Name, project: u32) -> Result<()> {
        // It was deleted meanwhile.
        let Some((root, attr)) = self.export.find(snapshots, tree).await? else { return Ok(()) };
        if attr.kind != Kind::Directory {
            return Ok(());
        }
        let failed = |status| self.export.failed(format!("setting the project ID of `{tree}`"), status);
        let (of, _) = self.projects.of(&root).await.map_err(failed)?;
        if of != project {
            self.walk(root.clone(), project).await.map_err(failed)?;
            self.projects.assign(&root, Kind::Directory, project).await.map_err(failed)?;
        }
        Ok(())
    }
}
