//! Keeps inherited projects off the driver's own directories.
//!
//! If the root of an export has a project of its own that new objects inherit, `.csi-nfs` has it too. XFS moves nothing
//! of another project into a directory that hands down its project (rename(2), EXDEV): no volume with a limit into the
//! trash, and no snapshot into its place. So the driver's directories hand nothing down. Only staging does as the
//! export's root does, because what is made there is moved to where it would have inherited that project.

use crate::agent::projects::Projects;
use crate::agent::queue::Item;
use crate::agent::reconciler::{DISINHERITING, Reconciler, name};
use crate::agent::walk::{Purpose, Walk};
use crate::error::{Error, Result};
use crate::export::fs::{Fs, Kind, Status};
use crate::nfs::source::SubDir;

/// The driver's directories that hand nothing down, below the root; staging and the trees of snapshots are not among
/// them. The last one is a tree, and is changed after what is in it, so that an interrupted change is repeated.
const OWN: [&[&str]; 8] =
    [&[], &["volumes"], &["trash"], &["promised"], &["quota"], &["quota", "volumes"], &["snapshots"], &["paths"]];

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Takes inherited projects off the driver's own directories. Returns whether nothing is left to do: a walk may be
    /// under way.
    pub(super) async fn disinherit(&mut self, walked: bool) -> Result<bool> {
        let source = self.export.source().to_string();
        let failed =
            |status: Status| Error::Export { export: source.clone(), action: DISINHERITING.to_owned(), status };
        let root = self.export.fs().root();
        let (project, inherits) = self.projects.of(&root).await.map_err(failed)?;
        let Some(layout) = self.export.layout().await? else { return Ok(true) };
        let staging = &layout.staging;
        if self.projects.of(staging).await.map_err(failed)? != (project, inherits) {
            let done = match inherits {
                true => self.projects.assign(staging, Kind::Directory, project).await,
                false => self.projects.disinherit(staging).await,
            };
            done.map_err(failed)?;
        }
        let mut changed = false;
        for path in OWN {
            let path = [SubDir::PRIVATE].iter().chain(path).map(|part| name(part)).collect::<Result<Vec<_>>>()?;
            let is_tree = path.last() == Some(&name("paths")?);
            let Some(directory) = self.export.find_dir(&root, path).await? else { continue };
            if !self.projects.of(&directory).await.map_err(failed)?.1 {
                continue;
            }
            if is_tree && !walked {
                let walk = Walk::new(directory.clone(), Purpose::Disinherit);
                if !self.walk(Item::Directories, walk).await.map_err(failed)? {
                    return Ok(false);
                }
            }
            self.projects.disinherit(&directory).await.map_err(failed)?;
            changed = true;
        }
        if changed {
            let path = self.export.source().share.to_string();
            tracing::info!(path, project, "the driver's own directories no longer inherit the export's project");
        }
        Ok(true)
    }
}
