//! Registers the driver with kubelet, in place of the node-driver-registrar sidecar. kubelet watches its
//! plugins_registry directory for sockets, asks a new socket for the driver's name and CSI socket (GetInfo), calls
//! NodeGetInfo on the CSI socket, and reports the result (NotifyRegistrationStatus).
//! <https://kubernetes.io/docs/reference/node/kubelet-files/#plugin-registration>

mod authority;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::error::Result;
use crate::mount::backoff::backoff;
use crate::server::socket::{Claim, Holder, Socket, SocketPath};
use crate::service::identity::DriverName;
use crate::service::proto::registration::registration_server::{Registration as Service, RegistrationServer};
use crate::service::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use authority::Local;

/// The first and the longest pause before a retry after a rejection.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The maximum number of unread verdicts. kubelet sends one at a time.
const VERDICTS: usize = 8;

/// kubelet's verdict on the registration.
#[derive(Debug)]
enum Verdict {
    Accepted,
    Refused(String),
}

/// A registration that is ready to be served.
#[derive(Debug)]
pub struct Registration {
    path: SocketPath,
    info: PluginInfo,
    socket: Socket,
    registered: Arc<AtomicBool>,
}

impl Registration {
    /// Creates the registration socket at `path`, where kubelet finds the driver. The driver's CSI socket must listen
    /// before this. `endpoint` is the path of the CSI socket as kubelet sees it on the host.
    pub fn bind(path: SocketPath, driver: &DriverName, endpoint: &SocketPath) -> Result<Self> {
        let info = PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: driver.to_string(),
            endpoint: endpoint.to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        };
        let socket = Socket::bind(&path)?;
        Ok(Self { path, info, socket, registered: Arc::default() })
    }

    /// Whether kubelet has registered the driver, as of its last answer.
    pub fn registered(&self) -> Arc<AtomicBool> {
        self.registered.clone()
    }

    /// Serves kubelet until `stop`, then removes the socket, so that kubelet forgets the driver. If kubelet rejects the
    /// driver, this creates the socket again after a pause, and kubelet sees a new plugin. If another instance of the
    /// driver has taken the path over, the path stays with that instance.
    pub async fn run(self, stop: CancellationToken) {
        let Self { path, info, socket, registered } = self;
        let (verdicts, mut verdict) = mpsc::channel(VERDICTS);
        let kubelet = Kubelet { info, verdicts };
        let mut served = Served::start(socket, kubelet.clone());
        let mut pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE);
        let mut again: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(verdict) = verdict.recv() => match verdict {
                    Verdict::Accepted => {
                        tracing::info!(socket = %path, "registered with kubelet");
                        registered.store(true, Ordering::Relaxed);
                        (again, pauses) = (None, backoff(FIRST_PAUSE, LONGEST_PAUSE));
                    }
                    // Several rejections of one attempt lead to one retry.
                    Verdict::Refused(_) if again.is_some() => {}
                    Verdict::Refused(reason) => {
                        registered.store(false, Ordering::Relaxed);
                        let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                        tracing::error!(socket = %path, reason, retry = ?pause, "kubelet rejected the driver");
                        again = Some(Instant::now() + pause);
                    }
                },
                () = sleep_until(again) => {
                    again = None;
                    if served.claim.holder() == Holder::Other {
                        tracing::info!(
                    socket = %path,
                    "another instance of the driver has taken the registration over"
                );
                        continue;
                    }
                    match Socket::bind(&path) {
                        // The new socket gets the path before the old socket is closed.
                        Ok(socket) => served = Served::start(socket, kubelet.clone()),
                        Err(error) => {
                            let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                            tracing::error!(%error, retry = ?pause, "registering with kubelet failed");
                            again = Some(Instant::now() + pause);
                        }
                    }
                }
            }
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A socket that is served until this is dropped. The drop removes the path first, and then closes the listener.
#[derive(Debug)]
struct Served {
    claim: Claim,
    _stop: DropGuard,
}

