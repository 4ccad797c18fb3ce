//! Ordinary work with volumes on a healthy cluster. The scenarios run at the same time, each in its own namespace.
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::machine::{Machine, export_has, exported, read_export, written};
use csi_nfs_e2e_kubernetes::namespace::{Namespace, is_ready, node_of};
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually, until, until_gone};
use csi_nfs_e2e_kubernetes::{DRIVER, chart, example};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

/// Deletes a PersistentVolume whose claim is gone.
async fn delete_volume(namespace: &Namespace, volume: &PersistentVolume) -> Result<()> {
    let (name, uid) = (volume.name_any(), volume.uid().context("no uid")?);
    namespace.volumes().delete(&name, &DeleteParams::default()).await?;
    until_gone(&namespace.volumes(), &name, &uid, SOON).await
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<&str> {
    Some(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.as_str())
}

#[tokio::test]
async fn helm_test_creates_a_claim_mounts_it_and_deletes_it() -> Result<()> {
    chart::test().await?;
    let directory = format!("{}/csi-nfs-test", chart::NAMESPACE);
    eventually(SOON, "the directory of the test's claim is gone", async || {
        Ok((!export_has(&directory).await?).then_some(()))
    })
    .await
}

#[tokio::test]
async fn s01_a_static_volume_made_by_hand_is_bound_and_written() -> Result<()> {
    Machine::Nfs.run(&format!("mkdir -p {0} && echo older > {0}/older", exported("by-hand"))).await?;
    let ns = Namespace::new("static").await?;
    ns.apply("01-static.yaml").await?;
    let volume = ns.bound("by-hand").await?;
    ns.ready("writer").await?;
    written("by-hand/greeting", "written by a pod").await?;
    ensure!(ns.exec("writer", "cat /data/older").await? == "older");
    ns.remove().await?;
    ensure!(export_has("by-hand/older").await?, "the driver deleted a directory that an administrator created");
    let ns = Namespace::new("static-volume").await?;
    delete_volume(&ns, &volume).await?;
    ns.remove().await
}

#[tokio::test]
async fn s02_a_dynamic_volume_is_a_directory_named_after_its_claim_and_gone_with_it() -> Result<()> {
    let ns = Namespace::new("dynamic").await?;
    ns.apply("02-dynamic.yaml").await?;
    let volume = ns.bound("notes").await?;
    let csi = volume.spec.as_ref().and_then(|s| s.csi.as_ref()).context("not a CSI volume")?;
    ensure!(csi.driver == DRIVER);
    let handle: Vec<_> = csi.volume_handle.split('#').collect();
    ensure!(handle[..3] == ["nfs.example.org", "share", "dynamic/notes"], "{handle:?}");
    ns.ready("writer").await?;
    written("dynamic/notes/greeting", "written by a pod").await?;
    ensure!(ns.exec("writer", "ls -A /data").await? == "greeting", "a pod sees foreign files");
    ns.remove().await?;
    eventually(SOON, "the directory and its empty parent are gone", async || {
        Ok((!export_has("dynamic").await?).then_some(()))
    })
    .await
}

#[tokio::test]
async fn s03_each_access_mode_lets_in_whom_it_should() -> Result<()> {
    let ns = Namespace::new("modes").await?;
    ns.apply("03-access-modes.yaml").await?;

    // ReadWriteMany: both nodes mount the volume at once, and each pod sees the other's file.
    let pods = ns.ready_all("many", 2).await?;
    let nodes = pods.iter().map(node_of).collect::<Result<BTreeSet<_>>>()?;
    ensure!(nodes.len() == 2, "both pods are on {nodes:?}");
    let names: BTreeSet<_> = pods.iter().map(|p| p.name_any()).collect();
    for pod in &names {
        eventually(SOON, "each pod sees both files", async || {
            let listed = ns.exec(pod, "ls /data").await?;
            Ok((listed.lines().map(str::to_owned).collect::<BTreeSet<_>>() == names).then_some(()))
        })
        .await?;
    }

    ns.ready("once").await?;
    written("modes/once/file", "once").await?;

    ns.ready("reader").await?;
    let refused = ns.exec("reader", "echo no > /data/file").await;
    ensure!(format!("{:?}", refused.err()).contains("Read-only file system"), "a reader wrote to the volume");

    let pods_of = &ns.api::<Pod>();
    // ReadWriteOncePod: one pod runs, and the other waits until it is gone.
    let (first, second) = eventually(SOON, "one of the two pods runs", async || {
        let ready = |name| async move { anyhow::Ok(is_ready(&pods_of.get(name).await?)) };
        Ok(if ready("alone").await? {
            Some(("alone", "late"))
        } else {
            ready("late").await?.then_some(("late", "alone"))
        })
    })
    .await?;
    let refused = |p: &Pod| {
        let conditions = p.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.message.as_deref().is_some_and(|m| m.contains("ReadWriteOncePod")))
    };
    until(pods_of, second, SOON, "refused with ReadWriteOncePod as the reason", refused).await?;
    ns.delete::<Pod>(first, SOON).await?;
    ns.ready(second).await?;
    ns.remove().await
}

