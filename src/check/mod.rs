//! Do the records on an export and its directories agree?
//!
//! Run on an export at rest: what an operation under way has in staging, or has not recorded yet, is reported like what
//! a crash left.

mod directory_owners;
mod groups;
mod limits;
mod repair;
mod report;
mod snapshots;

pub use repair::repair;
pub use report::{Report, Settings, run};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Fs, Kind, Name};
use crate::nfs::source::SubDir;
use crate::snapshot::archive;
use crate::volume::id::VolumeName;
use crate::volume::parameters::ARCHIVED;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// Something on an export that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "finding", rename_all = "camelCase")]
pub enum Finding {
    /// A record that cannot be read.
    RecordUnreadable {
        /// Its file in `.csi-nfs/volumes`.
        file: String,
        /// Why.
        reason: String,
    },
    /// A volume whose directory is gone.
    DirectoryMissing {
        /// The volume's name.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A directory that belongs to no volume with a record: made by hand, by csi-driver-nfs, or left by a crash.
    DirectoryUnrecorded {
        /// The directory.
        directory: String,
    },
    /// A volume with a directory of another name, that nothing protects from a volume inside it.
    ClaimMissing {
        /// The volume's name.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A claim on a directory by a volume that has no record, or another directory.
    ClaimStale {
        /// The claim's path in `.csi-nfs/paths`.
        claim: String,
    },
    /// A directory that stays though its volume was deleted: its class said so, or it was there before the volume.
    VolumeKept {
        /// The name of the volume that was deleted.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// The record of a directory that was kept, and is gone, or in use by a volume of that name again.
    KeptStale {
        /// The name of the volume that was deleted.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A volume that was never filled: its CreateVolume was not repeated.
    VolumePending {
        /// The volume's name.
        volume: String,
    },
    /// A snapshot that was never finished: its CreateSnapshot was not repeated.
    SnapshotPending {
        /// The snapshot's name.
        snapshot: String,
    },
    /// A snapshot whose tree is gone.
    TreeMissing {
        /// The snapshot's name.
        snapshot: String,
    },
    /// Something beside the snapshots' records that belongs to none.
    TreeUnrecorded {
        /// Its name in `.csi-nfs/snapshots`.
        entry: String,
    },
    /// A volume that shows a snapshot, which nothing keeps from going.
    NoteMissing {
        /// The volume's name.
        volume: String,
        /// The snapshot's.
        snapshot: String,
    },
    /// A note that a volume shows a snapshot, which it does not.
    NoteStale {
        /// The note's path in `.csi-nfs/snapshots`.
        note: String,
    },
    /// A snapshot that was deleted, and stays though no volume shows it.
    SnapshotUnused {
        /// The snapshot's name.
        snapshot: String,
    },
    /// A group of snapshots that was never finished: its CreateVolumeGroupSnapshot was not repeated.
    GroupPending {
        /// The group's name.
        group: String,
    },
    /// A group of snapshots whose deletion was not finished, and not repeated.
    GroupDeleted {
        /// The group's name.
        group: String,
    },
    /// A group of snapshots without one of them.
    MemberMissing {
        /// The group's name.
        group: String,
        /// The snapshot's.
        snapshot: String,
    },
    /// A snapshot of a group that has no record, or does not know it: it is not listed, nor restored.
    GroupMissing {
        /// The snapshot's name.
        snapshot: String,
        /// The group's.
        group: String,
    },
    /// A volume whose size is to be a limit, and is none.
    LimitNotInForce {
        /// The volume's name.
        volume: String,
        /// Why.
        reason: String,
    },
    /// A limit of a volume that has none to have, or is gone.
    LimitLeft {
        /// The volume's name.
        volume: String,
    },
    /// Volumes that are counted together.
    ProjectShared {
        /// Their project ID.
        project: u32,
        /// Their names.
        volumes: Vec<String>,
    },
    /// Something in staging.
    StagingLeftover {
        /// Its name.
        entry: String,
    },
    /// Something in the trash.
    TrashLeftover {
        /// Its name.
        entry: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecordUnreadable { file, reason } => write!(f, "record {file} cannot be read: {reason}"),
            Self::DirectoryMissing { volume, directory } => {
                write!(f, "volume {volume} has a record, but its directory {directory} is gone")
            }
            Self::DirectoryUnrecorded { directory } => write!(f, "directory {directory} belongs to no recorded volume"),
            Self::ClaimMissing { volume, directory } => {
                write!(f, "volume {volume} has no claim on its directory {directory}")
            }
            Self::ClaimStale { claim } => write!(f, "claim {claim} is of no volume with that directory"),
            Self::VolumeKept { volume, directory } => {
                write!(f, "volume {volume} was deleted, and its directory {directory} was kept")
            }
            Self::KeptStale { volume, directory } => {
                write!(
                    f,
                    "volume {volume} has a record that its directory {directory} was kept, which it is not any more"
                )
            }
            Self::VolumePending { volume } => write!(f, "volume {volume} was begun and never filled"),
            Self::SnapshotPending { snapshot } => write!(f, "snapshot {snapshot} was begun and never finished"),
            Self::TreeMissing { snapshot } => write!(f, "snapshot {snapshot} has a record, but its tree is gone"),
            Self::TreeUnrecorded { entry } => write!(f, "{entry} belongs to no snapshot with a record"),
            Self::NoteMissing { volume, snapshot } => {
                write!(f, "volume {volume} shows snapshot {snapshot}, and nothing notes it")
            }
            Self::NoteStale { note } => write!(f, "note {note} is of no volume that shows that snapshot"),
            Self::SnapshotUnused { snapshot } => {
                write!(f, "snapshot {snapshot} is deleted, and stays though no volume shows it")
            }
            Self::GroupPending { group } => write!(f, "group {group} of snapshots was begun and never finished"),
            Self::GroupDeleted { group } => {
                write!(f, "group {group} of snapshots is deleted, and not all of it is gone")
            }
            Self::MemberMissing { group, snapshot } => {
                write!(f, "group {group} has a record, but its snapshot {snapshot} has none")
            }
            Self::GroupMissing { snapshot, group } => {
                write!(f, "snapshot {snapshot} is of group {group}, which has no record of it")
            }
            Self::LimitNotInForce { volume, reason } => {
                write!(f, "the size of volume {volume} is no limit: {reason}")
            }
            Self::LimitLeft { volume } => write!(f, "the agent limits volume {volume}, which has no limit to have"),
            Self::ProjectShared { project, volumes } => {
                write!(f, "volumes {} are counted together, by project ID {project}", volumes.join(" and "))
            }
            Self::StagingLeftover { entry } => write!(f, "{entry} is left in staging"),
            Self::TrashLeftover { entry } => write!(f, "{entry} is left in the trash"),
        }
    }
}

/// Reads an export and reports what does not fit, sorted.
pub async fn check<F: Fs>(export: &Export<F>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut recorded: BTreeMap<SubDir, BTreeSet<VolumeName>> = BTreeMap::new();
    let mut records = BTreeMap::new();
    for name in Record::names(export).await? {
        match Record::read(export, &name).await {
            Ok(Some(record)) => {
                if record.pending {
                    findings.push(Finding::VolumePending { volume: name.to_string() });
                }
                recorded.entry(record.id.sub_dir.clone()).or_default().insert(name.clone());
                records.insert(name, record);
            }
            Ok(None) => {}
            Err(error) => {
                let file = Record::file(&name)?.to_string();
                findings.push(Finding::RecordUnreadable { file, reason: error.to_string() });
            }
        }
    }
    for (name, record) in records.iter().filter(|(_, record)| !record.pending) {
        if export.find_dir(&export.fs().root(), record.path()?).await?.is_none() {
            let directory = record.id.sub_dir.to_string();
            findings.push(Finding::DirectoryMissing { volume: name.to_string(), directory });
        }
    }
    let layout = export.layout().await?;
    if let Some(layout) = &layout {
        for (name, sub_dir) in directory_owners::check(export, layout, &records, &mut findings).await? {
            recorded.entry(sub_dir).or_default().insert(name);
        }
    }
    unrecorded(export, &recorded, &mut findings).await?;
    if let Some(layout) = layout {
        snapshots::check(export, &layout, &records, &mut findings).await?;
        limits::check(export, &records, &mut findings).await?;
        let text = |names: Vec<Name>| names.into_iter().map(|name| name.to_string());
        let staging = text(export.names(&layout.staging).await?);
        findings.extend(staging.map(|entry| Finding::StagingLeftover { entry }));
        let trash = text(export.names(&layout.trash).await?);
        findings.extend(trash.map(|entry| Finding::TrashLeftover { entry }));
    }
    findings.sort();
    Ok(findings)
}

/// Directories that are no volume's, and lead to none.
async fn unrecorded<F: Fs>(
    export: &Export<F>,
    recorded: &BTreeMap<SubDir, BTreeSet<VolumeName>>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let mut open = vec![(export.fs().root(), String::new())];
    while let Some((dir, above)) = open.pop() {
        for name in export.names(&dir).await? {
            let text = name.to_string();
            if above.is_empty() && (text == SubDir::PRIVATE || text.starts_with(ARCHIVED)) {
                continue;
            }
            let path = format!("{above}{text}");
            if recorded.keys().any(|sub_dir| sub_dir.as_str() == path) {
                continue;
            }
            let Some((child, attr)) = export.find(&dir, &name).await? else { continue };
            if attr.kind != Kind::Directory {
                continue;
            }
            let inside = format!("{path}/");
            if recorded.keys().any(|sub_dir| sub_dir.as_str().starts_with(&inside)) {
                open.push((child, inside));
            } else if !is_archive(export, &path).await? {
                findings.push(Finding::DirectoryUnrecorded { directory: path });
            }
        }
    }
    Ok(())
}

/// Whether the directory is a snapshot of csi-driver-nfs's.
async fn is_archive<F: Fs>(export: &Export<F>, path: &str) -> Result<bool> {
    match VolumeName::parse("directory", path) {
        Ok(name) => Ok(archive::find_in(export, &name).await?.is_some()),
        Err(_) => Ok(false),
    }
}