impl Served {
    fn start(socket: Socket, kubelet: Kubelet) -> Self {
        let (listener, claim) = socket.into_parts();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener).map(|stream| stream.map(Local::new));
            let server = Server::builder();
            let served = server.serve_with_incoming_shutdown(RegistrationServer::new(kubelet), incoming, stopped).await;
            if let Err(error) = served {
                tracing::error!(%error, "serving kubelet's plugin registration failed");
            }
        });
        Self { claim, _stop: stop.drop_guard() }
    }
}

/// The service that kubelet calls.
#[derive(Debug, Clone)]
struct Kubelet {
    info: PluginInfo,
    verdicts: mpsc::Sender<Verdict>,
}

#[tonic::async_trait]
impl Service for Kubelet {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        tracing::debug!("kubelet asks for the driver's name and CSI socket");
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let verdict = match status.plugin_registered {
            true => Verdict::Accepted,
            false => Verdict::Refused(status.error),
        };
        // If the queue is full, an earlier verdict is enough.
        let _ = self.verdicts.try_send(verdict);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::inotify;
    use tempfile::TempDir;
    use tokio::task::JoinHandle;
    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::service::proto::registration::registration_client::RegistrationClient;

    /// A plugins_registry directory that is watched as by kubelet.
    struct Registry {
        directory: TempDir,
        path: SocketPath,
        watch: OwnedFd,
    }

