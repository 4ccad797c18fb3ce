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
use crate::volume::{claims, kept};

/// Repairs the findings that can be repaired. Another check finds those that remain.
pub async fn repair<F: Fs>(export: &Export<F>, findings: &[Finding]) -> Result<()> {
    for finding in findings {
        match finding {
            Finding::OwnerMissing { volume, directory } => add_owner(export, volume, directory).await?,
            Finding::OwnerStale { volume, directory } => remove_owner(export, volume, directory).await?,
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
        Some(record) if record.id.sub_dir == sub_dir => claims::claim(export, &record.id, None).await,
        _ => Ok(()),
    }
}

async fn remove_owner<F: Fs>(export: &Export<F>, volume: &str, directory: &str) -> Result<()> {
    let (name, sub_dir) = (VolumeName::parse("volume", volume)?, SubDir::parse("directory", directory)?);
    let _lock = lock_directory(export, Some(&name), &sub_dir).await?;
    match Record::read(export, &name).await? {
        Some(record) if record.id.sub_dir == sub_dir => Ok(()),
        _ => claims::remove(export, &sub_dir, &name).await,
    }
}

#[cfg(test)]
mod tests;
