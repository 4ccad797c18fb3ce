//! CSI Controller.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::capability;
use super::list::{self, Page};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Status as FsStatus;
use crate::export::pool::{Connect, Pool};
use crate::mount::options::MountOptions;
use crate::mount::source::Source;
use crate::proto::csi;
use crate::proto::csi::controller_server::Controller as Rpc;
use crate::proto::csi::controller_service_capability::{self as capability_of, rpc::Type};
use crate::proto::csi::validate_volume_capabilities_response::Confirmed;
use crate::volume::access::CapacityRange;
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::health::{self, Condition, Severity};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle::{self, Create, Found};
use crate::volume::parameters::{Attributes, Parameters};
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

/// The Controller service.
pub struct Controller<C: Connect> {
    pool: Arc<Pool<C>>,
    settings: Settings,
}

impl<C: Connect> Controller<C> {
    /// A controller for the exports of `pool`.
    pub fn new(pool: Arc<Pool<C>>, settings: Settings) -> Self {
        Self { pool, settings }
    }

    /// Does `work` on an export, once more on a fresh connection where the one at hand turns out to be stale. A caller
    /// that goes away does not leave the work half done: it goes on, and a retry of the call joins it at its lock.
    async fn on<T, W>(
        &self,
        share: &Source,
        options: &MountOptions,
        work: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        tracing::Span::current().record("server", share.server.as_str());
        let done = detached(work(self.pool.get(share, options).await?)).await;
        let Err(Error::Export { status: FsStatus::Stale, .. }) = done else { return done };
        self.pool.forget(share, options);
        detached(work(self.pool.get(share, options).await?)).await
    }

