//! Converts requests and responses for volumes.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Controller, existing_volume, secret_options};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::service::call_span;
use crate::service::proto::csi;
use crate::service::proto::csi::validate_volume_capabilities_response::Confirmed;
use crate::service::proto::csi::volume_content_source::Type as SourceType;
use crate::service::{capability, int64};
use crate::snapshot::create_volume::{CreateVolume, Waits, create_volume};
use crate::snapshot::delete_volume::delete_volume;
use crate::volume::access::CapacityRange;
use crate::volume::create::Create;
use crate::volume::find::{self, Found};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::kubernetes::KubernetesNames;
use crate::volume::parameters::{Attributes, Parameters};
use crate::volume::record::{Origin, Record};
use crate::volume::whole_export::WholeExport;
use crate::volume::{change, space};

impl<C: Connect> Controller<C> {
    pub(super) async fn create(&self, request: csi::CreateVolumeRequest, waits: Waits) -> Result<csi::Volume> {
        let name = VolumeName::parse("name", &request.name)?;
        let capabilities = capability::parse_all(&request.volume_capabilities)?;
        let capacity = capability::parse_range(request.capacity_range.as_ref())?;
        let origin = request.volume_content_source.map(origin).transpose()?;
        let parameters = Parameters::parse(&request.parameters)?;
        call_span::export(&parameters.export);
        let changes = Attributes::parse(&request.mutable_parameters)?;
        let secret = secret_options(&request.secrets)?;
        let read_only = capabilities.iter().all(|capability| capability.mode.is_read_only());
        let flags = capabilities.into_iter().map(|c| c.mount_options).find(|options| !options.is_empty());
        let options =
            flags.or_else(|| secret.clone()).unwrap_or_else(|| self.exports.configured(&parameters.export).clone());
        let volume = Create {
            name,
            sub_dir: parameters.sub_dir,
            capacity,
            asked: changes.or(parameters.attributes),
            defaults: self.settings.defaults,
            // Options from a secret are not recorded: the call that deletes the volume contains the secret again.
            mount_options: options.recorded(),
            origin,
            kubernetes: KubernetesNames::of(&request.parameters),
        };
        if parameters.whole_export {
            let whole = WholeExport::requested(parameters.export, &volume)?;
            return self.create_whole_export(&whole, &volume, &options).await;
        }
        let (share, may_show) = (parameters.export, read_only && parameters.show_snapshots);
        let asked = CreateVolume { volume, share, options, secret, may_show, waits };
        let record = create_volume(&self.exports, &self.jobs, &asked).await?;
        Ok(answer(&record))
    }

    pub(super) async fn delete(&self, request: csi::DeleteVolumeRequest) -> Result<()> {
        if request.volume_id.is_empty() {
            return Err(Error::invalid("volume_id", "missing"));
        }
        // CSI: a volume that cannot exist is deleted.
        let Ok(id) = VolumeId::parse(&request.volume_id) else { return Ok(()) };
        call_span::export(&id.export());
        let secret = secret_options(&request.secrets)?;
        delete_volume(&self.exports, &self.jobs, &id, self.settings.delete, secret.as_ref()).await?;
        self.surveyed.forget(&id);
        Ok(())
    }

    async fn find(&self, id: &VolumeId, secret: Option<&MountOptions>) -> Result<Found> {
        self.exports.on_volume(id, secret, |export| async move { find::get(&export, id).await }).await
    }

    pub(super) async fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse> {
        let secret = secret_options(&request.secrets)?;
        let capabilities = capability::parse_all(&request.volume_capabilities);
        if request.volume_capabilities.is_empty() {
            capabilities.as_ref().map_err(Clone::clone)?;
        }
        match WholeExport::parse(&request.volume_id) {
            Some(whole) => drop(self.get_whole_export(&whole, secret.as_ref()).await?),
            None => drop(self.find(&existing_volume(&request.volume_id)?, secret.as_ref()).await?),
        }
        // The driver does not confirm capabilities that it cannot serve, and the message says why.
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
        // CSI: no volume can be created if the driver does not serve a capability, so the capacity is 0.
        if request.volume_capabilities.iter().any(|capability| capability::parse(Some(capability)).is_err()) {
            return Ok(csi::GetCapacityResponse { maximum_volume_size: Some(0), ..Default::default() });
        }
        let mut overcommit = None;
        let exports = if request.parameters.is_empty() {
            self.exports.known()
        } else {
            // A class's subDir may contain the name of a claim, which does not exist yet. Only the export matters here.
            let mut parameters = request.parameters;
            parameters.retain(|key, _| !key.eq_ignore_ascii_case("subDir"));
            let Parameters { export: share, attributes, .. } = Parameters::parse(&parameters)?;
            overcommit = attributes.overcommit;
            let options = self.exports.usual(&share);
            vec![(share, options)]
        };
        let (mut free, mut largest) = (0, None);
        for (share, options) in exports {
            let ask = |export: Arc<Export<C::Fs>>| async move { space::available(&export, overcommit).await };
            let available = self.exports.on(&share, &options, ask).await?;
            free = i64::saturating_add(free, int64(available.free));
            largest = largest.max(available.largest.map(int64));
        }
        Ok(csi::GetCapacityResponse {
            available_capacity: free,
            maximum_volume_size: largest,
            minimum_volume_size: None,
        })
    }

