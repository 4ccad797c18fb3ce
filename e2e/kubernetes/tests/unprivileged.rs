//! Scenario 16: the controller without any privilege, in a namespace that enforces the Pod Security Standard `restricted`.
use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::chart;
use csi_nfs_e2e_kubernetes::machine::{export_has, written};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{AttachParams, ListParams};

const RESTRICTED: (&str, &str) = ("pod-security.kubernetes.io/enforce", "restricted");

#[tokio::test]
async fn s16_a_controller_without_privilege_makes_snapshots_and_deletes_volumes() -> Result<()> {
    let apart = Namespace::labelled("storage", &[RESTRICTED]).await?;
    chart::install_controller_apart(&apart.name).await?;
    let pods = apart.api::<Pod>().list(&ListParams::default()).await?;
    ensure!(pods.items.len() == 2, "{} pods", pods.items.len());
    let elsewhere = kube::Api::<Pod>::namespaced(apart.client.clone(), chart::NAMESPACE);
    let driver = ListParams::default().labels("app.kubernetes.io/name=csi-nfs,app.kubernetes.io/component=controller");
    ensure!(elsewhere.list(&driver).await?.items.is_empty(), "another controller may do the work");

    let ns = Namespace::new("unprivileged").await?;
    let example = "07-snapshots.yaml";
    for (kind, name) in [("PersistentVolumeClaim", "original"), ("Pod", "author")] {
        ns.apply_one(example, kind, name).await?;
    }
    ns.ready("author").await?;
    written("unprivileged/original/text", "first").await?;
    let snapshots = ns.custom("snapshot.storage.k8s.io", "VolumeSnapshot");
    ns.apply_one(example, "VolumeSnapshot", "monday").await?;
    ns.snapshot_ready(&snapshots, "monday").await?;
    for claim in ["restored", "cloned", "frozen"] {
        ns.apply_one(example, "PersistentVolumeClaim", claim).await?;
    }
    ns.apply_one(example, "Pod", "reader").await?;
    ns.ready("reader").await?;
    ensure!(ns.exec("reader", "cat /restored/text /cloned/text /frozen/text").await? == "first\nfirst\nfirst");

    let mut status = String::new();
    for pod in &pods {
        let of = AttachParams::default().container("csi-nfs");
        status += &apart.exec_in(&pod.name_any(), &of, &["/csi-nfs", "status"]).await?;
    }
    ensure!(status.contains("by the driver's own client"), "{status}");
    ns.remove().await?;
    eventually(SOON, "the directories are gone", async || Ok((!export_has("unprivileged").await?).then_some(())))
        .await?;
    chart::uninstall_controller_apart(&apart.name).await?;
    chart::ready(&apart.client).await?;
    apart.remove().await.context("the namespace of the controller")
}
