//! Installation of the driver on the cluster, with the chart.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, Client};
use tokio::process::Command;

use crate::wait::{SOON, until};
use crate::{repository, tool};

/// The namespace of the driver.
pub const NAMESPACE: &str = "kube-system";

async fn helm_in(top: &Path, namespace: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(tool("helm"))
        .args(arguments)
        .args(["--namespace", namespace])
        .current_dir(top.join("deploy/helm/csi-nfs"))
        .output()
        .await?;
    ensure!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn helm(arguments: &[&str]) -> Result<()> {
    helm_in(&repository(""), NAMESPACE, arguments).await
}

/// Upgrades the release under test to the values of the examples, the values of this folder, and the arguments `more`.
pub async fn upgrade(more: &[&str]) -> Result<()> {
    upgrade_to(&repository(""), more).await
}

/// Upgrades the release under test to the chart and the values in `top`, a tree of this repository.
pub async fn upgrade_to(top: &Path, more: &[&str]) -> Result<()> {
    let values = ["deploy/examples/values.yaml", "e2e/kubernetes/values.yaml"].map(|file| top.join(file));
    let [examples, ours] = values.map(|file| file.display().to_string());
    let base = ["upgrade", "csi-nfs", ".", "--wait", "--timeout=3m", "--values", &examples, "--values", &ours];
    helm_in(top, NAMESPACE, &[&base, more].concat()).await
}

/// Goes back to the release before the current one.
pub async fn rollback() -> Result<()> {
    helm(&["rollback", "csi-nfs", "--wait", "--timeout=3m"]).await
}

/// The tree of the driver's version before this one, which the script `previous` has made.
pub fn previous() -> Result<PathBuf> {
    let path =
        std::env::var_os("CSI_NFS_E2E_PREVIOUS").context("CSI_NFS_E2E_PREVIOUS is not set; use `run upgrade`")?;
    Ok(path.into())
}

/// Waits until all pods of the driver are ready.
pub async fn ready(client: &Client) -> Result<()> {
    let controller = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    until(&controller, "csi-nfs-controller", SOON * 2, "ready", |d| {
        d.status.as_ref().is_some_and(|s| s.ready_replicas == Some(2) && s.observed_generation == d.metadata.generation)
    })
    .await?;
    let node = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE);
    until(&node, "csi-nfs-node", SOON * 2, "ready", |d| {
        d.status.as_ref().is_some_and(|s| {
            s.number_ready == 2
                && s.updated_number_scheduled == Some(2)
                && s.observed_generation == d.metadata.generation
        })
    })
    .await
    .map(drop)
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

/// Installs the controller and the classes alone, with the driver's own client and without any privilege, in another
/// namespace, and leaves the nodes to the release under test. Both have the values of the files `more`, too.
pub async fn install_controller_apart(namespace: &str, more: &[&str]) -> Result<()> {
    let files = [&["deploy/examples/values.yaml", "e2e/kubernetes/values.yaml"], more].concat();
    let files: Vec<_> = files.into_iter().map(|file| repository(file).display().to_string()).collect();
    let values: Vec<&str> = files.iter().flat_map(|file| ["--values", file]).collect();
    upgrade(&[&values[..], &["--set", "controller.enabled=false"]].concat()).await?;
    let name = ["install", "controller", ".", "--wait", "--timeout=3m"];
    // The release under test has the snapshot controller.
    let sets = ["--set", "controller.client=own,node.enabled=false,snapshots.controller.install=false"];
    helm_in(&repository(""), namespace, &[&name[..], &values, &sets].concat()).await
}

/// Uninstalls it, and gives the release under test its controller back.
pub async fn uninstall_controller_apart(namespace: &str) -> Result<()> {
    helm_in(&repository(""), namespace, &["uninstall", "controller", "--wait"]).await?;
    upgrade(&[]).await
}

/// Uninstalls the second driver.
pub async fn uninstall_takeover() -> Result<()> {
    helm(&["uninstall", "takeover", "--wait"]).await
}
