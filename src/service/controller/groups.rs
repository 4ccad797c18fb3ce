//! Groups of snapshots: the CSI Group Controller.

use tonic::{Request, Response, Status};

use super::{Controller, existing_volume, secret_options};
use crate::error::{Error, Result};
use crate::export::pool::Connect;
use crate::nfs::text::excerpt;
use crate::service::call_span;
use crate::service::controller::snapshots::timestamp;
use crate::service::int64;
use crate::service::proto::csi;
use crate::service::proto::csi::group_controller_server::GroupController;
use crate::service::proto::csi::group_controller_service_capability::{self as capability_of, rpc::Type};
use crate::snapshot::create_snapshot::{CreateSnapshot, create_snapshot};
use crate::snapshot::delete_snapshot::delete_group;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::id::GroupId;
use crate::snapshot::parameters::Parameters;
use crate::snapshot::record::State;
use crate::snapshot::{find, group};
use crate::volume::id::{VolumeId, VolumeName};

impl<C: Connect> Controller<C> {
    async fn create_group(&self, request: csi::CreateVolumeGroupSnapshotRequest) -> Result<csi::VolumeGroupSnapshot> {
        let name = VolumeName::parse("name", &request.name)?;
        let sources = sources(request.source_volume_ids)?;
        let volumes = sources.iter().map(|source| existing_volume(source)).collect::<Result<Vec<VolumeId>>>()?;
        let parameters = Parameters::parse(&request.parameters)?;
        let share = parameters.one_place(&volumes)?;
        call_span::export(&share);
        let secret = secret_options(&request.secrets)?;
        let asked = CreateSnapshot {
            what: group::Create { name, sources },
            volumes,
            share,
            options: parameters.mount_options.or_else(|| secret.clone()),
            secret,
        };
        create_snapshot(&self.exports, &self.jobs, &asked).await.map(|record| answer(&record))
    }

    async fn delete_group(&self, request: csi::DeleteVolumeGroupSnapshotRequest) -> Result<()> {
        // CSI: a group that cannot exist is deleted.
        let id = match GroupId::parse(&request.group_snapshot_id) {
            Err(Error::Invalid { .. }) if !request.group_snapshot_id.is_empty() => return Ok(()),
            parsed => parsed?,
        };
        call_span::export(&id.export);
        let secret = secret_options(&request.secrets)?;
        delete_group(&self.exports, &self.jobs, &id, &request.snapshot_ids, secret.as_ref()).await
    }

    async fn get_group(&self, request: csi::GetVolumeGroupSnapshotRequest) -> Result<csi::VolumeGroupSnapshot> {
        let id = GroupId::parse_existing(&request.group_snapshot_id)?;
        call_span::export(&id.export);
        let secret = secret_options(&request.secrets)?;
        let record = find::find_group(&self.exports, &id, secret.as_ref()).await?;
        record.check_members(&request.snapshot_ids)?;
        Ok(answer(&record))
    }
}

/// Checks and sorts the volumes of a group: at least one, and each only once.
fn sources(mut sources: Vec<String>) -> Result<Vec<String>> {
    const FIELD: &str = "source_volume_ids";
    if sources.is_empty() || sources.iter().any(String::is_empty) {
        return Err(Error::invalid(FIELD, "missing"));
    }
    sources.sort_unstable();
    if let Some(twice) = sources.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(FIELD, format!("`{}` is in the list twice", excerpt(&twice[0]))));
    }
    Ok(sources)
}

fn answer(record: &GroupRecord) -> csi::VolumeGroupSnapshot {
    let creation_time = Some(timestamp(record.created));
    let (group, ready) = (record.id.to_string(), record.state == State::Ready);
    let snapshots = record.members.iter().map(|member| csi::Snapshot {
        size_bytes: int64(member.size),
        snapshot_id: record.snapshot_id(member).to_string(),
        source_volume_id: member.source.clone(),
        creation_time,
        ready_to_use: ready,
        group_snapshot_id: group.clone(),
        ..csi::Snapshot::default()
    });
    csi::VolumeGroupSnapshot {
        snapshots: snapshots.collect(),
        group_snapshot_id: group.clone(),
        creation_time,
        ready_to_use: ready,
    }
}

#[tonic::async_trait]
impl<C: Connect> GroupController for Controller<C> {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::GroupControllerGetCapabilitiesResponse>, Status> {
        let rpc = capability_of::Rpc { r#type: Type::CreateDeleteGetVolumeGroupSnapshot.into() };
        let capability = csi::GroupControllerServiceCapability { r#type: Some(capability_of::Type::Rpc(rpc)) };
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse { capabilities: vec![capability] }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::CreateVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.name);
        let group_snapshot = Some(self.create_group(request).await?);
        Ok(Response::new(csi::CreateVolumeGroupSnapshotResponse { group_snapshot }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::DeleteVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.group_snapshot_id);
        self.delete_group(request).await?;
        Ok(Response::new(csi::DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::GetVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.group_snapshot_id);
        let group_snapshot = Some(self.get_group(request).await?);
        Ok(Response::new(csi::GetVolumeGroupSnapshotResponse { group_snapshot }))
    }
}
