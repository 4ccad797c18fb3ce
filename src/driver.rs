//! The composition: what a configuration becomes, and the order in which it comes up and goes down.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;

use crate::config::Config;
use crate::error::Result;
use crate::export::Export;
use crate::export::copy::Options;
use crate::export::fs::FsStat;
use crate::export::kernel::KernelFs;
use crate::export::pool::Pool;
use crate::mount::gate::Gates;
use crate::mount::mounter::Mounter;
use crate::mount::reachability::{Reachability, ServerState};
use crate::mount::table::{Table, is_kubelet_target};
use crate::mount::version::is_fallback;
use crate::node::health::Health;
use crate::node::probe::Probe;
use crate::node::publish::Publisher;
use crate::node::publish_intents::Requested;
use crate::node::statistics_scope::{Exports, Whose};
use crate::node::stats::Stats;
use crate::server;
use crate::server::http;
use crate::server::metrics::{Metrics, Reading};
use crate::server::registration::Registration;
use crate::server::socket::Socket;
use crate::server::telemetry::Calls;
use crate::service::controller::Controller;
use crate::service::identity::{Identity, Readiness};
use crate::service::node::{self, Node};
use crate::service::proto::csi::controller_server::ControllerServer;
use crate::service::proto::csi::group_controller_server::GroupControllerServer;
use crate::service::proto::csi::identity_server::IdentityServer;
use crate::service::proto::csi::node_server::NodeServer;
use crate::service::publish_request;
use crate::snapshot::jobs::Jobs;
use crate::snapshot::usage::Usage;

/// What NodeGetVolumeStats answered last, by volume.
type VolumeFigure = (&'static str, &'static str, fn(&FsStat) -> u64);
const VOLUME_FIGURES: [VolumeFigure; 2] = [
    ("volume_size_bytes", "The sizes of volumes, or of their exports where they have no limit.", |stat| {
        stat.total_bytes
    }),
    ("volume_used_bytes", "What is used of that.", |stat| stat.total_bytes.saturating_sub(stat.free_bytes)),
];

/// How long servers are waited for at the end, to close what is open there.
const CLOSING: Duration = Duration::from_secs(1);

/// Runs the driver until `shutdown` is over and the calls in flight have ended, or were cut.
///
/// # Errors
/// What could not be bound. Nothing stays behind then.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let metrics = Arc::new(Metrics::default());
    let readiness = Readiness::default();
    let calls = Calls::new(metrics.clone());

    let serves_controller = config.controller.is_some();
    // What is only told by metrics is not asked for where nobody reads them.
    let watched = config.http_endpoint.is_some();
    let identity = Identity::new(config.driver_name.clone(), serves_controller, readiness.clone());
    let mut services = Routes::builder();
    services.add_service(IdentityServer::new(identity));

    let reachability = Reachability::new();
    let gates = Gates::new(reachability.clone());
    let mounter = Arc::new(Mounter::new(reachability.clone(), gates.clone()));
    let open = gates.clone();
    let known = reachability.clone();
    metrics.gauge("server_reachable", "Whether the NFS server answered when it was asked last.", move || {
        let reading = |state: ServerState| {
            Reading::labelled("server", state.server.as_str(), if state.result.is_ok() { 1.0 } else { 0.0 })
        };
        known.known().into_iter().map(reading).collect()
    });
    let mut background = JoinSet::new();
    let stop = CancellationToken::new();
    let mut connected = None;
    if let Some(controller) = config.controller {
        let options = controller.settings.mount_options.clone();
        let exports = controller.exports.into_iter().map(|export| (export, options.clone()));
        let pool = Arc::new(Pool::new(mounter.clone(), exports));
        let jobs = Arc::new(Jobs::new(Options { in_flight: controller.copy_workers }, stop.clone()));
        let controller = Arc::new(Controller::new(pool.clone(), controller.settings, jobs.clone()));
        services.add_service(ControllerServer::from_arc(controller.clone()));
        services.add_service(GroupControllerServer::from_arc(controller));
        let (running, waiting) = (jobs.clone(), jobs.clone());
        let one = |value: usize| vec![Reading { labels: vec![], value: value as f64 }];
        metrics.gauge("copies_in_progress", "Snapshots, restores and clones that are being copied.", move || {
            one(running.running())
        });
        metrics.gauge("copies_waiting", "Snapshots, restores and clones that wait for their turn.", move || {
            one(waiting.waiting())
        });
        let trashed = pool.clone();
        metrics.gauge("trash_entries", "Deleted volumes that are not cleared from the trash yet.", move || {
            let reading = |export: Arc<Export<KernelFs>>| {
                Reading::labelled("export", export.source().to_string(), export.trash.waiting() as f64)
            };
            trashed.connected().into_iter().map(reading).collect()
        });
        let usage = Arc::new(Usage::default());
        let told = usage.clone();
        metrics.gauge("snapshots_bytes", "What snapshots take, as the agent on the server counts it.", move || {
            told.known().into_iter().map(|(export, bytes)| Reading::labelled("export", export, bytes as f64)).collect()
        });
        let (kept, used) = (pool.clone(), pool.clone());
        let keep_usage = async move {
            if watched {
                usage.keep(&used).await;
            }
        };
        background.spawn(async move { tokio::join!(kept.open_known(), kept.close_idle(), keep_usage).1 });
        connected = Some((pool, jobs));
    }
    let node_id = config.node.as_ref().map(|node| node.id.to_string());
    if let Some(node) = &config.node {
        let requested = Arc::new(Requested::default());
        let probe = Probe::new(reachability.clone(), gates.clone());
        let settings = node::Settings {
            node_id: node.id.to_string(),
            publish: publish_request::Defaults {
                mount_options: node.mount_options.clone(),
                mount_permissions: node.mount_permissions,
                allow_inline: node.inline_volumes,
            },
        };
        let publisher = Publisher::new(mounter.clone(), reachability.clone(), gates, requested.clone());
        let stats = Arc::new(Stats::new(probe.clone(), watched.then(|| Exports::new(mounter)), node.stats_cache));
        for (name, help, figure) in VOLUME_FIGURES {
            let stats = stats.clone();
            metrics.gauge(name, help, move || {
                let reading = |(volume, whose, stat): (String, Whose, FsStat)| Reading {
                    labels: vec![("volume", volume), ("figures", whose.as_str().to_owned())],
                    value: figure(&stat) as f64,
                };
                stats.known().into_iter().map(reading).collect()
            });
        }
        let health = Arc::new(Health::new(probe, requested.clone()));
        services.add_service(NodeServer::new(Node::new(settings, Arc::new(publisher), stats, health)));
        metrics.gauge(
            "mounts",
            "Volumes mounted on this node, by the server's address and the version of NFS.",
            move || mounts_by_server(&requested),
        );
    }

    let socket = Socket::bind(&config.endpoint)?;
    let registration = match config.node.as_ref().and_then(|node| node.registration.as_ref()) {
        Some(kubelet) => Some(Registration::bind(kubelet.socket.clone(), &config.driver_name, &kubelet.endpoint)?),
        None => None,
    };
    // Answers until the last call has ended.
    let _health = match config.http_endpoint {
        Some(address) => {
            let listener = http::bind(address).await?;
            Some(AbortOnDropHandle::new(tokio::spawn(http::serve(listener, readiness.clone(), metrics))))
        }
        None => None,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        driver = %config.driver_name,
        endpoint = %config.endpoint,
        controller = serves_controller,
        node = node_id,
        "serving"
    );
    readiness.serving();

    let ending = async {
        shutdown.await;
        readiness.draining();
        stop.cancel();
    };
    let registered = async {
        if let Some(registration) = registration {
            registration.run(stop.clone()).await;
        }
    };
    let served = server::run(socket, services.routes(), calls, ending, config.shutdown_grace);
    let (cut, ()) = tokio::join!(served, registered);
    background.shutdown().await;
    if let Some((pool, jobs)) = connected {
        jobs.ended(CLOSING).await;
        pool.close().await;
    }
    open.closed(CLOSING).await;
    tracing::info!(cut = cut?, "ended");
    Ok(())
}

