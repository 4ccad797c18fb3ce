//! CSI Node.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::capability;
use super::condition::volume_health;
use super::detached::detached;
use crate::error::{Error, Result};
use crate::export::fs::FsStat;
use crate::mount::health::Health;
use crate::mount::options::MountOptions;
use crate::mount::publish::{Publish, Publisher, RootAttributes};
use crate::mount::source::{Server, Share, Source, SubDir};
use crate::mount::stats::Stats;
use crate::mount::target::Target;
use crate::proto::csi;
use crate::proto::csi::node_server::Node as Rpc;
use crate::proto::csi::node_service_capability::{self as capability_of, rpc::Type};
use crate::proto::csi::volume_usage::Unit;
use crate::telemetry;
use crate::volume::access::AccessMode;
use crate::volume::id::VolumeId;
use crate::volume::parameters::{expand, parse_mode};

/// What the driver's flags say to the node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--nodeid`.
    pub node_id: String,
    /// `--mount-options`: where neither the capability nor the volume's context names any.
    pub mount_options: MountOptions,
    /// `--mount-permissions`: of a volume's root, where its context says nothing; `None` leaves it as it is.
    pub mount_permissions: Option<u32>,
    /// Whether pods may name servers and shares themselves, in inline ephemeral volumes.
    pub allow_inline: bool,
}

/// The Node service.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    publisher: Arc<Publisher>,
    stats: Arc<Stats>,
    health: Arc<Health>,
}

impl Node {
    /// A node that publishes with `publisher`.
    pub fn new(settings: Settings, publisher: Arc<Publisher>, stats: Arc<Stats>, health: Arc<Health>) -> Self {
        Self { settings, publisher, stats, health }
    }
}

#[tonic::async_trait]
impl Rpc for Node {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        telemetry::volume(&request.volume_id);
        let publish = parse_publish(request, &self.settings)?;
        tracing::Span::current().record("server", publish.source.server.as_str());
        let publisher = Arc::clone(&self.publisher);
        // A caller that goes away does not leave it half done.
        detached(async move { publisher.publish(publish).await }).await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        telemetry::volume(&request.volume_id);
        present(&request.volume_id)?;
        let target = Target::parse("target_path", &request.target_path)?;
        let (publisher, stats) = (Arc::clone(&self.publisher), Arc::clone(&self.stats));
        detached(async move {
            publisher.unpublish(&target).await?;
            stats.forget(&target);
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        telemetry::volume(&request.volume_id);
        present(&request.volume_id)?;
        let stat = self.stats.of(&published("volume_path", &request.volume_path)?).await?;
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage: usage(&stat) }))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<csi::NodeGetVolumeHealthResponse>, Status> {
        let csi::NodeGetVolumeHealthRequest { volume_id, volume_publish_path, .. } = request.into_inner();
        telemetry::volume(&volume_id);
        present(&volume_id)?;
        let target = match volume_publish_path.as_str() {
            "" => None,
            path => Some(published("volume_publish_path", path)?),
        };
        // A volume that was not made by this driver may have any identifier.
        let source = VolumeId::parse(&volume_id).ok().map(|id| id.source());
        let conditions = self.health.of_volume(&volume_id, target.as_ref(), source.as_ref()).await?;
        let volume_health = Some(volume_health(volume_id, conditions));
        Ok(Response::new(csi::NodeGetVolumeHealthResponse { volume_health }))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<csi::NodeGetStorageHealthRequest>,
    ) -> Result<Response<csi::NodeGetStorageHealthResponse>, Status> {
        let backend_health = self.health.of_servers().await?.into_iter().map(|condition| {
            csi::node_get_storage_health_response::StorageBackendHealth {
                status: csi::StorageHealthErrorType::StorageUnreachable.into(),
                reason: condition.reason.to_owned(),
                message: condition.message,
                volume_capability: None,
            }
        });
        Ok(Response::new(csi::NodeGetStorageHealthResponse { backend_health: backend_health.collect() }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [
            Type::GetVolumeStats,
            Type::SingleNodeMultiWriter,
            Type::VolumeMountGroup,
            Type::GetVolumeHealth,
            Type::GetStorageHealth,
        ];
        let capability = |kind: Type| csi::NodeServiceCapability {
            r#type: Some(capability_of::Type::Rpc(capability_of::Rpc { r#type: kind.into() })),
        };
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: capabilities.map(capability).into() }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let node_id = self.settings.node_id.clone();
        Ok(Response::new(csi::NodeGetInfoResponse { node_id, ..Default::default() }))
    }
}

fn present(volume_id: &str) -> Result<()> {
    if volume_id.is_empty() { Err(Error::invalid("volume_id", "missing")) } else { Ok(()) }
}