    impl Registry {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("csi-nfs.rs-reg.sock");
            let path = SocketPath::parse("", path.to_str().unwrap()).unwrap();
            let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
            let created = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&watch, directory.path(), created).unwrap();
            Self { directory, path, watch }
        }

        /// The names of new sockets that kubelet does not ignore. Waits for the first one, in the test's clock.
        async fn created(&self) -> Vec<String> {
            loop {
                let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
                let mut events = inotify::Reader::new(&self.watch, &mut buffer);
                let mut names = Vec::new();
                while let Ok(event) = events.next() {
                    let name = event.file_name().unwrap().to_str().unwrap();
                    names.extend((!name.starts_with('.')).then(|| name.to_owned()));
                }
                if !names.is_empty() {
                    return names;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }

        async fn kubelet(&self) -> RegistrationClient<Channel> {
            let channel = Endpoint::from_shared(format!("unix://{}", self.path)).unwrap().connect().await.unwrap();
            RegistrationClient::new(channel)
        }

        fn bind(&self) -> Registration {
            let driver = DriverName::parse("", "csi-nfs.rs").unwrap();
            let endpoint = SocketPath::parse("", "/var/lib/kubelet/plugins/csi-nfs.rs/csi.sock").unwrap();
            Registration::bind(self.path.clone(), &driver, &endpoint).unwrap()
        }

        fn register(&self) -> (JoinHandle<()>, CancellationToken) {
            let stop = CancellationToken::new();
            (tokio::spawn(self.bind().run(stop.clone())), stop)
        }

        fn inode(&self) -> u64 {
            std::fs::symlink_metadata(self.path.as_path()).unwrap().ino()
        }

        fn is_empty(&self) -> bool {
            std::fs::read_dir(self.directory.path()).unwrap().next().is_none()
        }
    }

    /// Sends a GetInfo request with the authority of kubelet's client: preface, SETTINGS, HEADERS and DATA, by hand.
    #[tokio::test]
    async fn a_request_with_the_socket_s_path_as_its_host_is_answered() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let registry = Registry::new();
        let (_running, _stop) = registry.register();
        let authority = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fcsi-nfs.rs-reg.sock";
        let path = b"/pluginregistration.Registration/GetInfo";
        let mut block = vec![0x83, 0x86, 0x44, u8::try_from(path.len()).unwrap()];
        block.extend(path);
        block.extend([0x41, u8::try_from(authority.len()).unwrap()]);
        block.extend(authority);
        block.extend(b"\x5f\x10application/grpc\x40\x02te\x08trailers");
        let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        request.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        request.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
        request.extend(block);
        request.extend([0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        let mut kubelet = tokio::net::UnixStream::connect(registry.path.as_path()).await.unwrap();
        kubelet.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(9).any(|bytes| bytes == b"CSIPlugin") {
            assert_ne!(kubelet.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
        }
    }

    fn refused() -> RegistrationStatus {
        RegistrationStatus { plugin_registered: false, error: "no CSINode yet".to_owned() }
    }

    fn accepted() -> RegistrationStatus {
        RegistrationStatus { plugin_registered: true, error: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn kubelet_finds_the_driver_asks_for_its_name_and_loses_it_at_the_end() {
        let registry = Registry::new();
        let (running, stop) = registry.register();
        assert_eq!(registry.created().await, ["csi-nfs.rs-reg.sock"]);
        let mut kubelet = registry.kubelet().await;
        let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!((&*info.r#type, &*info.name), ("CSIPlugin", "csi-nfs.rs"));
        assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi-nfs.rs/csi.sock");
        assert_eq!(info.supported_versions, ["1.0.0"]);
        kubelet.notify_registration_status(accepted()).await.unwrap();
        stop.cancel();
        running.await.unwrap();
        assert!(registry.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_driver_retries_at_a_falling_rate() {
        let registry = Registry::new();
        let (_running, _stop) = registry.register();
        registry.created().await;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let before = (registry.inode(), Instant::now());
            // Several rejections by kubelet count as one attempt.
            for _ in 0..2 * VERDICTS {
                registry.kubelet().await.notify_registration_status(refused()).await.unwrap();
            }
            assert_eq!(registry.created().await, ["csi-nfs.rs-reg.sock"]);
            assert_ne!(registry.inode(), before.0);
            pauses.push(before.1.elapsed().as_secs());
            assert!(registry.kubelet().await.get_info(InfoRequest {}).await.is_ok());
        }
        let expected = [1, 2, 4, 8, 16, 32, 60, 60];
        assert!(
            std::iter::zip(&pauses, expected).all(|(pause, least)| (least..=2 * least).contains(pause)),
            "{pauses:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_is_accepted_in_the_end_does_not_retry() {
        let registry = Registry::new();
        let (_running, _stop) = registry.register();
        registry.created().await;
        let mut kubelet = registry.kubelet().await;
        kubelet.notify_registration_status(refused()).await.unwrap();
        kubelet.notify_registration_status(accepted()).await.unwrap();
        assert!(tokio::time::timeout(2 * LONGEST_PAUSE, registry.created()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn kubelet_s_last_verdict_is_told() {
        let registry = Registry::new();
        let registration = registry.bind();
        let registered = registration.registered();
        tokio::spawn(registration.run(CancellationToken::new()));
        let mut kubelet = registry.kubelet().await;
        assert!(!registered.load(Ordering::Relaxed));
        for (verdict, expected) in [(accepted(), true), (refused(), false)] {
            kubelet.notify_registration_status(verdict).await.unwrap();
            while registered.load(Ordering::Relaxed) != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_instance_takes_over_and_the_first_neither_takes_back_nor_removes() {
        let registry = Registry::new();
        let (first, stop_first) = registry.register();
        registry.created().await;
        let mut kubelet_of_first = registry.kubelet().await;
        let (second, stop_second) = registry.register();
        registry.created().await;
        let inode = registry.inode();
        kubelet_of_first.notify_registration_status(refused()).await.unwrap();
        assert!(tokio::time::timeout(2 * LONGEST_PAUSE, registry.created()).await.is_err());
        stop_first.cancel();
        first.await.unwrap();
        assert_eq!(registry.inode(), inode);
        assert!(registry.kubelet().await.get_info(InfoRequest {}).await.is_ok());
        stop_second.cancel();
        second.await.unwrap();
        assert!(registry.is_empty());
    }
}
