//! Registration with kubelet. The tests play kubelet's part.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use csi_nfs::service::proto::csi::node_client::NodeClient;
use csi_nfs::service::proto::registration::registration_client::RegistrationClient;
use csi_nfs::service::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use tempfile::TempDir;

use crate::support::driver::{NODE, connect};
use crate::support::wait::until;
use crate::support::{Driver, Lab, csi};

/// kubelet's directory, and the arguments that make a driver register there.
pub struct Kubelet {
    registry: TempDir,
}

impl Kubelet {
    pub fn new() -> Self {
        Self { registry: TempDir::with_prefix("registry-").unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.registry.path().join("csi-nfs.rs-reg.sock")
    }

    async fn driver(&self, endpoint: &str) -> Driver {
        self.driver_with(endpoint, &[]).await
    }

    /// A driver with further arguments.
    pub async fn driver_with(&self, endpoint: &str, arguments: &[&str]) -> Driver {
        let socket = format!("--registration-socket={}", self.socket().display());
        let own = [socket.as_str(), &format!("--kubelet-socket-path={endpoint}")];
        Driver::with(&[&own, arguments].concat()).await
    }

    async fn info(&self) -> PluginInfo {
        RegistrationClient::new(connect(&self.socket())).get_info(InfoRequest {}).await.unwrap().into_inner()
    }

    /// Says what became of the registration; nothing is wrong with it if `error` is empty.
    pub async fn notify(&self, error: &str) {
        let status = RegistrationStatus { plugin_registered: error.is_empty(), error: error.to_owned() };
        RegistrationClient::new(connect(&self.socket())).notify_registration_status(status).await.unwrap();
    }

    fn inode(&self) -> Option<u64> {
        let meta = std::fs::symlink_metadata(self.socket()).ok()?;
        assert!(meta.file_type().is_socket());
        Some(std::os::unix::fs::MetadataExt::ino(&meta))
    }
}

#[tokio::test]
async fn kubelet_finds_the_driver_and_reaches_its_node_service() {
    let _lab = Lab::enter().await;
    let kubelet = Kubelet::new();
    let mut driver = kubelet.driver("/var/lib/kubelet/plugins/csi-nfs.rs/csi.sock").await;
    let info = kubelet.info().await;
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi-nfs.rs"));
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi-nfs.rs/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let node = NodeClient::new(connect(&driver.socket())).node_get_info(csi::NodeGetInfoRequest {}).await;
    assert_eq!(node.unwrap().into_inner().node_id, NODE);
    kubelet.notify("").await;
    until("the log of the registration", Duration::from_secs(5), || {
        driver.log().contains("registered with kubelet").then_some(())
    })
    .await;
    assert!(driver.terminate().await.success());
    assert_eq!(kubelet.inode(), None);
}

#[tokio::test]
async fn a_refusal_is_logged_and_tried_again() {
    let _lab = Lab::enter().await;
    let kubelet = Kubelet::new();
    let driver = kubelet.driver("/csi.sock").await;
    let first = kubelet.inode();
    kubelet.notify("the driver's name is taken").await;
    // kubelet treats a new socket as a new plugin.
    until("a new socket", Duration::from_secs(10), || (kubelet.inode() != first).then_some(())).await;
    assert_eq!(kubelet.info().await.endpoint, "/csi.sock");
    assert!(driver.log().contains("the driver's name is taken"), "{}", driver.log());
}

#[tokio::test]
async fn a_second_instance_takes_over_and_the_first_leaves_it_alone() {
    let _lab = Lab::enter().await;
    let kubelet = Kubelet::new();
    let mut old = kubelet.driver("/old.sock").await;
    let new = kubelet.driver("/new.sock").await;
    assert_eq!(kubelet.info().await.endpoint, "/new.sock");
    assert!(old.terminate().await.success());
    assert_eq!(kubelet.info().await.endpoint, "/new.sock");
    drop(new);
    assert!(Path::new(&kubelet.socket()).exists(), "a killed driver cannot remove its socket");
    let _next = kubelet.driver("/next.sock").await;
    assert_eq!(kubelet.info().await.endpoint, "/next.sock");
}
