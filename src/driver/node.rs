//! The node's part: publishing, health and statistics, and the Node service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::task::AbortOnDropHandle;

use crate::config::NodeConfig;
use crate::driver::servers::seconds;
use crate::driver::{Shared, status};
use crate::export::fs::FsStat;
use crate::node::mount_health::MountHealth;
use crate::node::mount_probe::MountProbe;
use crate::node::mounts::{Kind, MountsWatch};
use crate::node::publish_intents::PublishIntents;
use crate::node::publisher::Publisher;
use crate::node::statistics_scope::{Exports, StatisticsScope};
use crate::node::stats::Stats;
use crate::server::Services;
use crate::server::metrics::{Metrics, Reading};
use crate::server::registration::Registration;
use crate::service::node::{Node, Settings};
use crate::service::proto::csi::node_server::NodeServer;
use crate::service::publish_request::Defaults;

/// A metric by volume, from the last answer of NodeGetVolumeStats: its name, its help, and its value.
type VolumeMetric = (&'static str, &'static str, fn(&FsStat) -> u64);
const VOLUME_METRICS: [VolumeMetric; 2] = [
    ("volume_size_bytes", "The size of a volume, or of its export if the volume has no limit.", |stat| {
        stat.total_bytes
    }),
    ("volume_used_bytes", "The used bytes of the volume, or of its export if the volume has no limit.", |stat| {
        stat.total_bytes.saturating_sub(stat.free_bytes)
    }),
];

/// Starts the node's part and adds its service. What it does in the background ends when the returned handle is dropped.
pub fn start(config: &NodeConfig, shared: &Shared, services: &mut Services) -> Option<AbortOnDropHandle<()>> {
    let (reachability, gates, mounter) = (&shared.reachability, &shared.gates, &shared.mounter);
    let intents = Arc::new(PublishIntents::default());
    let probe = MountProbe::new(reachability.clone(), gates.clone());
    let publisher = Publisher::new(mounter.clone(), reachability.clone(), gates.clone(), intents.clone());
    let exports = shared.metrics_are_read.then(|| Exports::new(mounter.clone()));
    let stats = Arc::new(Stats::new(probe.clone(), intents.clone(), exports, config.stats_cache));
    let health = Arc::new(MountHealth::new(probe, intents.clone()));
    status::tell_node(&shared.board, &intents, publisher.regrouping());
    let mounts = Arc::new(MountsWatch::default());
    register_metrics(&shared.metrics, &stats, &mounts);
    services.add(NodeServer::new(Node::new(settings(config), Arc::new(publisher), stats, health)));
    let (reachability, gates) = (reachability.clone(), gates.clone());
    let counting = async move { mounts.keep(gates.local(), &intents, &reachability).await };
    shared.metrics_are_read.then(|| AbortOnDropHandle::new(tokio::spawn(counting)))
}

fn settings(config: &NodeConfig) -> Settings {
    Settings {
        node_id: config.id.to_string(),
        publish: Defaults {
            mount_options: config.mount_options.clone(),
            mount_permissions: config.mount_permissions,
            allow_inline: config.inline_volumes,
        },
    }
}

fn register_metrics(metrics: &Metrics, stats: &Arc<Stats>, mounts: &Arc<MountsWatch>) {
    for (name, help, value) in VOLUME_METRICS {
        let stats = stats.clone();
        metrics.gauge(name, help, move || {
            let reading = |(volume, scope, stat): (String, StatisticsScope, FsStat)| Reading {
                labels: vec![("volume", volume), ("figures", scope.as_str().to_owned())],
                value: value(&stat) as f64,
            };
            stats.known().into_iter().map(reading).collect()
        });
    }
    let kept = mounts.clone();
    metrics.gauge("mounts", "Volumes mounted on this node, by server and what is in force.", move || {
        kept.last().kinds.into_iter().map(|(kind, count)| mounts_of(kind, count)).collect()
    });
    let kept = mounts.clone();
    metrics.gauge("mounts_weaker", "Mounts that are less secure than was asked for.", move || {
        let weaker = kept.last().weaker.into_iter();
        weaker.map(|(server, count)| Reading::labelled("server", server, count as f64)).collect()
    });
    let kept = mounts.clone();
    metrics.gauge("mount_oldest_timestamp_seconds", "When the oldest mount of the server was made.", move || {
        let oldest = kept.last().oldest.into_iter();
        oldest.map(|(server, since)| Reading::labelled("server", server, seconds(since))).collect()
    });
}

fn mounts_of(kind: Kind, count: u64) -> Reading {
    let fallback = kind.fallback().to_owned();
    let labels = vec![
        ("server", kind.server),
        ("version", kind.version),
        ("sec", kind.sec),
        ("xprtsec", kind.xprtsec),
        ("fallback", fallback),
    ];
    Reading { labels, value: count as f64 }
}

/// Registers the metric of the registration with kubelet, which has no value if the node does not register itself.
pub fn register_registration(metrics: &Metrics, registration: Option<&Registration>) {
    let registered = registration.map(Registration::registered);
    metrics.gauge("node_registered", "1 if kubelet has registered the driver, otherwise 0.", move || {
        let value = |flag: &Arc<AtomicBool>| if flag.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
        registered.iter().map(|flag| Reading { labels: vec![], value: value(flag) }).collect()
    });
}
