//! Scenario 7: snapshots, restores, clones and groups.
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::machine::{Machine, export_has, exported, written};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::json;

const GROUP: &str = "snapshot.storage.k8s.io";

/// Waits until no part of a snapshot is left on the export.
async fn no_snapshot_is_left() -> Result<()> {
    let left = format!("find {} -mindepth 1 | wc -l", exported(".csi-nfs/snapshots"));
    eventually(SOON, "no part of a snapshot is left on the export", async || {
        Ok((Machine::Nfs.run(&left).await? == "0").then_some(()))
    })
    .await
}

#[tokio::test]
async fn s07_a_snapshot_is_restored_cloned_and_read_as_it_was() -> Result<()> {
    let example = "07-snapshots.yaml";
    let ns = Namespace::new("snapshots").await?;
    for (kind, name) in [("PersistentVolumeClaim", "original"), ("Pod", "author")] {
        ns.apply_one(example, kind, name).await?;
    }
    ns.ready("author").await?;
    written("snapshots/original/text", "first").await?;

    let snapshots = ns.custom(GROUP, "VolumeSnapshot");
    ns.apply_one(example, "VolumeSnapshot", "monday").await?;
    let monday = ns.snapshot_ready(&snapshots, "monday").await?;
    ensure!(monday.data["status"]["restoreSize"] == "1Gi", "{}", monday.data["status"]);
    ns.exec("author", "echo second > /data/text").await?;

    for claim in ["restored", "cloned", "frozen"] {
        ns.apply_one(example, "PersistentVolumeClaim", claim).await?;
    }
    ns.apply_one(example, "Pod", "reader").await?;
    ns.ready("reader").await?;
    for (volume, text) in [("restored", "first"), ("cloned", "second"), ("frozen", "first")] {
        let found = ns.exec("reader", &format!("cat /{volume}/text")).await?;
        ensure!(found == text, "{volume}: {found}");
    }
    ensure!(!export_has("snapshots/frozen").await?, "the driver copied the snapshot for a read-only volume");
    let refused = ns.exec("reader", "echo no > /frozen/text").await;
    ensure!(format!("{:?}", refused.err()).contains("Read-only file system"), "a pod wrote to a snapshot");
    ns.exec("reader", "echo third > /restored/text && echo third > /cloned/text").await?;
    ensure!(ns.exec("author", "cat /data/text").await? == "second", "a copy shares data with its source");

    // Volumes from a snapshot need neither the source volume nor the VolumeSnapshot.
    ns.delete::<Pod>("author", SOON).await?;
    ns.delete::<PersistentVolumeClaim>("original", SOON).await?;
    ns.delete_snapshot(&snapshots, "monday").await?;
    ensure!(ns.exec("reader", "cat /restored/text /cloned/text /frozen/text").await? == "third\nthird\nfirst");
    ns.remove().await?;
    no_snapshot_is_left().await
}

#[tokio::test]
async fn s07_a_group_of_volumes_is_kept_and_goes_as_one() -> Result<()> {
    let ns = Namespace::new("group").await?;
    let example = "07-group.yaml";
    for claim in ["orders", "stock"] {
        ns.apply_one(example, "PersistentVolumeClaim", claim).await?;
    }
    ns.apply_one(example, "Pod", "shop").await?;
    ns.ready("shop").await?;
    written("group/stock/text", "no lamp left").await?;

    let groups = ns.custom("groupsnapshot.storage.k8s.io", "VolumeGroupSnapshot");
    ns.apply_one(example, "VolumeGroupSnapshot", "evening").await?;
    ns.snapshot_ready(&groups, "evening").await?;
    ns.exec("shop", "echo later > /orders/text && echo later > /stock/text").await?;

    let snapshots = ns.custom(GROUP, "VolumeSnapshot");
    let members = snapshots.list(&ListParams::default()).await?.items;
    ensure!(members.len() == 2, "{members:?}");
    let mut texts = BTreeSet::new();
    for member in members {
        let name = member.name_any();
        ns.snapshot_ready(&snapshots, &name).await?;
        let source = json!({"apiGroup": GROUP, "kind": "VolumeSnapshot", "name": name});
        let claim = json!({"metadata": {"name": name}, "spec": {
            "storageClassName": "nfs", "dataSource": source, "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        }});
        let claims = ns.api::<PersistentVolumeClaim>();
        claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
        ns.bound(&name).await?;
        texts.insert(Machine::Nfs.run(&format!("cat {}", exported(&format!("group/{name}/text")))).await?);
    }
    let expected = ["a lamp sold", "no lamp left"].map(str::to_owned);
    ensure!(texts == BTreeSet::from(expected), "{texts:?}");
    ns.delete_snapshot(&groups, "evening").await.context("deleting the group with its members")?;
    ns.remove().await?;
    no_snapshot_is_left().await
}
