//! Checks that the records on an export agree with its directories.
//!
//! The check may run while the driver serves. It then reports the unfinished work of a running call like the leftovers
//! of a crash.

mod directory_owners;
mod groups;
mod progress;
mod quotas;
mod repair;
mod report;
mod snapshots;
mod volumes;

pub use repair::repair;
pub use report::{Report, Settings, run};

use std::fmt;

use serde::Serialize;

use crate::check::progress::Progress;
use crate::check::volumes::Volumes;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Kind, Name, Status};
use crate::nfs::source::SubDir;
use crate::snapshot::archive;
use crate::volume::id::VolumeName;
use crate::volume::parameters::ARCHIVED;

/// Something on an export that is inconsistent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "finding", rename_all = "camelCase")]
pub enum Finding {
    /// A record that cannot be read.
    RecordUnreadable {
        /// Its file in `.csi-nfs/volumes` or `.csi-nfs/snapshots`.
        file: String,
        /// Why the record cannot be read, and what to do.
        reason: String,
    },
    /// A volume whose directory does not exist.
    DirectoryMissing {
        /// The volume's name.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A directory that belongs to no recorded volume: created by hand or by csi-driver-nfs, or left by a crash.
    DirectoryUnrecorded {
        /// The directory.
        directory: String,
    },
    /// Another file system of the server, mounted inside the export, or an appliance's directory of its own snapshots.
    /// The check does not look into it.
    OtherFileSystem {
        /// The directory at which it begins, or that is inside it.
        directory: String,
    },
    /// A volume that is not recorded as an owner of its directory, so that nothing keeps another volume from being
    /// created inside.
    OwnerMissing {
        /// The volume's name.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A directory owner that is not a volume, or is a volume with another directory.
    OwnerStale {
        /// The owner's name.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A directory that was kept when its volume was deleted, because its class says so or because it existed before
    /// the volume.
    VolumeKept {
        /// The name of the volume that was deleted.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// The record of a directory that was kept, although it is gone or a volume of that name uses it again.
    KeptStale {
        /// The name of the volume that was deleted.
        volume: String,
        /// The directory.
        directory: String,
    },
    /// A pending volume: CreateVolume is running, or failed and was not retried.
    VolumePending {
        /// The volume's name.
        volume: String,
    },
    /// A pending snapshot: CreateSnapshot is running, or failed and was not retried.
    SnapshotPending {
        /// The snapshot's name.
        snapshot: String,
    },
    /// A snapshot whose tree does not exist.
    TreeMissing {
        /// The snapshot's name.
        snapshot: String,
    },
    /// An entry in `.csi-nfs/snapshots` that belongs to no record.
    TreeUnrecorded {
        /// Its name in `.csi-nfs/snapshots`.
        entry: String,
    },
    /// A volume that is backed by a snapshot without a note of it, so that a deletion removes the snapshot's tree.
    NoteMissing {
        /// The volume's name.
        volume: String,
        /// The snapshot's name.
        snapshot: String,
    },
    /// A note that a volume is backed by a snapshot, although it is not.
    NoteStale {
        /// The note's path in `.csi-nfs/snapshots`.
        note: String,
    },
    /// A snapshot that was deleted and still exists, although no volume is backed by it.
    SnapshotUnused {
        /// The snapshot's name.
        snapshot: String,
    },
    /// A pending group of snapshots: CreateVolumeGroupSnapshot is running, or failed and was not retried.
    GroupPending {
        /// The group's name.
        group: String,
    },
    /// A group of snapshots whose deletion was interrupted and not retried.
    GroupDeleted {
        /// The group's name.
        group: String,
    },
    /// A group of snapshots in which one snapshot is missing.
    MemberMissing {
        /// The group's name.
        group: String,
        /// The snapshot's name.
        snapshot: String,
    },
    /// A snapshot whose group has no record, or a record that does not name it. It is not listed and cannot be
    /// restored.
    GroupMissing {
        /// The snapshot's name.
        snapshot: String,
        /// The group's name.
        group: String,
    },
    /// A volume whose size should be enforced and is not.
    LimitNotInForce {
        /// The volume's name.
        volume: String,
        /// Why the size is not enforced.
        reason: String,
    },
    /// A limit on a volume that should have none or is deleted.
    LimitLeft {
        /// The volume's name.
        volume: String,
    },
    /// Volumes that share a project ID, so that the server counts them together.
    ProjectShared {
        /// Their project ID.
        project: u32,
        /// Their names.
        volumes: Vec<String>,
    },
    /// An entry in staging.
    StagingLeftover {
        /// Its name.
        entry: String,
    },
    /// An entry in the trash.
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
            Self::OtherFileSystem { directory } => {
                write!(f, "directory {directory} is on another file system of the server, and was not checked")
            }
            Self::OwnerMissing { volume, directory } => {
                write!(f, "volume {volume} is not recorded as an owner of its directory {directory}")
            }
            Self::OwnerStale { volume, directory } => {
                write!(f, "{volume} is recorded as an owner of directory {directory}, but is no volume that has it")
            }
            Self::VolumeKept { volume, directory } => {
                write!(f, "volume {volume} was deleted, and its directory {directory} was kept")
            }
            Self::KeptStale { volume, directory } => {
                write!(
                    f,
                    "volume {volume} has a record that its directory {directory} was kept, but it \
                     is gone or in use again"
                )
            }
            Self::VolumePending { volume } => write!(f, "volume {volume} is pending: CreateVolume has not finished"),
            Self::SnapshotPending { snapshot } => {
                write!(f, "snapshot {snapshot} is pending: CreateSnapshot has not finished")
            }
            Self::TreeMissing { snapshot } => write!(f, "snapshot {snapshot} has a record, but its tree is gone"),
            Self::TreeUnrecorded { entry } => write!(f, "{entry} belongs to no recorded snapshot"),
            Self::NoteMissing { volume, snapshot } => {
                write!(f, "volume {volume} is backed by snapshot {snapshot}, but the snapshot has no note of it")
            }
            Self::NoteStale { note } => write!(f, "note {note} names no volume that is backed by that snapshot"),
            Self::SnapshotUnused { snapshot } => {
                write!(f, "snapshot {snapshot} was deleted and still exists, although it backs no volume")
            }
            Self::GroupPending { group } => {
                write!(f, "group {group} of snapshots is pending: CreateVolumeGroupSnapshot has not finished")
            }
            Self::GroupDeleted { group } => {
                write!(f, "group {group} of snapshots was deleted, but parts of it still exist")
            }
            Self::MemberMissing { group, snapshot } => {
                write!(f, "group {group} has a record, but its snapshot {snapshot} is missing")
            }
            Self::GroupMissing { snapshot, group } => {
                write!(f, "snapshot {snapshot} belongs to group {group}, which has no record of it")
            }
            Self::LimitNotInForce { volume, reason } => {
                write!(f, "the size of volume {volume} is not enforced: {reason}")
            }
            Self::LimitLeft { volume } => {
                write!(f, "the agent still limits volume {volume}, which should have no limit")
            }
            Self::ProjectShared { project, volumes } => {
                write!(f, "volumes {} are counted together: they share project ID {project}", volumes.join(" and "))
            }
            Self::StagingLeftover { entry } => write!(f, "{entry} is left in staging"),
            Self::TrashLeftover { entry } => write!(f, "{entry} is left in the trash"),
        }
    }
}

/// Checks an export and returns the findings, sorted.
pub async fn check<F: Fs>(export: &Export<F>) -> Result<Vec<Finding>> {
    check_with(export, &Progress::default()).await
}

/// Like [`check`]. Notes in `progress` how far it is.
pub(crate) async fn check_with<F: Fs>(export: &Export<F>, progress: &Progress) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let volumes = Volumes::read(export, progress, &mut findings).await?;
    volumes.check_directories(export, progress, &mut findings).await?;
    let layout = export.layout().await?;
    let mut kept = Vec::new();
    if let Some(layout) = &layout {
        progress.begin("checking owners of directories", 0);
        kept = directory_owners::check(export, layout, &volumes, progress, &mut findings).await?;
    }
    progress.begin("looking for directories without a record", 0);
    let recorded = volumes.directories(kept.iter().map(|(_, sub_dir)| sub_dir.as_str()));
    unrecorded(export, &recorded, progress, &mut findings).await?;
    drop(recorded);
    if let Some(layout) = layout {
        progress.begin("checking snapshots", 0);
        snapshots::check(export, &layout, &volumes, progress, &mut findings).await?;
        progress.begin("checking limits", volumes.len());
        quotas::check(export, &volumes, progress, &mut findings).await?;
        let text = |names: Vec<Name>| names.into_iter().map(|name| name.to_string());
        let staging = text(export.names(&layout.staging).await?);
        findings.extend(staging.map(|entry| Finding::StagingLeftover { entry }));
        let trash = text(export.names(&layout.trash).await?);
        findings.extend(trash.map(|entry| Finding::TrashLeftover { entry }));
    }
    findings.sort();
    Ok(findings)
}

/// Adds directories that neither belong to a recorded volume nor contain one, and file systems that are mounted inside
/// the export. `recorded` is sorted.
async fn unrecorded<F: Fs>(
    export: &Export<F>,
    recorded: &[&str],
    progress: &Progress,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let mut open = vec![(export.fs().root(), String::new())];
    while let Some((dir, above)) = open.pop() {
        let mut next = Some(0);
        // Page by page: there may be very many.
        while let Some(at) = next {
            let page = export.page(&dir, at).await?;
            for entry in page.entries {
                progress.step();
                let text = entry.name.to_string();
                if above.is_empty() && (text == SubDir::PRIVATE || text.starts_with(ARCHIVED)) {
                    continue;
                }
                let path = format!("{above}{text}");
                if recorded.binary_search(&path.as_str()).is_err()
                    && let Some(child) = unrecorded_directory(export, &dir, &entry.name, &path, findings).await?
                {
                    let inside = format!("{path}/");
                    let below = recorded.partition_point(|sub_dir| *sub_dir < inside.as_str());
                    if recorded.get(below).is_some_and(|sub_dir| sub_dir.starts_with(&inside)) {
                        open.push((child, inside));
                    } else if !is_archive(export, &path).await? {
                        findings.push(Finding::DirectoryUnrecorded { directory: path });
                    }
                }
            }
            next = page.next;
        }
    }
    Ok(())
}

/// The directory of that name; `None` if there is none, or if another file system begins there, which is told.
async fn unrecorded_directory<F: Fs>(
    export: &Export<F>,
    dir: &F::Handle,
    name: &Name,
    path: &str,
    findings: &mut Vec<Finding>,
) -> Result<Option<F::Handle>> {
    match export.find(dir, name).await {
        Ok(found) => Ok(found.filter(|(_, attr)| attr.kind == Kind::Directory).map(|(child, _)| child)),
        Err(Error::Export { status: Status::XDev, .. }) => {
            findings.push(Finding::OtherFileSystem { directory: path.to_owned() });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the directory is a snapshot of csi-driver-nfs.
async fn is_archive<F: Fs>(export: &Export<F>, path: &str) -> Result<bool> {
    match VolumeName::parse("directory", path) {
        Ok(name) => Ok(archive::find_in(export, &name).await?.is_some()),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests;
