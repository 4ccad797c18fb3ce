//! Converts the health of a volume from domain types to the wire.

use crate::nfs::condition::{Condition, Severity};
use crate::service::proto::csi;

/// Makes a CSI `VolumeHealth`.
pub fn volume_health(volume_id: String, conditions: Vec<Condition>) -> csi::VolumeHealth {
    let health_statuses = conditions
        .into_iter()
        .map(|condition| csi::volume_health::VolumeHealthEntry {
            status: match condition.severity {
                Severity::Degraded => csi::VolumeHealthErrorType::Degraded,
                Severity::Inaccessible => csi::VolumeHealthErrorType::Inaccessible,
                Severity::DataLoss => csi::VolumeHealthErrorType::DataLoss,
            }
            .into(),
            reason: condition.reason.to_owned(),
            message: condition.message,
        })
        .collect();
    csi::VolumeHealth { volume_id, health_statuses }
}
