//! The Node service (CSI, "Node Service RPC").

use std::future::Future;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::{int64, present, publish_request};
use crate::error::{Error, Result};
use crate::export::fs::FsStat;
use crate::export::run_to_completion::run_to_completion;
use crate::node::mount_health::MountHealth;
use crate::node::publisher::Publisher;
use crate::node::stats::{Stats, Volume};
use crate::node::target::Target;
use crate::service::call_span;
use crate::service::deadline;
use crate::service::health_response::volume_health;
use crate::service::proto::csi;
use crate::service::proto::csi::node_server::Node as Rpc;
use crate::service::proto::csi::node_service_capability::{self as capability_of, rpc::Type};
use crate::service::proto::csi::volume_usage::Unit;
use crate::volume::id::VolumeId;

/// The settings of the node, from the driver's flags.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--nodeid`.
    pub node_id: String,
    /// The defaults for requests to publish a volume.
    pub publish: publish_request::Defaults,
}

/// The Node service.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    publisher: Arc<Publisher>,
    stats: Arc<Stats>,
    health: Arc<MountHealth>,
}

impl Node {
    /// A node that publishes with `publisher`.
    pub fn new(settings: Settings, publisher: Arc<Publisher>, stats: Arc<Stats>, health: Arc<MountHealth>) -> Self {
        Self { settings, publisher, stats, health }
    }

    /// Waits until a volume is published. If its files are still being given to the pod's group shortly before the
    /// caller's deadline, the answer says how far that is.
    async fn published_or_far(
        &self,
        published: impl Future<Output = Result<()>>,
        until: Option<Instant>,
        source: &str,
    ) -> Result<()> {
        tokio::pin!(published);
        let Some(until) = until else { return published.await };
        if let Ok(done) = timeout_at(until, &mut published).await {
            return done;
        }
        match self.publisher.regrouping().of(source) {
            Some(figures) => Err(Error::UnderWay(format!(
                "the files of {source} are being given to the pod's group (fsGroup): {figures}; that goes on, call again"
            ))),
            None => published.await,
        }
    }
}

#[tonic::async_trait]
impl Rpc for Node {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let until = deadline::for_answer(&request);
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        let publish = publish_request::parse(request, &self.settings.publish)?;
        call_span::export(&publish.source);
        let (publisher, source) = (Arc::clone(&self.publisher), publish.source.to_string());
        // The work is finished even if the caller gives up.
        let published = run_to_completion(async move { publisher.publish(publish).await });
        self.published_or_far(published, until, &source).await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.volume_id);
        present(&request.volume_id)?;
        let target = Target::parse("target_path", &request.target_path)?;
        let (publisher, stats) = (Arc::clone(&self.publisher), Arc::clone(&self.stats));
        run_to_completion(async move {
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
        call_span::volume(&request.volume_id);
        present(&request.volume_id)?;
        // A volume that another driver created may have any identifier.
        let share = VolumeId::parse(&request.volume_id).ok().map(|id| id.export());
        let volume = Volume { id: request.volume_id, share };
        let stat = self.stats.of(&volume, &published("volume_path", &request.volume_path)?).await?;
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage: usage(&stat) }))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<csi::NodeGetVolumeHealthResponse>, Status> {
        let csi::NodeGetVolumeHealthRequest { volume_id, volume_publish_path, .. } = request.into_inner();
        call_span::volume(&volume_id);
        present(&volume_id)?;
        let target = match volume_publish_path.as_str() {
            "" => None,
            path => Some(published("volume_publish_path", path)?),
        };
        // A volume that another driver created may have any identifier.
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
        let (key, value) = TOPOLOGY;
        let segments = [(key.to_owned(), value.to_owned())].into();
        let accessible_topology = Some(csi::Topology { segments });
        Ok(Response::new(csi::NodeGetInfoResponse { node_id, accessible_topology, ..Default::default() }))
    }
}

/// One topology for all nodes, because every node reaches every export. It constrains nothing, since the plugin has no
/// VOLUME_ACCESSIBILITY_CONSTRAINTS. Without a topology, external-provisioner 6.4 does not recognize its own
/// CSIStorageCapacity objects, and creates new ones for ever.
const TOPOLOGY: (&str, &str) = ("topology.csi-nfs.rs/exports", "reachable");

/// Parses the path of a published volume. A path that cannot be a target is NOT_FOUND, because no volume can be there.
fn published(field: &str, text: &str) -> Result<Target> {
    Target::parse(field, text).map_err(|error| match error {
        Error::Invalid { reason, .. } if !text.is_empty() => Error::not_found("a volume at that path", reason),
        other => other,
    })
}

