//! Single volumes: from the request to the life of a volume on its export, and back.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Controller, known, secret_options};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::pool::Connect;
use crate::service::call_span;
use crate::service::proto::csi;
use crate::service::proto::csi::validate_volume_capabilities_response::Confirmed;
use crate::service::proto::csi::volume_content_source::Type as SourceType;
use crate::service::{capability, int64};
use crate::snapshot::{clone, snapshot_backed};
use crate::volume::access::CapacityRange;
use crate::volume::delete;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle::{self, Create, Found};
use crate::volume::parameters::{Attributes, Parameters};
use crate::volume::record::{Origin, Record};

impl<C: Connect> Controller<C> {
    pub(super) async fn create(&self, request: csi::CreateVolumeRequest, until: Instant) -> Result<csi::Volume> {
        let name = VolumeName::parse("name", &request.name)?;
        let capabilities = capability::parse_all(&request.volume_capabilities)?;
        let capacity = capability::parse_range(request.capacity_range.as_ref())?;
        let origin = request.volume_content_source.map(origin).transpose()?;
        let parameters = Parameters::parse(&request.parameters)?;
        call_span::server(parameters.export.server.as_str());
        let changes = Attributes::parse(&request.mutable_parameters)?;
        let read_only = capabilities.iter().all(|capability| capability.mode.is_read_only());
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
            // Of a secret nothing is kept: who deletes the volume brings it again.
            mount_options: options.recorded(),
            origin,
        };
        if let Some(origin) = create.origin.clone() {
            let may_show = read_only && parameters.show_snapshots;
            let on = (&parameters.export, &options);
            return self.create_filled(create, &origin, on, may_show, until, &request.secrets).await;
        }
        let work = |export: Arc<Export<C::Fs>>| {
            let create = create.clone();
            async move {
                let id = create.id(&export)?;
                let make = async move |export: Arc<Export<C::Fs>>, lock| {
                    lifecycle::create(&export, &create, until, &lock).await
                };
                self.change(export, &id, make).await
            }
        };
        self.on(&parameters.export, &options, work).await.map(|record| volume(&record))
    }

    pub(super) async fn delete(&self, request: csi::DeleteVolumeRequest) -> Result<()> {
        if request.volume_id.is_empty() {
            return Err(Error::invalid("volume_id", "missing"));
        }
        // CSI: a volume that cannot exist is deleted.
        let Ok(id) = VolumeId::parse(&request.volume_id) else { return Ok(()) };
        let policy = self.settings.delete;
        let id = &id;
        if let Some(name) = id.name() {
            self.jobs.end(&(id.export(), clone::job(&name))).await;
        }
        self.on_volume(id, &request.secrets, |export| async move {
            if delete::is_gone(&export, id).await? {
                return Ok(());
            }
            let gone = id.clone();
            let delete =
                async move |export: Arc<Export<C::Fs>>, lock| match delete::delete(&export, &gone, policy, &lock)
                    .await?
                {
                    Some(record) => snapshot_backed::delete(&export, &record, &lock).await,
                    None => Ok(()),
                };
            self.change(export, id, delete).await
        })
        .await?;
        self.jobs.end_copies_of(&id.to_string());
        Ok(())
    }

    pub(super) async fn find(&self, id: &VolumeId, secrets: &HashMap<String, String>) -> Result<Found> {
        self.on_volume(id, secrets, |export| async move { lifecycle::get(&export, id).await }).await
    }

    pub(super) async fn validate(
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

    pub(super) async fn capacity(&self, request: csi::GetCapacityRequest) -> Result<csi::GetCapacityResponse> {
        // CSI: nothing of what is asked for can be made, where a capability cannot be served.
        if request.volume_capabilities.iter().any(|capability| capability::parse(Some(capability)).is_err()) {
            return Ok(csi::GetCapacityResponse { maximum_volume_size: Some(0), ..Default::default() });
        }
        let mut overcommit = None;
        let exports = if request.parameters.is_empty() {
            self.pool.known()
        } else {
            // A class's subDir may name a claim, and there is none yet: the export is all that is asked about.
            let mut parameters = request.parameters;
            parameters.retain(|key, _| !key.eq_ignore_ascii_case("subDir"));
            let Parameters { export: share, attributes, .. } = Parameters::parse(&parameters)?;
            overcommit = attributes.overcommit;
            let options = self.pool.options(&share).unwrap_or_else(|| self.settings.mount_options.clone());
            vec![(share, options)]
        };
        let (mut available, mut largest) = (0, 0);
        for (share, options) in exports {
            let free = |export: Arc<Export<C::Fs>>| async move { lifecycle::available(&export, overcommit).await };
            let bytes = int64(self.on(&share, &options, free).await?);
            available = i64::saturating_add(available, bytes);
            largest = largest.max(bytes);
        }
        Ok(csi::GetCapacityResponse {
            available_capacity: available,
            maximum_volume_size: Some(largest),
            minimum_volume_size: None,
        })
    }

    pub(super) async fn expand(&self, request: csi::ControllerExpandVolumeRequest, until: Instant) -> Result<u64> {
        let id = known_id(&request.volume_id)?;
        let range = request.capacity_range.as_ref().ok_or_else(|| Error::invalid("capacity_range", "missing"))?;
        let range = CapacityRange::new(range.required_bytes, range.limit_bytes)?;
        if request.volume_capability.is_some() {
            capability::parse(request.volume_capability.as_ref())?;
        }
        let id = &id;
        self.on_volume(id, &request.secrets, |export| {
            let grown = id.clone();
            let grow = async move |export: Arc<Export<C::Fs>>, lock| {
                lifecycle::expand(&export, &grown, range, until, &lock).await
            };
            self.change(export, id, grow)
        })
        .await
    }

    pub(super) async fn modify(&self, request: csi::ControllerModifyVolumeRequest, until: Instant) -> Result<()> {
        let id = known_id(&request.volume_id)?;
        let changes = Attributes::parse(&request.mutable_parameters)?;
        let id = &id;
        self.on_volume(id, &request.secrets, |export| {
            let changed = id.clone();
            let make = async move |export: Arc<Export<C::Fs>>, lock| {
                lifecycle::modify(&export, &changed, changes, until, &lock).await
            };
            self.change(export, id, make)
        })
        .await
    }

    pub(super) async fn get(&self, volume_id: &str) -> Result<csi::Volume> {
        let id = known_id(volume_id)?;
        let found = self.find(&id, &HashMap::new()).await?;
        Ok(match found.record {
            Some(record) => volume(&record),
            None => csi::Volume { volume_id: volume_id.to_owned(), volume_context: context(&id), ..Default::default() },
        })
    }
}

