//! Builds the driver from its configuration, starts it and stops it.
//!
//! Each part builds itself from its own configuration, adds its services and registers its metrics.

pub mod agent;
mod controller;
mod copies;
mod exports;
mod node;
mod servers;
mod status;
mod volumes;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Config, NodeConfig};
use crate::error::{Error, Result};
use crate::mount::gate::Gates;
use crate::mount::local::Local;
use crate::mount::mounter::Mounter;
use crate::mount::new_mount;
use crate::mount::reachability::Reachability;
use crate::server::admin;
use crate::server::http;
use crate::server::metrics::Metrics;
use crate::server::registration::Registration;
use crate::server::socket::Socket;
use crate::server::status::Board;
use crate::server::telemetry::Calls;
use crate::server::{self, Services};
use crate::service::identity::{DriverName, Identity, Readiness};
use crate::service::proto::csi::identity_server::IdentityServer;

/// How long the driver waits at the end for copies to stop, and then for servers to end calls and to close files.
const CLOSING: Duration = Duration::from_secs(1);

/// The objects that all parts use.
struct Shared {
    reachability: Arc<Reachability>,
    gates: Arc<Gates>,
    mounter: Arc<Mounter>,
    metrics: Arc<Metrics>,
    /// Whether metrics are served. If not, the driver collects nothing that only metrics need.
    metrics_are_read: bool,
    /// What the parts tell of themselves.
    board: Arc<Board>,
    /// Cancelled when the driver must stop.
    stop: CancellationToken,
}

impl Shared {
    fn new(metrics_are_read: bool) -> Self {
        let reachability = Reachability::new();
        let gates = Gates::new(reachability.clone());
        let mounter = Arc::new(Mounter::new(reachability.clone(), gates.clone()));
        let metrics = Arc::new(Metrics::default());
        servers::register(&metrics, &reachability, &gates);
        let (board, stop) = (Arc::default(), CancellationToken::new());
        Self { reachability, gates, mounter, metrics, metrics_are_read, board, stop }
    }

    /// Checks the servers in use until the returned handle is dropped.
    fn check_servers(&self) -> AbortOnDropHandle<()> {
        let reachability = self.reachability.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { reachability.keep_checking().await }))
    }
}

/// Runs the driver until `shutdown` completes and the calls in flight have ended or were cut off.
///
/// # Errors
/// The socket or address that cannot be bound; what the kernel lacks, if the node is to register with kubelet. The
/// driver then leaves no socket behind.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    if config.node.as_ref().is_some_and(|node| node.registration.is_some()) {
        check_kernel().await?;
    }
    serve(config, shutdown).await
}

/// Checks that this node's kernel can mount NFS. Otherwise pods would be scheduled here, and wait in vain.
async fn check_kernel() -> Result<()> {
    let check = || {
        new_mount::check_kernel().map_err(|failure| {
            Error::Precondition(format!(
                "this node cannot mount NFS, so the driver does not register with kubelet: {failure}"
            ))
        })
    };
    let mounts_with = Local::default().run(check).await?;
    tracing::info!(mounts_with, "this node's kernel has an NFS client");
    Ok(())
}

async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let shared = Shared::new(config.http_endpoint.is_some());
    let _heartbeat = shared.metrics_are_read.then(|| shared.check_servers());
    let readiness = Readiness::default();
    let calls = Calls::new(shared.metrics.clone());
    status::tell(&config, &shared, &readiness, &calls);
    let serves_controller = config.controller.is_some();
    let mut services = Services::default();
    services.add(IdentityServer::new(Identity::new(config.driver_name.clone(), serves_controller, readiness.clone())));
    let controller = config.controller.map(|config| controller::start(config, &shared, &mut services));
    let _counting = config.node.as_ref().map(|config| node::start(config, &shared, &mut services));

    let socket = Socket::bind(&config.endpoint)?;
    let (admin, claim) = Socket::bind(&config.admin_socket)?.into_parts();
    let registration = bind_registration(config.node.as_ref(), &config.driver_name)?;
    node::register_registration(&shared.metrics, registration.as_ref());
    // Like the HTTP server, it answers until the last call has ended.
    let _admin = AbortOnDropHandle::new(tokio::spawn(admin::serve(admin, shared.board.clone())));
    // It is dropped before the listener.
    let admin_claim = claim;
    // The HTTP server answers until the last call has ended.
    let _http = match config.http_endpoint {
        Some(address) => {
            let listener = http::bind(address).await?;
            let serving = http::serve(listener, readiness.clone(), shared.metrics.clone());
            Some(AbortOnDropHandle::new(tokio::spawn(serving)))
        }
        None => None,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        driver = %config.driver_name,
        endpoint = %config.endpoint,
        controller = serves_controller,
        node = config.node.as_ref().map(|node| node.id.to_string()),
        "serving"
    );
    readiness.serving();

    let ending = async {
        shutdown.await;
        readiness.draining();
        shared.stop.cancel();
    };
    let registered = async {
        if let Some(registration) = registration {
            registration.run(shared.stop.clone()).await;
        }
    };
    let served = server::run(socket, services, calls, ending, config.shutdown_grace);
    let (cut, ()) = tokio::join!(served, registered);
    drop(admin_claim);
    if let Some(controller) = controller {
        controller.close().await;
    }
    shared.gates.ended(CLOSING).await;
    tracing::info!(cut = cut?, "ended");
    Ok(())
}

/// Binds the socket at which kubelet finds the driver, if the node registers with kubelet.
fn bind_registration(node: Option<&NodeConfig>, driver: &DriverName) -> Result<Option<Registration>> {
    let kubelet = node.and_then(|node| node.registration.as_ref());
    kubelet.map(|kubelet| Registration::bind(kubelet.socket.clone(), driver, &kubelet.endpoint)).transpose()
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
        let running = tokio::spawn(serve(config, async {
            let _ = stopped.await;
        }));
        while count(directory.path()) < 3 {
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
        let error = serve(config(&directory, &address), std::future::pending()).await.unwrap_err().to_string();
        assert!(error.contains(&address) && error.contains("in use"), "{error}");
        assert_eq!(count(directory.path()), 0);
    }
}