/// Parses the path of a volume that has to be published: where none can be, none is.
fn published(field: &str, text: &str) -> Result<Target> {
    Target::parse(field, text).map_err(|error| match error {
        Error::Invalid { reason, .. } if !text.is_empty() => Error::not_found("a volume at that path", reason),
        other => other,
    })
}

fn parse_publish(request: csi::NodePublishVolumeRequest, settings: &Settings) -> Result<Publish> {
    present(&request.volume_id)?;
    let target = Target::parse("target_path", &request.target_path)?;
    let capability = capability::parse(request.volume_capability.as_ref())?;
    let context = Context(&request.volume_context);
    if context.get("csi.storage.k8s.io/ephemeral")?.is_some_and(|(_, value)| value == "true") && !settings.allow_inline
    {
        return Err(Error::invalid(
            "volume_context[csi.storage.k8s.io/ephemeral]",
            "inline volumes are off: with them whoever may create a pod may mount any share; use a PersistentVolumeClaim, \
             or allow them in the driver's flags",
        ));
    }
    let mut flags = capability.mount_options.to_vec();
    flags.extend(context.get("mountOptions")?.map(|(_, value)| value.to_owned()));
    if flags.is_empty() {
        flags = settings.mount_options.to_vec();
    }
    flags.extend((request.readonly || capability.mode.is_read_only()).then(|| "ro".to_owned()));
    let mode = match context.get("mountPermissions")? {
        Some((field, value)) => parse_mode(&field, value)?,
        None => settings.mount_permissions,
    };
    Ok(Publish {
        source: context.source(&request.volume_id)?,
        options: MountOptions::parse("mount_flags and volume_context[mountOptions]", flags)?,
        single_target: capability.mode == AccessMode::SingleNodeSingleWriter,
        root: RootAttributes { group: capability.group, mode },
        volume_id: request.volume_id,
        target,
    })
}

/// CSI `volume_context`: what CreateVolume gave, or what the author of a PersistentVolume wrote. Keys count without regard
/// to case; those that mean nothing to the node are ignored.
struct Context<'a>(&'a HashMap<String, String>);

impl<'a> Context<'a> {
    /// The value of a key, and what to call it in an error.
    fn get(&self, key: &str) -> Result<Option<(String, &'a str)>> {
        let mut found = self.0.iter().filter(|(other, _)| other.eq_ignore_ascii_case(key));
        let value = found.next().map(|(_, value)| (format!("volume_context[{key}]"), value.as_str()));
        match found.next() {
            Some(_) => Err(Error::invalid(format!("volume_context[{key}]"), "given twice, in different spelling")),
            None => Ok(value),
        }
    }

    /// What to mount; the volume's identifier tells it where the context says nothing.
    fn source(&self, volume_id: &str) -> Result<Source> {
        let (server, share) = match (self.get("server")?, self.get("share")?) {
            (Some(server), Some(share)) => (server, share),
            (None, None) => {
                return VolumeId::parse(volume_id).map(|id| id.source()).map_err(|_| {
                    Error::invalid(
                        "volume_context",
                        "server and share are missing, and the volume's identifier does not tell them",
                    )
                });
            }
            (None, Some(_)) => return Err(Error::invalid("volume_context[server]", "missing: the NFS server")),
            (Some(_), None) => {
                return Err(Error::invalid("volume_context[share]", "missing: the path that the server exports"));
            }
        };
        let (server, (field, text)) = (Server::parse(&server.0, server.1)?, share);
        let share = Share::parse(&field, text)?;
        if share.as_str().split('/').any(|name| name == SubDir::PRIVATE) {
            return Err(Error::invalid(field, format!("`{}` is the driver's own directory", SubDir::PRIVATE)));
        }
        let sub_dir = match self.get("subDir")? {
            None | Some((_, "")) => None,
            Some((field, template)) => Some(SubDir::parse(&field, &expand(&field, template, self.0)?)?),
        };
        Ok(Source { server, share, sub_dir })
    }
}

fn usage(stat: &FsStat) -> Vec<csi::VolumeUsage> {
    let number = |figure: u64| i64::try_from(figure).unwrap_or(i64::MAX);
    let usage = |unit: Unit, total: u64, free: u64, available: u64| csi::VolumeUsage {
        unit: unit.into(),
        total: number(total),
        used: number(total.saturating_sub(free)),
        available: number(available),
    };
    let bytes = usage(Unit::Bytes, stat.total_bytes, stat.free_bytes, stat.available_bytes);
    // A file system without a limit of inodes says 0.
    let inodes =
        (stat.total_inodes > 0).then(|| usage(Unit::Inodes, stat.total_inodes, stat.free_inodes, stat.free_inodes));
    std::iter::once(bytes).chain(inodes).collect()
}