    pub(super) async fn expand(&self, request: csi::ControllerExpandVolumeRequest, until: Instant) -> Result<u64> {
        let id = existing_volume(&request.volume_id);
        let range = request.capacity_range.as_ref().ok_or_else(|| Error::invalid("capacity_range", "missing"))?;
        let range = CapacityRange::new(range.required_bytes, range.limit_bytes)?;
        if request.volume_capability.is_some() {
            capability::parse(request.volume_capability.as_ref())?;
        }
        let secret = secret_options(&request.secrets)?;
        let id = match id {
            Ok(id) => id,
            // An export itself, or a static volume with a handle of its own: nothing limits it, so its size is nominal.
            Err(Error::NotFound { .. } | Error::Precondition(_)) => return Ok(range.choose()),
            Err(error) => return Err(error),
        };
        if !VolumeId::is_generated(&request.volume_id) && !self.is_recorded(&id, secret.as_ref()).await? {
            return Ok(range.choose());
        }
        let grow = |export: Arc<Export<C::Fs>>, lock| {
            let id = id.clone();
            async move { change::expand(&export, &id, range, until, &lock).await }
        };
        self.exports.change(&id, secret.as_ref(), grow).await
    }

    /// Whether the driver has a record of a volume whose handle was written by hand. What the handle seems to name may
    /// not exist at all.
    async fn is_recorded(&self, id: &VolumeId, secret: Option<&MountOptions>) -> Result<bool> {
        let ask = |export: Arc<Export<C::Fs>>| async move { find::is_recorded(&export, id).await };
        match self.exports.on_volume(id, secret, ask).await {
            Err(error @ (Error::Unreachable { .. } | Error::Mount { .. })) => {
                tracing::warn!(volume = %id, %error, "the volume is taken for a static one, and its size for nominal");
                Ok(false)
            }
            asked => asked,
        }
    }

    pub(super) async fn modify(&self, request: csi::ControllerModifyVolumeRequest, until: Instant) -> Result<()> {
        let id = existing_volume(&request.volume_id)?;
        let changes = Attributes::parse(&request.mutable_parameters)?;
        let secret = secret_options(&request.secrets)?;
        let modify = |export: Arc<Export<C::Fs>>, lock| {
            let id = id.clone();
            async move { change::modify(&export, &id, changes, until, &lock).await }
        };
        self.exports.change(&id, secret.as_ref(), modify).await
    }

    pub(super) async fn get(&self, volume_id: &str) -> Result<csi::Volume> {
        if let Some(whole) = WholeExport::parse(volume_id) {
            return self.get_whole_export(&whole, None).await;
        }
        let id = existing_volume(volume_id)?;
        Ok(match self.find(&id, None).await?.record {
            Some(record) => answer(&record),
            None => csi::Volume { volume_id: volume_id.to_owned(), volume_context: context(&id), ..Default::default() },
        })
    }
}

/// The response for a volume.
pub(super) fn answer(record: &Record) -> csi::Volume {
    csi::Volume {
        capacity_bytes: int64(record.capacity),
        volume_id: record.id.to_string(),
        volume_context: recorded_context(record),
        content_source: record.origin.as_ref().map(content_source),
        accessible_topology: Vec::new(),
    }
}

/// Parses the content source of a volume (CSI `VolumeContentSource`).
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

/// What a node needs to mount a volume. It contains nothing that can change, because a PersistentVolume keeps it for
/// ever.
fn context(id: &VolumeId) -> HashMap<String, String> {
    [("server", id.server.to_string()), ("share", id.share.to_string()), ("subDir", id.sub_dir.to_string())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

/// Like [`context`], for a volume with a record. If the class named a mode, the directory got it when it was created.
/// The context then contains `mountPermissions=0`, so that a node's flag `--mount-permissions` does not change the
/// mode. A volume that is backed by a snapshot has the key `snapshot`. Its `subDir` is not a directory, so a node that
/// does not know this key mounts nothing.
fn recorded_context(record: &Record) -> HashMap<String, String> {
    let settled = record.created_with.mode.map(|_| ("mountPermissions".to_owned(), "0".to_owned()));
    let shown = record.backing_snapshot.as_ref().map(|snapshot| ("snapshot".to_owned(), snapshot.to_string()));
    context(&record.id).into_iter().chain(settled).chain(shown).collect()
}
