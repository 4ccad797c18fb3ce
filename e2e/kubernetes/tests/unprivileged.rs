//! Scenario 16: the controller without any privilege, in a namespace that enforces the Pod Security Standard `restricted`.
use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::machine::Machine;
use csi_nfs_e2e_kubernetes::namespace::{Namespace, restarts};
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use csi_nfs_e2e_kubernetes::{chart, tls};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{AttachParams, ListParams, Patch, PatchParams, PostParams};

const RESTRICTED: (&str, &str) = ("pod-security.kubernetes.io/enforce", "restricted");
const EXAMPLE: &str = "07-snapshots.yaml";

/// The controller, in a namespace of its own.
struct Apart(Namespace);

impl Apart {
    async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.0.api().list(&ListParams::default()).await?.items)
    }

    /// Installs it, with the values in these files, too.
    async fn install(namespace: Namespace, values: &[&str]) -> Result<Self> {
        chart::install_controller_apart(&namespace.name, values).await?;
        let apart = Self(namespace);
        let pods = apart.pods().await?;
        ensure!(pods.len() == 2, "{} pods", pods.len());
        let elsewhere = kube::Api::<Pod>::namespaced(apart.0.client.clone(), chart::NAMESPACE);
        let driver = "app.kubernetes.io/name=csi-nfs,app.kubernetes.io/component=controller";
        let left = elsewhere.list(&ListParams::default().labels(driver)).await?.items;
        ensure!(left.is_empty(), "another controller may do the work");
        Ok(apart)
    }

    /// What the driver's own client says of itself in all pods.
    async fn status(&self) -> Result<String> {
        let mut status = String::new();
        for pod in &self.pods().await? {
            let of = AttachParams::default().container("csi-nfs");
            status += &self.0.exec_in(&pod.name_any(), &of, &["/csi-nfs", "status"]).await?;
        }
        Ok(status)
    }

    async fn uninstall(self) -> Result<()> {
        chart::uninstall_controller_apart(&self.0.name).await?;
        chart::ready(&self.0.client).await?;
        self.0.remove().await.context("the namespace of the controller")
    }
}

/// Claims the volume `original`, and starts the pod that writes to it.
async fn begin(ns: &Namespace) -> Result<()> {
    ns.apply_one(EXAMPLE, "PersistentVolumeClaim", "original").await?;
    ns.apply_one(EXAMPLE, "Pod", "author").await
}

/// Takes a snapshot of what the pod has written, and reads a restore, a clone and the snapshot in another pod.
async fn copies_are_made(ns: &Namespace, export: &str) -> Result<()> {
    let written = format!("cat '{export}/{}/original/text'", ns.name);
    eventually(SOON, "the pod has written", async || Ok((Machine::Nfs.run(&written).await? == "first").then_some(())))
        .await?;
    let snapshots = ns.custom("snapshot.storage.k8s.io", "VolumeSnapshot");
    ns.apply_one(EXAMPLE, "VolumeSnapshot", "monday").await?;
    ns.snapshot_ready(&snapshots, "monday").await?;
    for claim in ["restored", "cloned", "frozen"] {
        ns.apply_one(EXAMPLE, "PersistentVolumeClaim", claim).await?;
    }
    ns.apply_one(EXAMPLE, "Pod", "reader").await?;
    ns.ready("reader").await?;
    ensure!(ns.exec("reader", "cat /restored/text /cloned/text /frozen/text").await? == "first\nfirst\nfirst");
    Ok(())
}

/// Deletes the namespace, and waits until nothing of it is left on the export.
async fn end(ns: Namespace, export: &str) -> Result<()> {
    let left = format!("test -e '{export}/{}' && echo yes || echo no", ns.name);
    ns.remove().await?;
    eventually(SOON, "the directories are gone", async || Ok((Machine::Nfs.run(&left).await? == "no").then_some(())))
        .await
}

#[tokio::test]
async fn s16_a_controller_without_privilege_makes_snapshots_and_deletes_volumes() -> Result<()> {
    let apart = Apart::install(Namespace::labelled("storage", &[RESTRICTED]).await?, &[]).await?;
    let ns = Namespace::new("unprivileged").await?;
    begin(&ns).await?;
    ns.ready("author").await?;
    copies_are_made(&ns, "/srv/export/share").await?;
    let status = apart.status().await?;
    ensure!(status.contains("by the driver's own client"), "{status}");
    end(ns, "/srv/export/share").await?;
    apart.uninstall().await
}

#[tokio::test]
async fn s16_a_controller_without_privilege_has_its_certificate_from_a_secret_and_a_new_one_without_a_restart()
-> Result<()> {
    tls::serve().await?;
    let storage = Namespace::labelled("storage-tls", &[RESTRICTED]).await?;
    storage.api::<Secret>().create(&PostParams::default(), &tls::secret("expired")?).await?;
    let apart = Apart::install(storage, &["e2e/kubernetes/tls.yaml"]).await?;
    let before = apart.pods().await?;

    let ns = Namespace::new("encrypted").await?;
    begin(&ns).await?;
    ns.event("original", "the server refuses the driver's certificate").await?;
    let change = Patch::Merge(tls::secret("good")?);
    apart.0.api::<Secret>().patch(tls::SECRET, &PatchParams::default(), &change).await?;
    // kubelet reads secrets once a minute, and the provisioner tries again after some minutes.
    ns.ready_within("author", SOON * 4).await?;
    copies_are_made(&ns, tls::ENCRYPTED).await?;

    let after = apart.pods().await?;
    let identity = |pods: &[Pod]| pods.iter().map(|pod| (pod.uid(), restarts(pod))).collect::<Vec<_>>();
    ensure!(identity(&before) == identity(&after), "the pods were restarted: {:?}", identity(&after));
    end(ns, tls::ENCRYPTED).await?;
    apart.uninstall().await?;
    tls::stop_serving().await
}