#[tokio::test]
async fn s04_what_becomes_of_the_data_is_what_the_class_says() -> Result<()> {
    let ns = Namespace::new("reclaim").await?;
    ns.apply("04-reclaim.yaml").await?;
    let retained = ns.bound("retained").await?;
    let archived = ns.bound("archived").await?.name_any();
    ns.ready("writer").await?;
    for claim in ["reclaim/deleted", "reclaim/retained", "reclaim/kept", &archived] {
        written(&format!("{claim}/file"), "worth keeping").await?;
    }
    ns.delete::<Pod>("writer", SOON).await?;
    let volumes = ns.volumes();
    for claim in ["deleted", "retained", "kept", "archived"] {
        let volume = ns.bound(claim).await?;
        ns.delete::<PersistentVolumeClaim>(claim, SOON).await?;
        if claim != "retained" {
            until_gone(&volumes, &volume.name_any(), &volume.uid().context("no uid")?, SOON).await?;
        }
    }
    ensure!(!export_has("reclaim/deleted").await?);
    ensure!(read_export("reclaim/kept/file").await? == "worth keeping");
    ensure!(!export_has(&archived).await?);
    ensure!(read_export(&format!("archived-{archived}/file")).await? == "worth keeping");
    let phase = |v: &PersistentVolume| v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Released");
    until(&volumes, &retained.name_any(), SOON, "released", phase).await?;
    ensure!(read_export("reclaim/retained/file").await? == "worth keeping");
    delete_volume(&ns, &retained).await?;
    ns.remove().await
}

#[tokio::test]
async fn s06_scratch_space_is_shared_by_a_pods_containers_and_gone_with_the_pod() -> Result<()> {
    let ns = Namespace::new("scratch").await?;
    ns.apply("06-ephemeral.yaml").await?;
    ns.ready("pair").await?;
    let volume = ns.bound("pair-scratch").await?;
    written("scratch/pair-scratch/right", "from the left").await?;
    ns.delete::<Pod>("pair", SOON).await?;
    until_gone(&ns.volumes(), &volume.name_any(), &volume.uid().context("no uid")?, SOON).await?;
    ensure!(!export_has("scratch/pair-scratch").await?);
    ns.remove().await
}

#[tokio::test]
async fn s06_an_inline_volume_mounts_an_export_where_that_is_allowed() -> Result<()> {
    Machine::Nfs.run(&format!("mkdir -p {}", exported("inline"))).await?;
    let ns = Namespace::new("inline").await?;
    ns.apply("06-inline.yaml").await?;
    ns.ready("inline").await?;
    written("inline/inline", "inline").await?;
    ns.delete::<Pod>("inline", SOON).await?;
    ensure!(
        read_export("inline/inline").await? == "inline",
        "the inline volume's file changed with the deletion of its pod"
    );
    ns.remove().await
}

#[tokio::test]
async fn s08_a_volume_grows_and_changes_its_class_while_it_is_used() -> Result<()> {
    let ns = Namespace::new("change").await?;
    for (kind, name) in [("PersistentVolumeClaim", "grows"), ("Pod", "user")] {
        ns.apply_one("08-change.yaml", kind, name).await?;
    }
    let volume = ns.bound("grows").await?;
    ns.ready("user").await?;
    let claims = ns.api::<PersistentVolumeClaim>();

    ns.patch::<PersistentVolumeClaim>("grows", json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}))
        .await?;
    until(&claims, "grows", SOON, "grown", |c| capacity(c) == Some("2Gi")).await?;

    let class = "nfs-archive-on-delete";
    ns.patch::<PersistentVolumeClaim>("grows", json!({"spec": {"volumeAttributesClassName": class}})).await?;
    let changed = |c: &PersistentVolumeClaim| {
        c.status.as_ref().and_then(|s| s.current_volume_attributes_class_name.as_deref()) == Some(class)
    };
    until(&claims, "grows", SOON, "of the new class", changed).await?;

    ns.exec("user", "echo worth keeping > /data/file").await?;
    ns.delete::<Pod>("user", SOON).await?;
    ns.delete::<PersistentVolumeClaim>("grows", SOON).await?;
    until_gone(&ns.volumes(), &volume.name_any(), &volume.uid().context("no uid")?, SOON).await?;
    let found = Machine::Nfs.run(&format!("find {} -path '*archived-*' -name file", exported("."))).await?;
    ensure!(
        found.lines().any(|f| f.contains("grows")),
        "the volume was not archived as the new class requests: {found}"
    );
    ns.remove().await
}

