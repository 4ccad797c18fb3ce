//! Repairs the findings of `csi-nfs check`, if the repair cannot lose data.
//!
//! A finding may be minutes old, and the driver may be serving meanwhile. So each repair takes the driver's lock,
//! checks that the finding still holds, and only then acts. The agent repairs limits from the records. An entry in
//! staging is removed only if nobody holds its lock. Nothing in the trash is ever used again.

use super::{Finding, quotas};
use crate::error::Result;
use crate::export::fs::Fs;
use crate::export::{Export, trash};
use crate::nfs::source::SubDir;
use crate::snapshot::{delete as snapshots, group as groups};
use crate::volume::id::VolumeName;
use crate::volume::lock::lock_directory;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory_owners, kept};

/// Repairs the findings that can be repaired. Another check finds those that remain.
pub async fn repair<F: Fs>(export: &Export<F>, findings: &[Finding]) -> Result<()> {
    for finding in findings {
        match finding {
            Finding::OwnerMissing { volume, directory } => add_owner(export, volume, directory).await?,
            Finding::OwnerStale { owner } => remove_owner(export, owner).await?,
            Finding::KeptStale { volume, directory } => {
                let name = VolumeName::parse("volume", volume)?;
                kept::mend(export, &SubDir::parse("directory", directory)?, &name).await?;
            }
            // The record or directory may be the last trace of somebody's data.
            Finding::RecordUnreadable { .. }
            | Finding::DirectoryMissing { .. }
            | Finding::DirectoryUnrecorded { .. }
            | Finding::OtherFileSystem { .. }
            | Finding::VolumeKept { .. }
            | Finding::TreeMissing { .. }
            | Finding::TreeUnrecorded { .. }
            | Finding::NoteMissing { .. }
            | Finding::MemberMissing { .. }
            | Finding::GroupMissing { .. } => {}
            // A retry of the call continues the pending work. A deletion of the snapshot removes its stale notes.
            Finding::VolumePending { .. }
            | Finding::SnapshotPending { .. }
            | Finding::GroupPending { .. }
            | Finding::NoteStale { .. } => {}
            Finding::GroupDeleted { group } => {
                groups::finish_deletion(export, &VolumeName::parse("group", group)?).await?;
            }
            Finding::SnapshotUnused { snapshot } => {
                snapshots::finish_deletion(export, &VolumeName::parse("snapshot", snapshot)?).await?;
            }
            // Repaired together, below.
            Finding::StagingLeftover { .. } | Finding::TrashLeftover { .. } => {}
            Finding::LimitNotInForce { .. } | Finding::LimitLeft { .. } | Finding::ProjectShared { .. } => {}
        }
    }
    if findings.iter().any(quotas::is_about_quotas) {
        quotas::repair(export).await?;
    }
    trash::sweep_staging(export).await?;
    trash::clear(export).await.map(drop)
}

async fn add_owner<F: Fs>(export: &Export<F>, volume: &str, directory: &str) -> Result<()> {
    let (name, sub_dir) = (VolumeName::parse("volume", volume)?, SubDir::parse("directory", directory)?);
    let _lock = lock_directory(export, Some(&name), &sub_dir).await?;
    match Record::read(export, &name).await? {
        Some(record) if record.id.sub_dir == sub_dir => directory_owners::claim(export, &record.id).await,
        _ => Ok(()),
    }
}

async fn remove_owner<F: Fs>(export: &Export<F>, owner: &str) -> Result<()> {
    // The driver did not write an entry of another form, so leave it.
    let Some((directory, name)) = owner.rsplit_once("/#/") else { return Ok(()) };
    let Ok(name) = VolumeName::parse("volume", name) else { return Ok(()) };
    let Ok(sub_dir) = SubDir::parse("directory", directory) else { return Ok(()) };
    let _lock = lock_directory(export, Some(&name), &sub_dir).await?;
    match Record::read(export, &name).await? {
        Some(record) if record.id.sub_dir == sub_dir => Ok(()),
        _ => directory_owners::remove_entry(export, &sub_dir, &name.file("")?).await,
    }
}

#[cfg(test)]
mod tests;
