//! Repairs what `csi-nfs check` found, as far as nothing can be lost by it.
//!
//! A finding may be minutes old, and the driver may be serving meanwhile. So each repair takes the lock that the driver takes,
//! looks again whether that very finding still holds, and only then acts. Limits are the agent's to repair, which looks at
//! the records again by itself; staging is swept only where nobody holds the lock; nothing in the trash ever comes back.

use super::{Finding, limits};
use crate::error::Result;
use crate::export::fs::Fs;
use crate::export::{Export, trash};
use crate::nfs::source::SubDir;
use crate::snapshot::{delete as snapshots, group as groups};
use crate::volume::id::VolumeName;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{directory_owners, kept};

/// Mends what it can. What remains is found by another check.
pub async fn repair<F: Fs>(export: &Export<F>, findings: &[Finding]) -> Result<()> {
    for finding in findings {
        match finding {
            Finding::ClaimMissing { volume, directory } => claim(export, volume, directory).await?,
            Finding::ClaimStale { claim } => release(export, claim).await?,
            Finding::KeptStale { volume, directory } => {
                let name = VolumeName::parse("volume", volume)?;
                kept::mend(export, &SubDir::parse("directory", directory)?, &name).await?;
            }
            // A record or a directory may be all that is left of somebody's data.
            Finding::RecordUnreadable { .. }
            | Finding::DirectoryMissing { .. }
            | Finding::DirectoryUnrecorded { .. }
            | Finding::VolumeKept { .. }
            | Finding::TreeMissing { .. }
            | Finding::TreeUnrecorded { .. }
            | Finding::NoteMissing { .. }
            | Finding::MemberMissing { .. }
            | Finding::GroupMissing { .. } => {}
            // A retry of the call that began it goes on with it, and a deletion of the snapshot reads its notes anew.
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
            // All at once, below.
            Finding::StagingLeftover { .. } | Finding::TrashLeftover { .. } => {}
            Finding::LimitNotInForce { .. } | Finding::LimitLeft { .. } | Finding::ProjectShared { .. } => {}
        }
    }
    if findings.iter().any(limits::is_of_limits) {
        limits::mend(export).await?;
    }
    trash::sweep_staging(export).await?;
    trash::clear(export).await.map(drop)
}

async fn claim<F: Fs>(export: &Export<F>, volume: &str, directory: &str) -> Result<()> {
    let (name, sub_dir) = (VolumeName::parse("volume", volume)?, SubDir::parse("directory", directory)?);
    let _lock = export.lock(&[name.as_str(), sub_dir.first()]).await?;
    match Record::read(export, &name).await? {
        Some(record) if record.id.sub_dir == sub_dir => directory_owners::claim(export, &record.id).await,
        _ => Ok(()),
    }
}

async fn release<F: Fs>(export: &Export<F>, claim: &str) -> Result<()> {
    // One that is of no form of the driver's is none of its own.
    let Some((directory, name)) = claim.rsplit_once("/#/") else { return Ok(()) };
    let Ok(name) = VolumeName::parse("volume", name) else { return Ok(()) };
    let Ok(sub_dir) = SubDir::parse("directory", directory) else { return Ok(()) };
    let _lock = export.lock(&[name.as_str(), sub_dir.first()]).await?;
    match Record::read(export, &name).await? {
        Some(record) if record.id.sub_dir == sub_dir => Ok(()),
        _ => directory_owners::remove_entry(export, &sub_dir, &name.file("")?).await,
    }
}

#[cfg(test)]
mod tests;
