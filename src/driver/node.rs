//! The node's part: publishing, health and statistics, and the Node service.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::NodeConfig;
use crate::driver::Shared;
use crate::export::fs::FsStat;
use crate::mount::table::{Table, is_kubelet_target};
use crate::mount::version::is_fallback;
use crate::node::mount_health::MountHealth;
use crate::node::mount_probe::MountProbe;
use crate::node::publish_intents::PublishIntents;
use crate::node::publisher::Publisher;
use crate::node::statistics_scope::{Exports, StatisticsScope};
use crate::node::stats::Stats;
use crate::server::Services;
use crate::server::metrics::{Metrics, Reading};
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

/// Starts the node's part and adds its service.
pub fn start(config: &NodeConfig, shared: &Shared, services: &mut Services) {
    let (reachability, gates, mounter) = (&shared.reachability, &shared.gates, &shared.mounter);
    let intents = Arc::new(PublishIntents::default());
    let probe = MountProbe::new(reachability.clone(), gates.clone());
    let publisher = Publisher::new(mounter.clone(), reachability.clone(), gates.clone(), intents.clone());
    let exports = shared.metrics_are_read.then(|| Exports::new(mounter.clone()));
    let stats = Arc::new(Stats::new(probe.clone(), intents.clone(), exports, config.stats_cache));
    let health = Arc::new(MountHealth::new(probe, intents.clone()));
    register_metrics(&shared.metrics, &stats, intents);
    services.add(NodeServer::new(Node::new(settings(config), Arc::new(publisher), stats, health)));
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

fn register_metrics(metrics: &Metrics, stats: &Arc<Stats>, intents: Arc<PublishIntents>) {
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
    metrics.gauge(
        "mounts",
        "Volumes mounted on this node, by the server's address and the version of NFS.",
        move || mounts_by_server(&intents),
    );
}

fn mounts_by_server(intents: &PublishIntents) -> Vec<Reading> {
    // If the mount table cannot be read, no value is better than a wrong one.
    let Ok(table) = Table::read() else { return Vec::new() };
    let mut counts: BTreeMap<[String; 3], f64> = BTreeMap::new();
    for mount in table.mounts().filter(|mount| is_kubelet_target(&mount.target)) {
        let (Some(server), Some(version)) = (mount.server(), mount.option("vers")) else { continue };
        let intent = intents.at(&mount.target);
        let fallback = match is_fallback(mount, intent.as_ref().map(|intent| &intent.options)) {
            Some(true) => "true",
            Some(false) => "false",
            // An earlier process made the mount.
            None => "unknown",
        };
        *counts.entry([server.to_string(), version.to_owned(), fallback.to_owned()]).or_default() += 1.0;
    }
    let reading = |([server, version, fallback], value): ([String; 3], f64)| Reading {
        labels: vec![("server", server), ("version", version), ("fallback", fallback)],
        value,
    };
    counts.into_iter().map(reading).collect()
}
