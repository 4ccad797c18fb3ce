//! The chart: how the driver gets onto the cluster.
use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::{repository, tool};

/// Where the driver is installed.
pub const NAMESPACE: &str = "kube-system";

async fn helm(arguments: &[&str]) -> Result<()> {
    let chart = repository("deploy/helm/csi-nfs");
    let output = Command::new(tool("helm"))
        .args(arguments)
        .arg("--namespace")
        .arg(NAMESPACE)
        .current_dir(chart)
        .output()
        .await?;
    ensure!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Upgrades the release that the tests run on to the values of the examples, those of this folder, and `more`
/// arguments.
pub async fn upgrade(more: &[&str]) -> Result<()> {
    let (examples, ours) = (repository("deploy/examples/values.yaml"), repository("e2e/kubernetes/values.yaml"));
    let (examples, ours) = (examples.display().to_string(), ours.display().to_string());
    let base = ["upgrade", "csi-nfs", ".", "--wait", "--timeout=3m", "--values", &examples, "--values", &ours];
    helm(&[&base, more].concat()).await
}

/// Installs the driver a second time, under the name of csi-driver-nfs.
pub async fn install_takeover() -> Result<()> {
    let ours = repository("e2e/kubernetes/values.yaml").display().to_string();
    let name = ["install", "takeover", ".", "--set", "driver.name=nfs.csi.k8s.io,snapshots.enabled=true"];
    helm(&[&name[..], &["--wait", "--timeout=3m", "--values", &ours]].concat()).await
}

/// Uninstalls it again.
pub async fn uninstall_takeover() -> Result<()> {
    helm(&["uninstall", "takeover", "--wait"]).await
}