/// Parses the identifier of a volume that has to exist.
pub(super) fn known_id(text: &str) -> Result<VolumeId> {
    known("volume", text, VolumeId::parse(text))
}

pub(super) fn volume(record: &Record) -> csi::Volume {
    csi::Volume {
        capacity_bytes: int64(record.capacity),
        volume_id: record.id.to_string(),
        volume_context: recorded_context(record),
        content_source: record.origin.as_ref().map(content_source),
        accessible_topology: Vec::new(),
    }
}

/// The source that a volume is to be filled with (CSI `VolumeContentSource`).
fn origin(source: csi::VolumeContentSource) -> Result<Origin> {
    const FIELD: &str = "volume_content_source";
    let (origin, id, field) = match source.r#type {
        Some(SourceType::Snapshot(source)) => {
            let id = source.snapshot_id;
            (Origin::Snapshot(id.clone()), id, "snapshot.snapshot_id")
        }
        Some(SourceType::Volume(source)) => {
            let id = source.volume_id;
            (Origin::Volume(id.clone()), id, "volume.volume_id")
        }
        None => return Err(Error::invalid(FIELD, "neither a snapshot nor a volume")),
    };
    if id.is_empty() { Err(Error::invalid(format!("{FIELD}.{field}"), "missing")) } else { Ok(origin) }
}

fn content_source(origin: &Origin) -> csi::VolumeContentSource {
    let source = match origin.clone() {
        Origin::Snapshot(snapshot_id) => {
            SourceType::Snapshot(csi::volume_content_source::SnapshotSource { snapshot_id })
        }
        Origin::Volume(volume_id) => SourceType::Volume(csi::volume_content_source::VolumeSource { volume_id }),
    };
    csi::VolumeContentSource { r#type: Some(source) }
}

/// What a node has to know to mount a volume. Nothing that can change later: a PersistentVolume keeps it for ever.
fn context(id: &VolumeId) -> HashMap<String, String> {
    [("server", id.server.to_string()), ("share", id.share.to_string()), ("subDir", id.sub_dir.to_string())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

/// The same for a volume of this driver's. Where its class says which mode its directory has, that was given to it once, and
/// the flag `--mount-permissions` of a node is not to change it. With `snapshot`, for one that shows a snapshot: `subDir` is no
/// directory then, and a node that does not know the key mounts nothing.
fn recorded_context(record: &Record) -> HashMap<String, String> {
    let settled = record.created_with.mode.map(|_| ("mountPermissions".to_owned(), "0".to_owned()));
    let shown = record.backing_snapshot.as_ref().map(|snapshot| ("snapshot".to_owned(), snapshot.to_string()));
    context(&record.id).into_iter().chain(settled).chain(shown).collect()
}