#[tokio::test]
async fn s08_a_claim_larger_than_the_export_stays_pending_only_where_the_class_has_overcommit() -> Result<()> {
    let ns = Namespace::new("capacity").await?;
    let mine = ListParams::default();
    eventually(SOON, "a CSIStorageCapacity of each class", async || {
        let capacities = kube::Api::<CSIStorageCapacity>::all(ns.client.clone()).list(&mine).await?;
        let known = |class: &str| capacities.iter().any(|c| c.storage_class_name == class && c.capacity.is_some());
        Ok((known("nfs-bounded") && known("nfs-late")).then_some(()))
    })
    .await?;
    for (kind, name) in
        [("PersistentVolumeClaim", "too-large"), ("PersistentVolumeClaim", "too-large-late"), ("Pod", "waits")]
    {
        ns.apply_one("08-change.yaml", kind, name).await?;
    }
    ns.apply_one("08-change.yaml", "PersistentVolumeClaim", "large").await?;
    ns.bound("large").await?;
    let why = ns.event("too-large", "ProvisioningFailed").await?;
    ensure!(why.contains("ResourceExhausted") && why.contains("nfs.example.org"), "{why}");
    ns.event("waits", "did not have enough free storage").await?;
    let claim = ns.api::<PersistentVolumeClaim>().get("too-large").await?;
    ensure!(claim.status.and_then(|s| s.phase).as_deref() == Some("Pending"));
    ns.remove().await
}

/// Applies scenario 9 in a new namespace, with `files` files in the volume. Returns the time from the creation of the
/// pod until it is ready.
async fn time_to_start(name: &str, files: usize) -> Result<(Namespace, Duration)> {
    let ns = Namespace::new(name).await?;
    ns.apply_one("09-fsgroup.yaml", "PersistentVolumeClaim", "team").await?;
    ns.bound("team").await?;
    let fill = format!("cd {}/team && mkdir d && cd d && seq {files} | xargs -r touch", exported(name));
    Machine::Nfs.run(&fill).await?;
    let start = Instant::now();
    ns.apply_one("09-fsgroup.yaml", "Pod", "member").await?;
    // The kernel of the tests takes a minute for 50,000 files, and longer beside other work.
    ns.ready_within("member", SOON * 3).await?;
    Ok((ns, start.elapsed()))
}

#[tokio::test]
async fn s09_a_group_gets_its_volumes_files_once_and_then_starts_at_once_however_many_there_are() -> Result<()> {
    let (empty, first) = time_to_start("group-empty", 0).await?;
    written("group-empty/team/file", "ours").await?;
    let owner = Machine::Nfs.run(&format!("stat -c %u:%g:%a {}", exported("group-empty/team"))).await?;
    ensure!(owner.starts_with("0:5678:2"), "the directory lacks the group or setgid: {owner}");
    empty.remove().await?;

    let (full, changed) = time_to_start("group-full", 50_000).await?;
    let files = exported("group-full/team/d");
    let owner = Machine::Nfs.run(&format!("stat -c %g {files}/1 {files}/50000 | sort -u")).await?;
    ensure!(owner == "5678", "files lack the group: {owner}");
    let pods = full.api::<Pod>();
    let uid = pods.get("member").await?.uid().context("no uid")?;
    pods.delete("member", &DeleteParams::default()).await?;
    until_gone(&pods, "member", &uid, SOON).await?;
    let start = Instant::now();
    full.apply_one("09-fsgroup.yaml", "Pod", "member").await?;
    full.ready("member").await?;
    let second = start.elapsed();
    // Without the driver's support, kubelet would change all files over the same mount. That takes minutes, so only a
    // part of it is measured.
    const PART: usize = 1_000;
    let pod = pods.get("member").await?;
    let node = Machine::node(node_of(&pod)?)?;
    let walk = Instant::now();
    let volume = "$(grep -o '/var/lib/kubelet/pods/[^ ]*/mount' /proc/mounts | head -n 1)";
    node.run(&format!("cd {volume}/d && seq {PART} | xargs chgrp -h 5678 && seq {PART} | xargs chmod g+rw")).await?;
    println!(
        "pod ready: empty {first:.1?}, 50,000 files of another group {changed:.1?}, and of its group {second:.1?}; \
         kubelet's change would add {:.0?}",
        walk.elapsed() * (50_000 / PART as u32)
    );
    ensure!(second < first + Duration::from_secs(3), "empty {first:?}, 50,000 files {second:?}");
    full.remove().await
}

#[test]
fn every_example_can_be_read() -> Result<()> {
    for entry in std::fs::read_dir(csi_nfs_e2e_kubernetes::repository("deploy/examples"))? {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        if name != "values.yaml" {
            let objects = example(&name)?;
            ensure!(objects.iter().all(|o| o.types.is_some() && o.metadata.name.is_some()), "{name}");
        }
    }
    Ok(())
}
