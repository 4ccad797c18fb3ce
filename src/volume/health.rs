//! The health of volumes and exports as the controller sees it (CSI 1.13, "Volume Health").

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsStat, SetAttr, Status};
use crate::export::layout::Layout;
pub use crate::nfs::condition::{Condition, Severity};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::quota::{Reports, State};
use crate::volume::record::Record;

/// An export is nearly full if less than this fraction of its bytes or of its inodes is free. A volume is nearly full
/// if less than this fraction of its bytes is free.
const NEARLY_FULL: f64 = 0.05;

/// Returns the condition of a volume whose export could not be reached because of `error`. Returns other errors
/// unchanged.
pub fn from_error(error: Error) -> Result<Condition> {
    let reason = match &error {
        Error::Unreachable { .. } | Error::Export { status: Status::TimedOut, .. } => "ServerUnreachable",
        Error::Mount { .. } => "ExportNotMountable",
        _ => return Err(error),
    };
    Ok(Condition { severity: Severity::Inaccessible, reason, message: error.to_string() })
}

/// Returns the condition of a volume whose directory exists or not.
pub fn of_volume(id: &VolumeId, has_directory: bool) -> Option<Condition> {
    (!has_directory).then(|| Condition {
        severity: Severity::DataLoss,
        reason: "DirectoryMissing",
        message: format!(
            "directory `{}` is missing on {}, but the volume was not deleted; restore the directory from a backup, or \
             delete the volume",
            id.sub_dir,
            id.export()
        ),
    })
}

/// Returns the condition of a volume that is nearly full, or whose limits are not in force. Limits that nobody asked
/// for on an export where no agent ever ran are no condition.
pub async fn of_limits<F: Fs>(
    export: &Export<F>,
    reports: &Reports<F>,
    name: &VolumeName,
    record: &Record,
) -> Result<Option<Condition>> {
    let degraded = |reason, message| Some(Condition { severity: Severity::Degraded, reason, message });
    let why = match reports.state(export, name, record).await? {
        State::Unlimited => return Ok(None),
        State::InForce(figures) => {
            let full = (figures.available_bytes as f64) < figures.total_bytes as f64 * NEARLY_FULL;
            let message = || {
                format!(
                    "volume `{name}` has {} of its {} bytes left: delete files from the volume, or expand it",
                    figures.available_bytes, figures.total_bytes
                )
            };
            return Ok(full.then(|| degraded("VolumeFull", message())).flatten());
        }
        State::Refused(reason) => reason,
        State::Open if record.attributes.quota.is_none() && !reports.has_agent => return Ok(None),
        State::Open => "no agent enforces this limit".to_owned(),
    };
    Ok(degraded(
        "QuotaNotEnforced",
        format!(
            "volume `{name}` can grow beyond its {} bytes: {why}; check that `csi-nfs agent` runs on the NFS server \
             for {}",
            record.capacity,
            export.source()
        ),
    ))
}

/// Returns the conditions of an export, which are those of every volume on it.
pub async fn of_export<F: Fs>(export: &Export<F>) -> Result<Vec<Condition>> {
    let stat = export.stat().await?;
    let mut conditions = nearly_full(&export.source().to_string(), &stat);
    if let Some(layout) = export.layout().await?
        && is_read_only(export, &layout).await
    {
        conditions.push(Condition {
            severity: Severity::Degraded,
            reason: "ExportReadOnly",
            message: format!(
                "{} is read-only: export it with rw in /etc/exports, and check the server's file system for errors",
                export.source()
            ),
        });
    }
    Ok(conditions)
}

/// Whether the export is read-only.
pub async fn is_read_only<F: Fs>(export: &Export<F>, layout: &Layout<F>) -> bool {
    // Setting the mode that the directory already has changes nothing, but fails on a read-only export.
    let same = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    export.fs().setattr(&layout.staging, same).await == Err(Status::RoFs)
}

fn nearly_full(export: &str, stat: &FsStat) -> Vec<Condition> {
    let low = |free: u64, total: u64| (free as f64) < total as f64 * NEARLY_FULL;
    let condition = |reason, what: &str, free: u64, total: u64| Condition {
        severity: Severity::Degraded,
        reason,
        message: format!(
            "{export} has {free} of {total} {what} left: delete files on the server, or enlarge the file system"
        ),
    };
    let mut conditions = Vec::new();
    if low(stat.available_bytes, stat.total_bytes) {
        conditions.push(condition("ExportNearlyFull", "bytes", stat.available_bytes, stat.total_bytes));
    }
    if low(stat.free_inodes, stat.total_inodes) {
        conditions.push(condition("ExportInodesNearlyUsedUp", "inodes", stat.free_inodes, stat.total_inodes));
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_nearly_full_in_bytes_or_in_inodes() {
        let stat = |available_bytes, free_inodes| FsStat {
            total_bytes: 1000,
            free_bytes: available_bytes,
            available_bytes,
            total_inodes: 100,
            free_inodes,
        };
        let reasons = |stat| nearly_full("nfs:/export", &stat).iter().map(|c| c.reason).collect::<Vec<_>>();
        assert!(reasons(stat(50, 5)).is_empty());
        assert_eq!(reasons(stat(49, 5)), ["ExportNearlyFull"]);
        assert_eq!(reasons(stat(50, 4)), ["ExportInodesNearlyUsedUp"]);
        assert!(reasons(FsStat { total_inodes: 0, free_inodes: 0, ..stat(50, 0) }).is_empty());
    }
}
