//! CSI Controller, and Group Controller.

mod content;
mod groups;
mod health;
mod list;
mod snapshots;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex};

use tonic::{Request, Response, Status};

use super::int64;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::locks::Guard;
use crate::export::pool::{Connect, Pool};
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::nfs::text::excerpt;
use crate::service::call_span;
use crate::service::deadline;
use crate::service::proto::csi;
use crate::service::proto::csi::controller_server::Controller as Rpc;
use crate::service::proto::csi::controller_service_capability::{self as capability_of, rpc::Type};
use crate::service::run_to_completion::run_to_completion;
use crate::snapshot::jobs::Jobs;
use crate::volume::delete::DeletePolicy;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle;
use crate::volume::parameters::Attributes;
use crate::volume::record::Record;

/// What the driver's flags say to the controller.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--mount-options`: where neither the capability nor the secrets name any.
    pub mount_options: MountOptions,
    /// `--mount-permissions` and `--default-ondelete-policy`: where the parameters say nothing.
    pub defaults: Attributes,
    /// How volumes are deleted.
    pub delete: DeletePolicy,
}

/// The Controller service, and the Group Controller service.
pub struct Controller<C: Connect> {
    pool: Arc<Pool<C>>,
    settings: Settings,
    /// The copies under way.
    jobs: Arc<Jobs>,
    /// The volumes that were seen on each export: all that is known of them while their server is gone.
    surveyed: Mutex<HashMap<Source, BTreeMap<VolumeName, VolumeId>>>,
}

impl<C: Connect> Controller<C> {
    /// A controller for the exports of `pool`, with its copies in `jobs`.
    pub fn new(pool: Arc<Pool<C>>, settings: Settings, jobs: Arc<Jobs>) -> Self {
        Self { pool, settings, jobs, surveyed: Mutex::default() }
    }

    /// Does `work` on an export, once more on a fresh connection where the one at hand turns out to be stale. (One that times
    /// out has taken its time: it is the next call that gets a fresh one.)
    async fn on<T, W>(
        &self,
        share: &Source,
        options: &MountOptions,
        work: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>>,
    {
        let export = self.pool.get(share, options).await?;
        let done = work(export.clone()).await;
        match &done {
            Err(Error::Export { status, .. }) if self.pool.failed(&export, options, *status).await => {
                work(self.pool.get(share, options).await?).await
            }
            _ => done,
        }
    }

    /// Makes a change to a volume under its lock. Who waits for the lock may give up; once the change has begun it is made
    /// to its end, whatever becomes of the caller, and a retry of the call waits for it at the lock.
    async fn change<T, W>(
        &self,
        export: Arc<Export<C::Fs>>,
        id: &VolumeId,
        change: impl FnOnce(Arc<Export<C::Fs>>, Guard<C::Fs>) -> W,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let lock = lifecycle::lock(&export, id).await?;
        run_to_completion(change(export, lock)).await
    }

    /// Does `work` on the export of a volume.
    async fn on_volume<T, W>(
        &self,
        id: &VolumeId,
        secrets: &HashMap<String, String>,
        work: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>>,
    {
        let share = id.export();
        call_span::server(share.server.as_str());
        let options = self.volume_options(id, &share, secrets).await?;
        self.on(&share, &options, work).await
    }

    /// The options to reach a volume's export by: the secrets', else those of the volume's record.
    async fn volume_options(
        &self,
        id: &VolumeId,
        share: &Source,
        secrets: &HashMap<String, String>,
    ) -> Result<MountOptions> {
        let recorded = |export: Arc<Export<C::Fs>>| async move {
            let Some(name) = id.name() else { return Ok(None) };
            let record = Record::read(&export, &name).await?.filter(|record| record.id.sub_dir == id.sub_dir);
            Ok(record.map(|record| record.mount_options))
        };
        self.recorded_options(share, secrets, recorded).await
    }

    /// The options to reach an export by: the secrets', else those that are `recorded` on that export itself.
    async fn recorded_options<W>(
        &self,
        share: &Source,
        secrets: &HashMap<String, String>,
        recorded: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<MountOptions>
    where
        W: Future<Output = Result<Option<Vec<String>>>>,
    {
        if let Some(options) = secret_options(secrets)? {
            return Ok(options);
        }
        let options = self.reach(share).await?;
        match self.on(share, &options, recorded).await? {
            Some(recorded) if !recorded.is_empty() => MountOptions::parse("mountOptions", recorded),
            _ => Ok(options),
        }
    }

    /// Options that an export can be reached by, where only a record on that very export knows the right ones: those of
    /// the last time, the driver's, or the driver's with TLS, which a server may insist on.
    async fn reach(&self, share: &Source) -> Result<MountOptions> {
        let configured = &self.settings.mount_options;
        let tls = || MountOptions::parse("mountOptions", configured.to_vec().into_iter().chain(["xprtsec=tls".into()]));
        let mut candidates: Vec<MountOptions> = self.pool.options(share).into_iter().collect();
        candidates.extend([Some(configured.clone()), tls().ok()].into_iter().flatten());
        let mut refused = None;
        for options in candidates {
            match self.pool.get(share, &options).await {
                Ok(_) => return Ok(options),
                // The first refusal is the one to tell of: it is about the options that should have worked.
                Err(error @ Error::Mount { .. }) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Internal(format!("no options to reach {share} by"))))
    }
}

/// What an identifier that has to exist was parsed to: one that cannot be any is of nothing that is there.
///
/// # Errors
/// [`Error::NotFound`] for it; [`Error::Invalid`] where it is missing.
fn known<T>(what: &str, text: &str, parsed: Result<T>) -> Result<T> {
    parsed.map_err(|error| match error {
        Error::Invalid { reason, .. } if !text.is_empty() => {
            Error::not_found(format!("{what} `{}`", excerpt(text)), reason)
        }
        error => error,
    })
}

/// The mount options among the secrets. Only this one key is read, and no value is ever shown.
fn secret_options(secrets: &HashMap<String, String>) -> Result<Option<MountOptions>> {
    const FIELD: &str = "secrets[mountOptions]";
    let Some((_, value)) = secrets.iter().find(|(key, _)| key.eq_ignore_ascii_case("mountOptions")) else {
        return Ok(None);
    };
    MountOptions::parse_secret(FIELD, value).map(Some)
}

#[tonic::async_trait]
impl<C: Connect> Rpc for Controller<C> {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let until = deadline::for_agent(&request);
        let request = request.into_inner();
        call_span::volume(&request.name);
        let volume = Some(self.create(request, until).await?);
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
        let snapshot = Some(self.get_snapshot(&request.snapshot_id, &request.secrets).await?);
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