fn usage(stat: &FsStat) -> Vec<csi::VolumeUsage> {
    let usage = |unit: Unit, total: u64, free: u64, available: u64| csi::VolumeUsage {
        unit: unit.into(),
        total: int64(total),
        used: int64(total.saturating_sub(free)),
        available: int64(available),
    };
    let bytes = usage(Unit::Bytes, stat.total_bytes, stat.free_bytes, stat.available_bytes);
    // A file system without a limit on inodes reports 0.
    let inodes =
        (stat.total_inodes > 0).then(|| usage(Unit::Inodes, stat.total_inodes, stat.free_inodes, stat.free_inodes));
    std::iter::once(bytes).chain(inodes).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::mounter::Mounter;
    use crate::mount::reachability::Reachability;
    use crate::nfs::options::MountOptions;
    use crate::node::mount_probe::MountProbe;

    fn node() -> Node {
        let reachability = Reachability::new();
        let gates = Gates::new(Arc::clone(&reachability));
        let probe = MountProbe::new(Arc::clone(&reachability), Arc::clone(&gates));
        let mounter = Arc::new(Mounter::new(Arc::clone(&reachability), Arc::clone(&gates)));
        let publisher = Publisher::new(Arc::clone(&mounter), reachability, gates, Arc::default());
        let stats = Stats::new(probe.clone(), Arc::default(), None, std::time::Duration::ZERO);
        let settings = Settings {
            node_id: "node".to_owned(),
            publish: publish_request::Defaults {
                mount_options: MountOptions::default(),
                mount_permissions: None,
                allow_inline: false,
            },
        };
        Node::new(settings, Arc::new(publisher), Arc::new(stats), Arc::new(MountHealth::new(probe, Arc::default())))
    }

    #[rstest]
    #[case("", "/p", tonic::Code::InvalidArgument)]
    #[case("v", "", tonic::Code::InvalidArgument)]
    #[case("v", "some/path", tonic::Code::NotFound)]
    #[case("v", "/nowhere/at/all", tonic::Code::NotFound)]
    #[case("v", "/proc", tonic::Code::NotFound)]
    #[tokio::test]
    async fn statistics_need_a_volume_at_a_path(#[case] id: &str, #[case] path: &str, #[case] expected: tonic::Code) {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: id.to_owned(),
            volume_path: path.to_owned(),
            ..Default::default()
        };
        assert_eq!(node().node_get_volume_stats(Request::new(request)).await.unwrap_err().code(), expected);
    }

    #[rstest]
    #[case("", "", tonic::Code::InvalidArgument)]
    #[case("v", "", tonic::Code::NotFound)]
    #[case("nfs#export#v##", "", tonic::Code::NotFound)]
    #[case("v", "some/path", tonic::Code::NotFound)]
    #[case("v", "/nowhere/at/all", tonic::Code::NotFound)]
    #[tokio::test]
    async fn health_needs_a_volume_on_this_node(#[case] id: &str, #[case] path: &str, #[case] expected: tonic::Code) {
        let request = csi::NodeGetVolumeHealthRequest {
            volume_id: id.to_owned(),
            volume_publish_path: path.to_owned(),
            ..Default::default()
        };
        assert_eq!(node().node_get_volume_health(Request::new(request)).await.unwrap_err().code(), expected);
    }

    #[rstest]
    #[case("", "/t")]
    #[case("v", "")]
    #[case("v", "t")]
    #[case("v", "/a/../t")]
    #[case("v", "/")]
    #[tokio::test]
    async fn unpublish_needs_a_volume_and_a_target(#[case] id: &str, #[case] path: &str) {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: path.to_owned() };
        let status = node().node_unpublish_volume(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn usage_has_no_inodes_without_a_limit_and_no_negative_numbers() {
        let stat =
            FsStat { total_bytes: u64::MAX, free_bytes: 3, available_bytes: 2, total_inodes: 10, free_inodes: 11 };
        let [bytes, inodes] = usage(&stat).try_into().unwrap();
        assert_eq!((bytes.total, bytes.used, bytes.available, bytes.unit()), (i64::MAX, i64::MAX, 2, Unit::Bytes));
        assert_eq!((inodes.total, inodes.used, inodes.available, inodes.unit()), (10, 0, 11, Unit::Inodes));
        assert_eq!(usage(&FsStat { total_inodes: 0, ..stat }).len(), 1);
    }
}
