//! Scenario 12: a cluster migrates from csi-driver-nfs to this driver. Only the driver's image changes.
use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::chart;
use csi_nfs_e2e_kubernetes::machine::{Machine, export_has, exported, written};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually, until, until_gone};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;

const OLDER: &str = "pvc-0b8a4b7e-4f0d-4d3a-9a53-4d7f0c7d5a02";
/// The directory with the archive of a snapshot of the volume [`SOURCE`].
const ARCHIVE: &str = "snapshot-0b8a4b7e-4f0d-4d3a-9a53-4d7f0c7d5b01";
const SOURCE: &str = "pvc-0b8a4b7e-4f0d-4d3a-9a53-4d7f0c7d5a03";

#[tokio::test]
async fn s12_volumes_of_the_incumbent_are_mounted_grown_and_deleted_under_its_name() -> Result<()> {
    // csi-driver-nfs has left this on the export.
    for path in ["legacy/app", OLDER] {
        Machine::Nfs.run(&format!("mkdir -p {0} && chmod 777 {0} && echo before > {0}/before", exported(path))).await?;
    }
    chart::install_takeover().await?;
    let ns = Namespace::new("legacy").await?;
    ns.apply("12-takeover.yaml").await?;

    let (app, older) = (ns.bound("app").await?, ns.bound("older").await?);
    ns.ready("app").await?;
    for path in ["legacy/app/after", &format!("{OLDER}/after")] {
        written(path, "after").await?;
    }

    ns.patch::<PersistentVolumeClaim>("app", json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})).await?;
    until(&ns.api::<PersistentVolumeClaim>(), "app", SOON, "grown", |c| {
        c.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")).is_some_and(|q| q.0 == "3Gi")
    })
    .await?;

    // A new volume has the same form as a volume of csi-driver-nfs.
    let fresh = ns.bound("fresh").await?;
    let csi = fresh.spec.as_ref().and_then(|s| s.csi.as_ref()).context("not a CSI volume")?;
    ensure!(csi.driver == "nfs.csi.k8s.io");
    ensure!(csi.volume_handle == format!("nfs.example.org#share#{}##", fresh.name_any()), "{}", csi.volume_handle);
    ensure!(export_has(&fresh.name_any()).await?);

    ns.delete::<Pod>("app", SOON).await?;
    for (claim, volume) in [("app", &app), ("older", &older), ("fresh", &fresh)] {
        ns.delete::<PersistentVolumeClaim>(claim, SOON).await?;
        until_gone(&ns.volumes(), &volume.name_any(), &volume.uid().context("no uid")?, SOON).await?;
    }
    for path in ["legacy/app", OLDER, &fresh.name_any()] {
        ensure!(!export_has(path).await?, "{path} is still there");
    }
    end(ns).await
}

#[tokio::test]
async fn s12_a_snapshot_of_the_incumbent_is_restored_and_deleted() -> Result<()> {
    // csi-driver-nfs has left this on the export.
    let make = format!(
        "mkdir -p {archive} && cd $(mktemp -d) && mkdir sub && echo kept > sub/file && \
         tar -czf {archive}/{SOURCE}.tar.gz .",
        archive = exported(ARCHIVE)
    );
    Machine::Nfs.run(&make).await?;
    chart::install_takeover().await?;
    let ns = Namespace::new("legacy-snapshot").await?;
    ns.apply_one("12-takeover.yaml", "StorageClass", "nfs-csi").await?;
    ns.apply("12-takeover-snapshot.yaml").await?;

    let snapshots = ns.custom("snapshot.storage.k8s.io", "VolumeSnapshot");
    ns.snapshot_ready(&snapshots, "old").await?;
    let restored = ns.bound("restored").await?;
    written(&format!("{}/sub/file", restored.name_any()), "kept").await?;

    ns.delete_snapshot(&snapshots, "old").await?;
    eventually(SOON, "the archive is gone", async || Ok((!export_has(ARCHIVE).await?).then_some(()))).await?;
    end(ns).await
}

/// Removes everything that a scenario created.
async fn end(ns: Namespace) -> Result<()> {
    let classes = Api::<StorageClass>::all(ns.client.clone());
    ns.remove().await?;
    classes.delete("nfs-csi", &DeleteParams::default()).await?;
    chart::uninstall_takeover().await
}
