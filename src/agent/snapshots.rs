//! Accounts the space of snapshots. All snapshots of an export belong to one project of their own, so that the file
//! system counts their space and charges it to no volume.
//!
//! The tree of a snapshot does not change. Its content gets the project ID first and its root last, so a tree whose
//! root has the ID is complete.

use crate::agent::projects::Projects;
use crate::agent::queue::{Item, Urgency};
use crate::agent::reconciler::{Reconciler, name};
use crate::agent::walk::{Purpose, Walk};
use crate::error::Result;
use crate::export::fs::{Fs, Kind, Name};
use crate::volume::limits::Limits;
use crate::volume::quota::{SNAPSHOTS, Snapshots, read_in};

/// A limit that no export reaches. It marks the project ID of snapshots as used.
pub(crate) const KEPT: Limits = Limits { bytes: Some(1 << 60), inodes: None };

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Reports how much space snapshots take, if that changed.
    pub(super) async fn report_usage(&mut self) -> Result<()> {
        let Some(project) = self.snapshots else { return Ok(()) };
        let used = self.used(project).await?;
        if used.limits != KEPT {
            self.keep(project).await?;
        }
        let before: Option<Snapshots> = read_in(&self.export, &self.quota, &name(SNAPSHOTS)?).await?;
        let now = Snapshots { project, bytes: used.bytes, inodes: used.inodes };
        if before == Some(now) { Ok(()) } else { self.write(&self.quota, &name(SNAPSHOTS)?, &now).await }
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

    /// Accounts the tree of a snapshot. `walked` is the project that a walk has given to its content. Returns whether
    /// nothing is left to do: a walk may be under way.
    pub(super) async fn count_tree(&mut self, tree: &Name, walked: Option<u32>) -> Result<bool> {
        let Some(layout) = self.export.layout().await? else { return Ok(true) };
        // `None`: the snapshot was deleted meanwhile.
        let found = self.export.find(&layout.snapshots, tree).await?;
        let Some((root, _)) = found.filter(|(_, attr)| attr.kind == Kind::Directory) else { return Ok(true) };
        let project = match self.snapshots {
            Some(project) => project,
            None => self.give_project().await?,
        };
        let failed = |status| self.export.failed(format!("setting the project ID of `{tree}`"), status);
        if self.projects.of(&root).await.map_err(failed)?.0 == project {
            return Ok(true);
        }
        if walked != Some(project) {
            let walk = Walk::new(root.clone(), Purpose::Assign(project));
            let ended = self.walk(Item::Snapshot(tree.clone()), walk).await;
            if !ended.map_err(|status| self.export.failed(format!("counting what is in `{tree}`"), status))? {
                return Ok(false);
            }
        }
        let assigned = self.projects.assign(&root, Kind::Directory, project).await;
        assigned.map_err(|status| self.export.failed(format!("setting the project ID of `{tree}`"), status))?;
        self.queue.push(Item::Usage, Urgency::Change);
        Ok(true)
    }
}
