//! The CSI Controller and Group Controller services.

mod groups;
mod health;
mod lines;
pub(crate) mod list;
mod snapshots;
mod volumes;
mod whole_exports;

use std::collections::HashMap;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::int64;
use crate::error::{Error, Result};
use crate::export::pool::{Connect, Pool};
use crate::nfs::options::MountOptions;
use crate::service::call_span;
use crate::service::deadline;
use crate::service::proto::csi;
use crate::service::proto::csi::controller_server::Controller as Rpc;
use crate::service::proto::csi::controller_service_capability::{self as capability_of, rpc::Type};
use crate::snapshot::create_volume::Waits;
use crate::snapshot::jobs::Jobs;
use crate::volume::delete::DeletePolicy;
use crate::volume::exports::{Configured, Exports};
use crate::volume::id::VolumeId;
use crate::volume::parameters::Attributes;
use crate::volume::whole_export::WholeExport;

/// The settings of the controller, from the driver's flags.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mount options to use if neither the capability nor the secrets name any.
    pub mount_options: Configured,
    /// `--mount-permissions` and `--default-ondelete-policy`: used if the parameters name none.
    pub defaults: Attributes,
    /// How volumes are deleted.
    pub delete: DeletePolicy,
}

/// The Controller service, and the Group Controller service.
pub struct Controller<C: Connect> {
    exports: Exports<C>,
    settings: Settings,
    /// The running copies.
    jobs: Arc<Jobs>,
    surveyed: health::Surveyed,
}

impl<C: Connect> Controller<C> {
    /// A controller for the exports of `pool` that runs its copies in `jobs`.
    pub fn new(pool: Arc<Pool<C>>, settings: Settings, jobs: Arc<Jobs>) -> Self {
        let exports = Exports::new(pool, settings.mount_options.clone());
        Self { exports, settings, jobs, surveyed: health::Surveyed::default() }
    }
}

/// Parses the identifier of a volume that must exist, and that must be a directory.
///
/// # Errors
/// [`Error::Precondition`] for a volume that is an export itself.
fn existing_volume(text: &str) -> Result<VolumeId> {
    if let Some(whole) = WholeExport::parse(text) {
        return Err(Error::Precondition(format!(
            "volume `{text}` is the export {} itself: it cannot be copied, and only its server changes it",
            whole.export
        )));
    }
    let id = VolumeId::parse_existing(text)?;
    call_span::export(&id.export());
    Ok(id)
}

/// The mount options in the secrets. No other key is read, and no value is ever shown.
fn secret_options(secrets: &HashMap<String, String>) -> Result<Option<MountOptions>> {
    const FIELD: &str = "secrets[mountOptions]";
    let mut found = secrets.iter().filter(|(key, _)| key.eq_ignore_ascii_case("mountOptions"));
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some((_, value)), None) => MountOptions::parse_secret(FIELD, value).map(Some),
        (Some(_), Some(_)) => Err(Error::invalid(FIELD, "given twice, in different spelling")),
    }
}

#[tonic::async_trait]
impl<C: Connect> Rpc for Controller<C> {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let waits = Waits { agent: deadline::for_agent(&request), copy: deadline::for_answer(&request) };
        let request = request.into_inner();
        call_span::volume(&request.name);
        let volume = Some(self.create(request, waits).await?);
        Ok(Response::new(csi::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        self.delete(request).await?;
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        Ok(Response::new(self.validate(request).await?))
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<csi::ControllerListVolumeHealthResponse>, Status> {
        Ok(Response::new(self.list_health(request.into_inner()).await?))
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeHealthResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        let volume_health = Some(self.volume_health(request).await?);
        Ok(Response::new(csi::ControllerGetVolumeHealthResponse { volume_health }))
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        Ok(Response::new(self.capacity(request.into_inner()).await?))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = [
            Type::CreateDeleteVolume,
            Type::ListVolumes,
            Type::GetCapacity,
            Type::CreateDeleteSnapshot,
            Type::ListSnapshots,
            Type::GetSnapshot,
            Type::CloneVolume,
            Type::ExpandVolume,
            Type::GetVolume,
            Type::SingleNodeMultiWriter,
            Type::ModifyVolume,
            Type::GetVolumeHealth,
            Type::ListVolumeHealth,
        ]
        .map(|rpc| csi::ControllerServiceCapability {
            r#type: Some(capability_of::Type::Rpc(capability_of::Rpc { r#type: rpc.into() })),
        });
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: capabilities.into() }))
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.source_volume_id);
        let snapshot = Some(self.create_snapshot(request).await?);
        Ok(Response::new(csi::CreateSnapshotResponse { snapshot }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.snapshot_id);
        self.delete_snapshot(request).await?;
        Ok(Response::new(csi::DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        Ok(Response::new(self.list_snapshots(request.into_inner()).await?))
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.snapshot_id);
        let snapshot = Some(self.get_snapshot(&request.snapshot_id, secret_options(&request.secrets)?.as_ref()).await?);
        Ok(Response::new(csi::GetSnapshotResponse { snapshot }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        let until = deadline::for_agent(&request);
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        let capacity_bytes = int64(self.expand(request, until).await?);
        Ok(Response::new(csi::ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required: false }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        let volume = Some(self.get(&request.volume_id).await?);
        let status = Some(csi::controller_get_volume_response::VolumeStatus::default());
        Ok(Response::new(csi::ControllerGetVolumeResponse { volume, status }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        let until = deadline::for_agent(&request);
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        self.modify(request, until).await?;
        Ok(Response::new(csi::ControllerModifyVolumeResponse {}))
    }
}

#[cfg(test)]
mod tests;
