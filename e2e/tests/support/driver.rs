//! The driver as a process of its own, and clients on its socket.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use csi_nfs::service::proto::csi;
use csi_nfs::service::proto::csi::controller_client::ControllerClient;
use csi_nfs::service::proto::csi::group_controller_client::GroupControllerClient;
use csi_nfs::service::proto::csi::identity_client::IdentityClient;
use csi_nfs::service::proto::csi::node_client::NodeClient;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::kernel::{Kernel, NOBODY};
use super::{mounts, processes, requests, wait};

/// The node ID of the driver.
pub const NODE: &str = "node-1";
/// The longest time for any call of a test.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// The longest time from the start of the process to its first answer.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The program under test: `CSI_NFS_DRIVER` if it is set, otherwise the program that cargo built with the tests.
pub fn program() -> PathBuf {
    let named = std::env::var_os("CSI_NFS_DRIVER").map(PathBuf::from);
    named.or(option_env!("CARGO_BIN_EXE_csi-nfs").map(PathBuf::from)).expect("CSI_NFS_DRIVER names no program")
}

/// A channel to the socket of a CSI driver or another gRPC server. It reconnects after the server was restarted.
pub fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost").timeout(CALL_LIMIT).connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}

/// A running driver, with a directory for its socket, its log and the targets of pods. Dropping this ends it.
#[derive(Debug)]
pub struct Driver {
    process: Child,
    kernel: Kernel,
    arguments: Vec<String>,
    directory: TempDir,
    channel: Channel,
}

impl Driver {
    /// A driver with all services and default settings.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A driver with further arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::on(Kernel::of_this_run(), arguments).await
    }

    /// A driver that sees another kernel, with further arguments.
    pub async fn on(kernel: Kernel, arguments: &[&str]) -> Self {
        let directory = TempDir::with_prefix("csi-nfs-").unwrap();
        if kernel == Kernel::Unprivileged {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let socket = directory.path().join("csi.sock");
        let mut words =
            vec![format!("--endpoint=unix://{}", socket.display()), format!("--nodeid={NODE}"), "-v=5".into()];
        // A driver that is started again is the successor of the one before.
        words.push(format!("--client-name={}", directory.path().display()));
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let process = spawn(kernel, &words, &directory.path().join("log"));
        let channel = connect(&socket);
        let mut driver = Self { process, kernel, arguments: words, directory, channel };
        driver.ready().await;
        driver
    }

    /// Runs a driver that cannot start, and returns its exit status and its log, which is also in the file `log`.
    pub fn fails(kernel: Kernel, arguments: &[String], log: &Path) -> (ExitStatus, String) {
        let status = spawn(kernel, arguments, log).wait().unwrap();
        (status, fs::read_to_string(log).unwrap())
    }

    /// Waits until Probe returns ready.
    async fn ready(&mut self) {
        let start = std::time::Instant::now();
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the driver ended at its start with {status}:\n{}", self.log());
            }
            let probed = self.identity().probe(csi::ProbeRequest {}).await;
            if probed.as_ref().is_ok_and(|answer| answer.get_ref().ready != Some(false)) {
                return;
            }
            assert!(start.elapsed() < START_LIMIT, "the driver is not ready: {probed:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The driver's process ID.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The driver's exit status, if it has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Sends SIGTERM and waits for the end of the driver.
    pub async fn terminate(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let process = &mut self.process;
        wait::until("the driver's end after SIGTERM", Duration::from_secs(30), || process.try_wait().unwrap()).await
    }

    /// Starts a new process with the same arguments and directory, after [`Driver::kill`] or [`Driver::terminate`].
    pub async fn start_again(&mut self) {
        self.process = spawn(self.kernel, &self.arguments, &self.directory.path().join("log"));
        self.ready().await;
    }

    /// The driver's log, across restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The CSI socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("csi.sock")
    }

    /// The number after a key of `/proc/PID/status`, such as `Threads` or `VmRSS` (in kB).
    pub fn proc_status(&self, key: &str) -> u64 {
        status(&format!("/proc/{}/status", self.process.id()), key)
    }

    /// What the driver's threads do in the kernel, for a message.
    pub fn threads(&self) -> String {
        processes::threads(self.process.id())
    }

    /// A target path for a pod. As with kubelet, its parent exists and the target does not.
    pub fn target(&self, pod: &str) -> PathBuf {
        let parent = self.directory.path().join("pods").join(pod).join("volumes/kubernetes.io~csi/pv");
        fs::create_dir_all(&parent).unwrap();
        parent.join("mount")
    }

    /// A path in the directory of this driver, for other files of a test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The Identity service.
    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }

    /// The Controller service.
    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    /// The Group Controller service.
    pub fn groups(&self) -> GroupControllerClient<Channel> {
        GroupControllerClient::new(self.channel.clone())
    }

    /// The Node service.
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// CreateVolume.
    pub async fn create(&self, request: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
        Ok(self.controller().create_volume(request).await?.into_inner().volume.unwrap())
    }

    /// DeleteVolume without secrets.
    pub async fn delete(&self, volume_id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        self.controller().delete_volume(request).await.map(drop)
    }

    /// CreateSnapshot.
    pub async fn take(&self, request: csi::CreateSnapshotRequest) -> Result<csi::Snapshot, Status> {
        Ok(self.controller().create_snapshot(request).await?.into_inner().snapshot.unwrap())
    }

    /// CreateSnapshot. Repeats the call until the snapshot is ready.
    pub async fn take_whole(&self, request: csi::CreateSnapshotRequest) -> Result<csi::Snapshot, Status> {
        loop {
            let snapshot = self.take(request.clone()).await?;
            if snapshot.ready_to_use {
                return Ok(snapshot);
            }
        }
    }

    /// DeleteSnapshot without secrets.
    pub async fn drop_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        self.controller().delete_snapshot(request).await.map(drop)
    }

    /// ControllerExpandVolume to this many bytes. Returns the capacity.
    pub async fn expand(&self, volume_id: &str, bytes: i64) -> Result<i64, Status> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume_id.to_owned(),
            capacity_range: requests::bytes(bytes),
            ..Default::default()
        };
        Ok(self.controller().controller_expand_volume(request).await?.into_inner().capacity_bytes)
    }

    /// NodePublishVolume as kubelet calls it.
    pub async fn publish(&self, volume: &csi::Volume, target: &Path) -> Result<(), Status> {
        self.node().node_publish_volume(requests::publish(volume, target)).await.map(drop)
    }

    /// NodeUnpublishVolume.
    pub async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Status> {
        self.node().node_unpublish_volume(requests::unpublish(volume_id, target)).await.map(drop)
    }

    /// NodeGetVolumeStats.
    pub async fn stats(&self, volume_id: &str, path: &Path) -> Result<Vec<csi::VolumeUsage>, Status> {
        Ok(self.node().node_get_volume_stats(requests::stats(volume_id, path)).await?.into_inner().usage)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The directory is removed with everything in it, so nothing may be mounted there.
        mounts::clear(self.directory.path());
        if std::thread::panicking() {
            eprintln!("--- the driver's log\n{}---", self.log());
        }
    }
}

/// The number after a key of a file such as `/proc/PID/status`.
pub fn status(path: &str, key: &str) -> u64 {
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn spawn(kernel: Kernel, arguments: &[String], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let program = program();
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    kernel.spawn(&mut command).unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}
