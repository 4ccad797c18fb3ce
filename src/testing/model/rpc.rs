//! Converts calls to requests of the gRPC service. Drops from its answers what a model cannot know.

pub use tonic::Code;
use tonic::{Request, Status};

use super::history::{Call, Origin};
use crate::export::pool::Connect;
use crate::service::controller::Controller;
use crate::service::proto::csi;
use crate::service::proto::csi::controller_server::Controller as _;
use crate::service::proto::csi::group_controller_server::GroupController as _;
use crate::service::proto::csi::volume_capability::access_mode::Mode;
use crate::service::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::service::proto::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};

/// The answer to a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Done,
    /// A volume's ID and its capacity.
    Volume(String, u64),
    Capacity(u64),
    /// A snapshot that is ready: its source volume.
    Snapshot(String),
    /// A group that is ready: its source volumes.
    Group(Vec<String>),
    /// The snapshot or group is pending.
    NotReady,
    Failed(Code),
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::Failed(status.code())
    }
}

/// The ID of a snapshot.
pub fn snapshot_id(name: &str) -> String {
    format!("nfs#export#{name}###snapshot")
}

fn group_id(name: &str) -> String {
    format!("nfs#export#{name}###group")
}

/// Makes a call. Returns the answer and the message of an error.
pub async fn make<C: Connect>(controller: &Controller<C>, call: &Call) -> (Answer, String) {
    match send(controller, call).await {
        Ok(answer) => (answer, String::new()),
        Err(status) => (Answer::Failed(status.code()), status.message().to_owned()),
    }
}

async fn send<C: Connect>(controller: &Controller<C>, call: &Call) -> Result<Answer, Status> {
    match call {
        Call::Create { .. } => {
            let made = controller.create_volume(Request::new(create(call))).await?.into_inner().volume;
            Ok(volume(&made.unwrap_or_default()))
        }
        Call::Delete(id) => {
            let request = csi::DeleteVolumeRequest { volume_id: id.to_string(), ..Default::default() };
            controller.delete_volume(Request::new(request)).await.map(|_| Answer::Done)
        }
        Call::Modify(id, policy) => {
            let mutable_parameters = [("onDelete".to_owned(), policy.as_str().to_owned())].into();
            let volume_id = id.to_string();
            let request = csi::ControllerModifyVolumeRequest { volume_id, mutable_parameters, ..Default::default() };
            controller.controller_modify_volume(Request::new(request)).await.map(|_| Answer::Done)
        }
        Call::Expand(id, bytes) => {
            let range = csi::CapacityRange { required_bytes: bytes.cast_signed(), limit_bytes: 0 };
            let volume_id = id.to_string();
            let request =
                csi::ControllerExpandVolumeRequest { volume_id, capacity_range: Some(range), ..Default::default() };
            let grown = controller.controller_expand_volume(Request::new(request)).await?.into_inner();
            Ok(Answer::Capacity(grown.capacity_bytes.cast_unsigned()))
        }
        Call::Get(id) => {
            let request = csi::ControllerGetVolumeRequest { volume_id: id.to_string() };
            let found = controller.controller_get_volume(Request::new(request)).await?.into_inner().volume;
            Ok(volume(&found.unwrap_or_default()))
        }
        Call::Snapshot { name, of } => {
            let (name, source_volume_id) = ((*name).to_owned(), of.to_string());
            let request = csi::CreateSnapshotRequest { name, source_volume_id, ..Default::default() };
            let made = controller.create_snapshot(Request::new(request)).await;
            let made = made?.into_inner().snapshot.unwrap_or_default();
            Ok(if made.ready_to_use { Answer::Snapshot(made.source_volume_id) } else { Answer::NotReady })
        }
        Call::DeleteSnapshot(name) => {
            let request = csi::DeleteSnapshotRequest { snapshot_id: snapshot_id(name), ..Default::default() };
            controller.delete_snapshot(Request::new(request)).await.map(|_| Answer::Done)
        }
        Call::Group { name, of } => {
            let source_volume_ids = of.iter().map(ToString::to_string).collect();
            let name = (*name).to_owned();
            let request = csi::CreateVolumeGroupSnapshotRequest { name, source_volume_ids, ..Default::default() };
            let made = controller.create_volume_group_snapshot(Request::new(request)).await?.into_inner();
            let made = made.group_snapshot.unwrap_or_default();
            let of = made.snapshots.into_iter().map(|snapshot| snapshot.source_volume_id).collect();
            Ok(if made.ready_to_use { Answer::Group(of) } else { Answer::NotReady })
        }
        Call::DeleteGroup(name, members) => {
            let snapshot_ids = (0..*members).map(|n| snapshot_id(&format!("{name}-{n}"))).collect();
            let group_snapshot_id = group_id(name);
            let request =
                csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id, snapshot_ids, ..Default::default() };
            controller.delete_volume_group_snapshot(Request::new(request)).await.map(|_| Answer::Done)
        }
    }
}

fn create(call: &Call) -> csi::CreateVolumeRequest {
    let Call::Create { name, dir, on_delete, from } = call else { return csi::CreateVolumeRequest::default() };
    let mount = csi::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
    };
    let parameters = [
        Some(("server", "nfs")),
        Some(("share", "/export")),
        dir.map(|dir| ("subDir", dir)),
        on_delete.map(|policy| ("onDelete", policy.as_str())),
    ];
    let source = from.map(|from| match from {
        Origin::Volume(id) => Type::Volume(VolumeSource { volume_id: id.to_string() }),
        Origin::Snapshot(name) => Type::Snapshot(SnapshotSource { snapshot_id: snapshot_id(name) }),
    });
    csi::CreateVolumeRequest {
        name: (*name).to_owned(),
        volume_capabilities: vec![mount],
        parameters: parameters.into_iter().flatten().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        volume_content_source: source.map(|source| csi::VolumeContentSource { r#type: Some(source) }),
        ..Default::default()
    }
}

fn volume(volume: &csi::Volume) -> Answer {
    Answer::Volume(volume.volume_id.clone(), volume.capacity_bytes.cast_unsigned())
}

/// The listed volumes: their IDs and capacities.
pub async fn volumes<C: Connect>(controller: &Controller<C>) -> Vec<(String, u64)> {
    let listed = controller.list_volumes(Request::new(csi::ListVolumesRequest::default())).await;
    let volumes = listed.expect("a list of volumes").into_inner().entries.into_iter().filter_map(|entry| entry.volume);
    volumes.map(|volume| (volume.volume_id, volume.capacity_bytes.cast_unsigned())).collect()
}

/// The listed snapshots: their IDs and source volumes.
pub async fn snapshots<C: Connect>(controller: &Controller<C>) -> Vec<(String, String)> {
    let listed = controller.list_snapshots(Request::new(csi::ListSnapshotsRequest::default())).await;
    let listed = listed.expect("a list of snapshots").into_inner().entries;
    listed.into_iter().filter_map(|entry| entry.snapshot).map(|it| (it.snapshot_id, it.source_volume_id)).collect()
}
