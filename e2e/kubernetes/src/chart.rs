//! Installation of the driver on the cluster, with the chart.
use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::{repository, tool};

/// The namespace of the driver.
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

/// Upgrades the release under test to the values of the examples, the values of this folder, and the arguments `more`.
pub async fn upgrade(more: &[&str]) -> Result<()> {
    let (examples, ours) = (repository("deploy/examples/values.yaml"), repository("e2e/kubernetes/values.yaml"));
    let (examples, ours) = (examples.display().to_string(), ours.display().to_string());
    let base = ["upgrade", "csi-nfs", ".", "--wait", "--timeout=3m", "--values", &examples, "--values", &ours];
    helm(&[&base, more].concat()).await
}

/// Runs the chart's test: a claim, and a pod that mounts it.
pub async fn test() -> Result<()> {
    helm(&["test", "csi-nfs", "--timeout=2m"]).await
}

/// Installs the driver a second time, with the driver name of csi-driver-nfs.
pub async fn install_takeover() -> Result<()> {
    let ours = repository("e2e/kubernetes/values.yaml").display().to_string();
    let name = ["install", "takeover", ".", "--set", "driver.name=nfs.csi.k8s.io,snapshots.enabled=true"];
    helm(&[&name[..], &["--wait", "--timeout=3m", "--values", &ours]].concat()).await
}

/// Uninstalls the second driver.
pub async fn uninstall_takeover() -> Result<()> {
    helm(&["uninstall", "takeover", "--wait"]).await
}
