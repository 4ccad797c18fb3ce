//! Converts CSI capabilities and capacity ranges from the wire to domain types.

use crate::error::{Error, Result};
use crate::nfs::options::MountOptions;
use crate::nfs::text::excerpt;
use crate::service::proto::csi;
use crate::service::proto::csi::volume_capability::AccessType;
use crate::service::proto::csi::volume_capability::access_mode::Mode;
use crate::volume::access::{AccessMode, Capability, CapacityRange};

/// Parses a capability (CSI `VolumeCapability`).
///
/// # Errors
/// [`Error::Invalid`] for a block device, a missing access type or mode, or a mount option that is not allowed.
pub fn parse(capability: Option<&csi::VolumeCapability>) -> Result<Capability> {
    const FIELD: &str = "volume_capability";
    let capability = capability.ok_or_else(|| Error::invalid(FIELD, "missing"))?;
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return Err(Error::invalid(
                format!("{FIELD}.block"),
                "NFS has no block devices: use volumeMode Filesystem",
            ));
        }
        None => {
            return Err(Error::invalid(
                format!("{FIELD}.access_type"),
                "missing: set `mount`, the only access type of this driver",
            ));
        }
    };
    let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, csi::volume_capability::AccessMode::mode);
    let mode = match mode {
        Mode::SingleNodeWriter => AccessMode::SingleNodeWriter,
        Mode::SingleNodeReaderOnly => AccessMode::SingleNodeReaderOnly,
        Mode::MultiNodeReaderOnly => AccessMode::MultiNodeReaderOnly,
        Mode::MultiNodeSingleWriter => AccessMode::MultiNodeSingleWriter,
        Mode::MultiNodeMultiWriter => AccessMode::MultiNodeMultiWriter,
        Mode::SingleNodeSingleWriter => AccessMode::SingleNodeSingleWriter,
        Mode::SingleNodeMultiWriter => AccessMode::SingleNodeMultiWriter,
        Mode::Unknown => return Err(Error::invalid(format!("{FIELD}.access_mode"), "missing or unknown")),
    };
    let group = match mount.volume_mount_group.as_str() {
        "" => None,
        group => Some(group.parse().ok().filter(|&gid| gid != u32::MAX).ok_or_else(|| {
            Error::invalid(
                format!("{FIELD}.mount.volume_mount_group"),
                format!("`{}` is not a numeric group ID", excerpt(group)),
            )
        })?),
    };
    let mount_options = MountOptions::parse(&format!("{FIELD}.mount.mount_flags"), &mount.mount_flags)?;
    Ok(Capability { mode, mount_options, group })
}

/// Parses the capabilities of a volume: at least one.
pub fn parse_all(capabilities: &[csi::VolumeCapability]) -> Result<Vec<Capability>> {
    if capabilities.is_empty() {
        return Err(Error::invalid("volume_capabilities", "missing"));
    }
    capabilities.iter().map(|capability| parse(Some(capability))).collect()
}

/// Parses a capacity range. Without a range, the result has no bounds.
pub fn parse_range(range: Option<&csi::CapacityRange>) -> Result<CapacityRange> {
    range.map_or_else(
        || Ok(CapacityRange::default()),
        |range| CapacityRange::new(range.required_bytes, range.limit_bytes),
    )
}
