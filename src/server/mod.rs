//! Serves the CSI services on a socket until shutdown, which takes a bounded time.

pub mod admin;
mod exposition;
pub(crate) mod http;
pub(crate) mod metrics;
pub mod probe;
mod process;
pub(crate) mod registration;
pub(crate) mod socket;
pub mod status;
pub mod telemetry;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;

use crate::error::{Error, Result};
use socket::Socket;
use telemetry::Calls;

/// How long the answers of calls that were cut off have to reach their callers.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The gRPC services of one server.
#[derive(Debug, Default, Clone)]
pub struct Services(RoutesBuilder);

impl Services {
    /// Adds a service that `service::proto` generates.
    pub fn add<S>(&mut self, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.0.add_service(service);
    }

    fn routes(self) -> Routes {
        self.0.routes()
    }
}

/// Serves until `shutdown` completes, then drains: removes the socket's path, accepts no new connection, and gives
/// calls in flight `grace` to end. Then it cuts off the other calls with UNAVAILABLE, and returns their number.
///
/// A call is dropped at once if its caller gives up or its deadline passes.
pub async fn run(
    socket: Socket,
    services: Services,
    calls: Calls,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) -> Result<usize> {
    let (listener, claim) = socket.into_parts();
    let (ending, ended) = oneshot::channel();
    let shutdown = async {
        shutdown.await;
        drop(claim);
        let _ = ending.send(());
    };
    let serving = Server::builder().layer(calls.clone()).serve_with_incoming_shutdown(
        services.routes(),
        UnixListenerStream::new(listener),
        shutdown,
    );
    tokio::pin!(serving);
    let failed = |error| Error::Internal(format!("serving: {error}"));

    tokio::select! {
        served = &mut serving => return served.map(|()| 0).map_err(failed),
        _ = ended => {}
    }
    tracing::info!(calls = calls.in_flight(), ?grace, "draining");
    if let Ok(served) = tokio::time::timeout(grace, &mut serving).await {
        return served.map(|()| 0).map_err(failed);
    }
    let cut = calls.cut();
    tracing::warn!(calls = cut, ?grace, "cutting the calls that did not end in time");
    // A caller that does not read its answer by then loses the connection when the process ends.
    let _ = tokio::time::timeout(LAST_WORDS, serving).await;
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tempfile::TempDir;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tonic::transport::{Channel, Endpoint};
    use tonic::{Code, Request, Response, Status};

    use super::*;
    use crate::server::socket::SocketPath;
    use crate::service::proto::csi;
    use crate::service::proto::csi::identity_client::IdentityClient;
    use crate::service::proto::csi::identity_server::{Identity, IdentityServer};

    /// A service whose Probe reports that it has started, and waits until it may end.
    #[derive(Clone, Default)]
    struct Slow {
        begun: Arc<Notify>,
        end: Arc<Notify>,
    }

    #[tonic::async_trait]
    impl Identity for Slow {
        async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
            self.begun.notify_one();
            self.end.notified().await;
            Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
        }

        async fn get_plugin_info(
            &self,
            _: Request<csi::GetPluginInfoRequest>,
        ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
            Ok(Response::new(csi::GetPluginInfoResponse::default()))
        }
    }

    struct Running {
        slow: Slow,
        shutdown: Arc<Notify>,
        served: JoinHandle<Result<usize>>,
        path: SocketPath,
        directory: TempDir,
    }

    impl Running {
        fn start(grace: Duration) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = SocketPath::parse("", directory.path().join("csi.sock").to_str().unwrap()).unwrap();
            let (slow, shutdown) = (Slow::default(), Arc::new(Notify::new()));
            let mut services = Services::default();
            services.add(IdentityServer::new(slow.clone()));
            let (socket, stop) = (Socket::bind(&path).unwrap(), shutdown.clone());
            let calls = Calls::new(Arc::default());
            let served = tokio::spawn(run(socket, services, calls, async move { stop.notified().await }, grace));
            Self { slow, shutdown, served, path, directory }
        }

        async fn client(&self) -> IdentityClient<Channel> {
            IdentityClient::new(connect(self.path.as_path()).await)
        }

        /// A Probe that has reached the service.
        async fn call(&self) -> JoinHandle<Result<Response<csi::ProbeResponse>, Status>> {
            let mut client = self.client().await;
            let call = tokio::spawn(async move { client.probe(csi::ProbeRequest {}).await });
            self.slow.begun.notified().await;
            call
        }

        fn socket_is_gone(&self) -> bool {
            std::fs::read_dir(self.directory.path()).unwrap().next().is_none()
        }
    }

    async fn connect(path: &Path) -> Channel {
        Endpoint::from_shared(format!("unix://{}", path.display())).unwrap().connect().await.unwrap()
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn shutdown_waits_for_a_call_in_flight() {
        let running = Running::start(LONG);
        let call = running.call().await;
        running.shutdown.notify_one();
        while !running.socket_is_gone() {
            tokio::task::yield_now().await;
        }
        assert!(!running.served.is_finished());
        running.slow.end.notify_one();
        assert_eq!(call.await.unwrap().unwrap().into_inner().ready, Some(true));
        assert_eq!(running.served.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_call_that_outlives_the_grace_period_ends_with_unavailable() {
        let running = Running::start(Duration::from_millis(20));
        let call = running.call().await;
        running.shutdown.notify_one();
        assert_eq!(running.served.await.unwrap().unwrap(), 1);
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn idle_clients_do_not_delay_shutdown() {
        let running = Running::start(LONG);
        let mut client = running.client().await;
        client.get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap();
        running.shutdown.notify_one();
        assert_eq!(running.served.await.unwrap().unwrap(), 0);
        assert!(client.get_plugin_info(csi::GetPluginInfoRequest {}).await.is_err());
    }

    #[tokio::test]
    async fn a_deadline_of_the_caller_ends_the_call() {
        let running = Running::start(LONG);
        let mut client = running.client().await;
        let mut request = Request::new(csi::ProbeRequest {});
        request.set_timeout(Duration::from_millis(20));
        assert!(client.probe(request).await.is_err());
        running.shutdown.notify_one();
        assert_eq!(running.served.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_method_that_is_not_served_is_unimplemented() {
        let running = Running::start(LONG);
        let channel = connect(running.path.as_path()).await;
        let mut node = csi::node_client::NodeClient::new(channel);
        let error = node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
    }
}