    /// Does `work` on the export of a volume.
    async fn on_volume<T, W>(
        &self,
        id: &VolumeId,
        secrets: &HashMap<String, String>,
        work: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let share = id.export();
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
        if let Some(options) = secret_options(secrets)? {
            return Ok(options);
        }
        let options = self.reach(share).await?;
        let (id, named) = (id.clone(), id.name());
        let Some(name) = named else { return Ok(options) };
        let read = |export: Arc<Export<C::Fs>>| {
            let name = name.clone();
            async move { Record::read(&export, &name).await }
        };
        match self.on(share, &options, read).await? {
            Some(record) if record.id.sub_dir == id.sub_dir => {
                MountOptions::parse("mountOptions", record.mount_options)
            }
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

    async fn create(&self, request: csi::CreateVolumeRequest) -> Result<csi::Volume> {
        let name = VolumeName::parse("name", &request.name)?;
        let capabilities = capability::parse_all(&request.volume_capabilities)?;
        let capacity = capability::parse_range(request.capacity_range.as_ref())?;
        if request.volume_content_source.is_some() {
            return Err(Error::invalid("volume_content_source", "this driver does not serve clones or snapshots"));
        }
        let parameters = Parameters::parse(&request.parameters)?;
        let changes = Attributes::parse(&request.mutable_parameters)?;
        let flags = capabilities.into_iter().map(|c| c.mount_options).find(|options| !options.is_empty());
        let options = match flags {
            Some(options) => options,
            None => secret_options(&request.secrets)?.unwrap_or_else(|| self.settings.mount_options.clone()),
        };
        let create = Create {
            name,
            sub_dir: parameters.sub_dir,
            capacity,
            asked: changes.or(parameters.attributes),
            defaults: self.settings.defaults,
            mount_options: options.to_vec(),
        };
        let work = |export: Arc<Export<C::Fs>>| {
            let create = create.clone();
            async move { lifecycle::create(&export, &create).await }
        };
        self.on(&parameters.export, &options, work).await.map(|record| volume(&record))
    }

    async fn delete(&self, request: csi::DeleteVolumeRequest) -> Result<()> {
        if request.volume_id.is_empty() {
            return Err(Error::invalid("volume_id", "missing"));
        }
        // CSI: a volume that cannot exist is deleted.
        let Ok(id) = VolumeId::parse(&request.volume_id) else { return Ok(()) };
        let policy = self.settings.delete;
        self.on_volume(&id, &request.secrets, |export| {
            let id = id.clone();
            async move { delete::delete(&export, &id, policy).await }
        })
        .await
    }

    async fn find(&self, id: &VolumeId, secrets: &HashMap<String, String>) -> Result<Found> {
        self.on_volume(id, secrets, |export| {
            let id = id.clone();
            async move { lifecycle::get(&export, &id).await }
        })
        .await
    }

    async fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse> {
        let id = known_id(&request.volume_id)?;
        let capabilities = capability::parse_all(&request.volume_capabilities);
        if request.volume_capabilities.is_empty() {
            capabilities.as_ref().map_err(Clone::clone)?;
        }
        self.find(&id, &request.secrets).await?;
        // What the driver cannot serve is not confirmed, and the message says why.
        let refused =
            capabilities.err().or_else(|| Attributes::parse(&request.mutable_parameters).err()).or_else(|| {
                let given = !request.parameters.is_empty();
                given.then(|| Parameters::parse(&request.parameters).err()).flatten()
            });
        Ok(match refused {
            Some(reason) => csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message: reason.to_string() },
            None => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }

    /// The names of the volumes on every known export from `token` on: at most `max` (0: all), and where to go on.
    async fn page(&self, max: i32, token: &str) -> Result<Page> {
        let max = usize::try_from(max).map_err(|_| Error::invalid("max_entries", format!("{max} is negative")))?;
        let start = list::Token::parse(token)?;
        let mut page = Page::new(max);
        for (share, options) in self.pool.known() {
            if start.is_after(&share) {
                continue;
            }
            let names = self.on(&share, &options, |export| async move { lifecycle::names(&export).await }).await?;
            if !page.take(&share, &options, start.rest(&share, names)) {
                break;
            }
        }
        Ok(page)
    }

    async fn list(&self, request: csi::ListVolumesRequest) -> Result<csi::ListVolumesResponse> {
        let page = self.page(request.max_entries, &request.starting_token).await?;
        let mut entries = Vec::with_capacity(page.volumes.len());
        for (share, options, name) in page.volumes {
            let read = |export: Arc<Export<C::Fs>>| {
                let name = name.clone();
                async move { Record::read(&export, &name).await }
            };
            // One that went since its name was read is not listed.
            if let Some(record) = self.on(&share, &options, read).await? {
                entries.push(csi::list_volumes_response::Entry { volume: Some(volume(&record)), status: None });
            }
        }
        Ok(csi::ListVolumesResponse { entries, next_token: page.next.map_or_else(String::new, |t| t.to_string()) })
    }

    async fn capacity(&self, request: csi::GetCapacityRequest) -> Result<csi::GetCapacityResponse> {
        // CSI: nothing of what is asked for can be made, where a capability cannot be served.
        if request.volume_capabilities.iter().any(|capability| capability::parse(Some(capability)).is_err()) {
            return Ok(csi::GetCapacityResponse { maximum_volume_size: Some(0), ..Default::default() });
        }
        let exports = if request.parameters.is_empty() {
            self.pool.known()
        } else {
            let share = Parameters::parse(&request.parameters)?.export;
            let options = self.pool.options(&share).unwrap_or_else(|| self.settings.mount_options.clone());
            vec![(share, options)]
        };
        let (mut available, mut largest) = (0, 0);
        for (share, options) in exports {
            let free = |export: Arc<Export<C::Fs>>| async move { lifecycle::available(&export).await };
            let bytes = i64::try_from(self.on(&share, &options, free).await?).unwrap_or(i64::MAX);
            available = i64::saturating_add(available, bytes);
            largest = largest.max(bytes);
        }
        Ok(csi::GetCapacityResponse {
            available_capacity: available,
            maximum_volume_size: Some(largest),
            minimum_volume_size: None,
        })
    }

    async fn expand(&self, request: csi::ControllerExpandVolumeRequest) -> Result<u64> {
        let id = known_id(&request.volume_id)?;
        let range = request.capacity_range.as_ref().ok_or_else(|| Error::invalid("capacity_range", "missing"))?;
        let range = CapacityRange::new(range.required_bytes, range.limit_bytes)?;
        if request.volume_capability.is_some() {
            capability::parse(request.volume_capability.as_ref())?;
        }
        self.on_volume(&id, &request.secrets, |export| {
            let id = id.clone();
            async move { lifecycle::expand(&export, &id, range).await }
        })
        .await
    }

    async fn modify(&self, request: csi::ControllerModifyVolumeRequest) -> Result<()> {
        let id = known_id(&request.volume_id)?;
        let changes = Attributes::parse(&request.mutable_parameters)?;
        self.on_volume(&id, &request.secrets, |export| {
            let id = id.clone();
            async move { lifecycle::modify(&export, &id, changes).await }
        })
        .await
    }

    async fn get(&self, volume_id: &str) -> Result<csi::Volume> {
        let id = known_id(volume_id)?;
        let found = self.find(&id, &HashMap::new()).await?;
        Ok(match found.record {
            Some(record) => volume(&record),
            None => csi::Volume { volume_id: volume_id.to_owned(), volume_context: context(&id), ..Default::default() },
        })
    }

    async fn volume_health(&self, request: csi::ControllerGetVolumeHealthRequest) -> Result<csi::VolumeHealth> {
        let id = known_id(&request.volume_id)?;
        let conditions = self
            .on_volume(&id, &request.secrets, |export| {
                let id = id.clone();
                async move {
                    let found = lifecycle::get(&export, &id).await?;
                    let mut conditions: Vec<_> = health::of_volume(&id, &found).into_iter().collect();
                    conditions.extend(health::of_export(&export).await?);
                    Ok(conditions)
                }
            })
            .await
            .or_else(|error| health::from_error(error).map(|condition| vec![condition]))?;
        Ok(volume_health(request.volume_id, conditions))
    }

    async fn list_health(
        &self,
        request: csi::ControllerListVolumeHealthRequest,
    ) -> Result<csi::ControllerListVolumeHealthResponse> {
        let mut token = request.starting_token;
        let mut entries = Vec::new();
        // A page of volumes may hold no unhealthy one: go on until something is found, or there is no more.
        loop {
            let page = self.page(request.max_entries, &token).await?;
            for (share, options, name) in page.volumes {
                let check = |export: Arc<Export<C::Fs>>| {
                    let name = name.clone();
                    async move {
                        let Some(record) = Record::read(&export, &name).await? else { return Ok(None) };
                        let found = lifecycle::get(&export, &record.id).await?;
                        let mut conditions: Vec<_> = health::of_volume(&record.id, &found).into_iter().collect();
                        conditions.extend(health::of_export(&export).await?);
                        Ok((!conditions.is_empty()).then_some((record.id, conditions)))
                    }
                };
                if let Some((id, conditions)) = self.on(&share, &options, check).await? {
                    entries.push(volume_health(id.to_string(), conditions));
                }
            }
            token = page.next.map_or_else(String::new, |next| next.to_string());
            if token.is_empty() || !entries.is_empty() {
                return Ok(csi::ControllerListVolumeHealthResponse { entries, next_token: token });
            }
        }
    }
}

/// Runs work to its end, whatever becomes of the caller.
pub(super) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.unwrap_or_else(|error| Err(Error::Internal(format!("the work on the export broke off: {error}"))))
}

/// Parses the identifier of a volume that has to exist.
fn known_id(text: &str) -> Result<VolumeId> {
    match VolumeId::parse(text) {
        Err(Error::Invalid { reason, .. }) if !text.is_empty() => {
            let shown: String = text.chars().take(200).collect::<String>().escape_debug().to_string();
            Err(Error::not_found(format!("volume `{shown}`"), reason))
        }
        id => id,
    }
}

/// The mount options among the secrets. Only this one key is read, and no value is ever shown.
fn secret_options(secrets: &HashMap<String, String>) -> Result<Option<MountOptions>> {
    const FIELD: &str = "secrets[mountOptions]";
    let Some((_, value)) = secrets.iter().find(|(key, _)| key.eq_ignore_ascii_case("mountOptions")) else {
        return Ok(None);
    };
    MountOptions::parse(FIELD, [value]).map(Some).map_err(|_| {
        Error::invalid(FIELD, "not a list of mount options that this driver allows; see docs/parameters.md")
    })
}

fn volume(record: &Record) -> csi::Volume {
    csi::Volume {
        capacity_bytes: i64::try_from(record.capacity).unwrap_or(i64::MAX),
        volume_id: record.id.to_string(),
        volume_context: context(&record.id),
        content_source: None,
        accessible_topology: Vec::new(),
    }
}

/// What a node has to know to mount a volume. Nothing that can change later: a PersistentVolume keeps it for ever.
fn context(id: &VolumeId) -> HashMap<String, String> {
    [("server", id.server.to_string()), ("share", id.share.to_string()), ("subDir", id.sub_dir.to_string())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

pub(super) fn volume_health(volume_id: String, conditions: Vec<Condition>) -> csi::VolumeHealth {
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

#[tonic::async_trait]
impl<C: Connect> Rpc for Controller<C> {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        volume_span(&request.name);
        let volume = Some(self.create(request).await?);
        Ok(Response::new(csi::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        volume_span(&request.volume_id);
        self.delete(request).await?;
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        volume_span(&request.volume_id);
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
        volume_span(&request.volume_id);
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

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        volume_span(&request.volume_id);
        let capacity_bytes = i64::try_from(self.expand(request).await?).unwrap_or(i64::MAX);
        Ok(Response::new(csi::ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required: false }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        let request = request.into_inner();
        volume_span(&request.volume_id);
        let volume = Some(self.get(&request.volume_id).await?);
        let status = Some(csi::controller_get_volume_response::VolumeStatus::default());
        Ok(Response::new(csi::ControllerGetVolumeResponse { volume, status }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        let request = request.into_inner();
        volume_span(&request.volume_id);
        self.modify(request).await?;
        Ok(Response::new(csi::ControllerModifyVolumeResponse {}))
    }
}

pub(super) fn volume_span(volume: &str) {
    tracing::Span::current().record("volume", volume);
}