fn mounts_by_server(requested: &Requested) -> Vec<Reading> {
    // A mount table that cannot be read has no figures, rather than wrong ones.
    let Ok(table) = Table::read() else { return Vec::new() };
    let mut counts: BTreeMap<[String; 3], f64> = BTreeMap::new();
    for mount in table.mounts().filter(|mount| is_kubelet_target(&mount.target)) {
        let (Some(server), Some(version)) = (mount.server(), mount.option("vers")) else { continue };
        let wanted = requested.at(&mount.target);
        let fallback = match is_fallback(mount, wanted.as_ref().map(|wanted| &wanted.options)) {
            Some(true) => "true",
            Some(false) => "false",
            // Mounted by an earlier process.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::{Task, parse};
    use crate::server::probe::probe;

    /// A node and controller whose sockets are in the directory.
    fn config(directory: &TempDir, http: &str) -> Config {
        let path = |name: &str| directory.path().join(name).display().to_string();
        let words = [
            "csi-nfs".to_owned(),
            "--nodeid=n".to_owned(),
            format!("--endpoint=unix://{}", path("csi.sock")),
            format!("--registration-socket={}", path("reg.sock")),
            "--kubelet-socket-path=/var/lib/kubelet/plugins/csi-nfs.rs/csi.sock".to_owned(),
            format!("--http-endpoint={http}"),
        ];
        match parse(words.map(Into::into), |_| None) {
            Ok(Task::Serve(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn count(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[tokio::test]
    async fn a_driver_comes_up_ready_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory, "127.0.0.1:0");
        let socket = config.endpoint.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(run(config, async {
            let _ = stopped.await;
        }));
        while count(directory.path()) < 2 {
            tokio::task::yield_now().await;
        }
        probe(&socket, Duration::from_secs(3)).await.unwrap();
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(count(directory.path()), 0);
        let error = probe(&socket, Duration::from_secs(3)).await.unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_start_that_fails_half_way_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = run(config(&directory, &address), std::future::pending()).await.unwrap_err().to_string();
        assert!(error.contains(&address) && error.contains("in use"), "{error}");
        assert_eq!(count(directory.path()), 0);
    }
}
