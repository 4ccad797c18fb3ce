//! Accounts the space of snapshots. All snapshots of an export belong to one project of their own, so that the file
//! system counts their space and charges it to no volume.
//!
//! The tree of a snapshot does not change. Its content gets the project ID first and its root last, so a tree whose
//! root has the ID is complete.

use crate::agent::projects::Projects;
use crate::agent::reconciler::{Reconciler, name};
use crate::error::Result;
use crate::export::fs::{Fs, Kind, Name};
use crate::volume::id::VolumeName;
use crate::volume::limits::Limits;
use crate::volume::quota::{SNAPSHOTS, Snapshots, read_in};

/// A limit that no export reaches. It marks the project ID of snapshots as used.
pub(crate) const KEPT: Limits = Limits { bytes: Some(1 << 60), inodes: None };

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Accounts the space of snapshots, and records the space if it changed. Returns whether it accounted every
    /// snapshot.
    pub async fn count_snapshots(&mut self) -> bool {
        self.try_count().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "accounting snapshots failed; the agent retries");
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
                tracing::warn!(snapshot = %tree, %error, "accounting a snapshot failed; the agent retries");
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

    /// Gives snapshots a project. From now on the project is in use, even if no object belongs to it.
    async fn give_project(&mut self) -> Result<u32> {
        let ids = self.ids.clone();
        let _choosing = ids.lock().await;
        let project = self.free_id().await?;
        // Write the record first: after a crash, no one would free an ID that has a limit but no record.
        self.write(&self.quota, &name(SNAPSHOTS)?, &Snapshots { project, ..Snapshots::default() }).await?;
        self.keep(project).await?;
        self.snapshots = Some(project);
        Ok(project)
    }

    async fn keep(&self, project: u32) -> Result<()> {
        let kept = self.projects.limit(project, KEPT).await;
        kept.map_err(|e| self.export.failed("reserving a project ID for snapshots", e))
    }

    async fn count_tree(&self, snapshots: &F::Handle, tree: &Name, project: u32) -> Result<()> {
        // `None`: the snapshot was deleted meanwhile.
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
