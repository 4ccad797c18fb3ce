//! Requests as Kubernetes sends them.

use std::collections::HashMap;
use std::path::Path;

use csi_nfs::service::proto::csi;
use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use csi_nfs::service::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi_nfs::service::proto::csi::volume_content_source::{SnapshotSource, Type as Source, VolumeSource};

use super::lab::Share;

/// 1 MiB.
pub const MIB: i64 = 1 << 20;

/// A map of strings.
pub fn map<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A file system in an access mode, with mount flags.
pub fn mounted(mode: Mode, flags: &[&str]) -> csi::VolumeCapability {
    let mount = MountVolume { mount_flags: flags.iter().map(|&f| f.to_owned()).collect(), ..MountVolume::default() };
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

/// A file system that many nodes write to.
pub fn shared() -> csi::VolumeCapability {
    mounted(Mode::MultiNodeMultiWriter, &[])
}

/// A block device.
pub fn block() -> csi::VolumeCapability {
    csi::VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..shared() }
}

/// At least this many bytes.
pub fn bytes(required: i64) -> Option<csi::CapacityRange> {
    Some(csi::CapacityRange { required_bytes: required, limit_bytes: 0 })
}

/// CreateVolume of 1 MiB on a share.
pub fn create(share: &Share, name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: bytes(MIB),
        volume_capabilities: vec![shared()],
        parameters: map([("server", &share.server), ("share", &share.share)]),
        ..csi::CreateVolumeRequest::default()
    }
}

/// The same with one more parameter.
pub fn create_with(share: &Share, name: &str, key: &str, value: &str) -> csi::CreateVolumeRequest {
    let mut request = create(share, name);
    request.parameters.insert(key.to_owned(), value.to_owned());
    request
}

/// The same, filled with a copy.
pub fn from(share: &Share, name: &str, source: Source) -> csi::CreateVolumeRequest {
    let volume_content_source = Some(csi::VolumeContentSource { r#type: Some(source) });
    csi::CreateVolumeRequest { volume_content_source, ..create(share, name) }
}

/// A snapshot as the source of a volume.
pub fn of_snapshot(id: &str) -> Source {
    Source::Snapshot(SnapshotSource { snapshot_id: id.to_owned() })
}

/// A volume as the source of another volume.
pub fn of_volume(id: &str) -> Source {
    Source::Volume(VolumeSource { volume_id: id.to_owned() })
}

/// CreateSnapshot on the volume's own share.
pub fn snapshot(volume_id: &str, name: &str) -> csi::CreateSnapshotRequest {
    csi::CreateSnapshotRequest { source_volume_id: volume_id.to_owned(), name: name.to_owned(), ..Default::default() }
}

/// NodePublishVolume of a volume, as kubelet sends it.
pub fn publish(volume: &csi::Volume, target: &Path) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        target_path: target.to_str().unwrap().to_owned(),
        volume_capability: Some(shared()),
        volume_context: volume.volume_context.clone(),
        ..csi::NodePublishVolumeRequest::default()
    }
}

/// NodeUnpublishVolume.
pub fn unpublish(volume_id: &str, target: &Path) -> csi::NodeUnpublishVolumeRequest {
    csi::NodeUnpublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        target_path: target.to_str().unwrap().to_owned(),
    }
}

/// NodeGetVolumeStats.
pub fn stats(volume_id: &str, path: &Path) -> csi::NodeGetVolumeStatsRequest {
    csi::NodeGetVolumeStatsRequest {
        volume_id: volume_id.to_owned(),
        volume_path: path.to_str().unwrap().to_owned(),
        ..csi::NodeGetVolumeStatsRequest::default()
    }
}
