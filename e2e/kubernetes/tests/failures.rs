//! Volumes during failures. The scenarios power machines off, so they run one after another.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::{Namespace, is_ready, node_of};
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually, until};
use csi_nfs_e2e_kubernetes::writers::Writers;
use csi_nfs_e2e_kubernetes::{chart, example, tool};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use tokio::process::Command;

const SQL: &str = "mariadb -uroot -pnot-a-secret -N shop -e";

async fn node_ready(client: &kube::Client, node: Machine, ready: bool) -> Result<()> {
    let condition = |n: &Node| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && (c.status == "True") == ready)
    };
    let what = if ready { "ready" } else { "not ready" };
    until(&Api::<Node>::all(client.clone()), node.name(), SOON * 2, what, condition).await.map(drop)
}

#[tokio::test]
async fn s05_a_database_has_its_rows_after_its_node_lost_power() -> Result<()> {
    let ns = Namespace::new("database").await?;
    ns.apply("05-database.yaml").await?;
    let before = ns.ready_all("mariadb", 1).await?.remove(0);
    let sql =
        "CREATE TABLE orders (id INT PRIMARY KEY, what TEXT) ENGINE=InnoDB; INSERT INTO orders VALUES (1, 'a lamp')";
    ns.exec(&before.name_any(), &format!("{SQL} \"{sql}\"")).await?;

    let node = Machine::node(node_of(&before)?)?;
    let failure = Instant::now();
    node.off()?;
    node_ready(&ns.client, node, false).await?;
    let after = eventually(SOON * 3, "the database runs on the other node", async || {
        let pods = ns.api::<Pod>().list(&ListParams::default().labels("app=mariadb")).await?;
        Ok(pods.into_iter().find(|p| is_ready(p) && node_of(p).ok() == Some(node.other().name())))
    })
    .await?;
    println!("the database ran again {:?} after its node lost power", failure.elapsed());
    ensure!(ns.exec(&after.name_any(), &format!("{SQL} 'SELECT what FROM orders'")).await? == "a lamp");

    node.on()?;
    node_ready(&ns.client, node, true).await?;
    chart::ready(&ns.client).await?;
    ns.remove().await
}

#[tokio::test]
async fn s05_each_replica_of_a_stateful_set_keeps_its_own_volume_through_a_rolling_restart() -> Result<()> {
    let ns = Namespace::new("replicas").await?;
    ns.apply("05-database-statefulset.yaml").await?;
    ns.ready_all("mariadb", 3).await?;
    let pods = ["mariadb-0", "mariadb-1", "mariadb-2"];
    for pod in pods {
        let sql = format!("CREATE TABLE me (name TEXT); INSERT INTO me VALUES ('{pod}')");
        ns.exec(pod, &format!("{SQL} \"{sql}\"")).await?;
    }
    let sets = ns.api::<StatefulSet>();
    let restarted = sets.restart("mariadb").await?;
    until(&sets, "mariadb", SOON * 3, "restarted", |s| {
        s.status.as_ref().is_some_and(|status| {
            status.observed_generation >= restarted.metadata.generation
                && status.updated_replicas == Some(3)
                && status.ready_replicas == Some(3)
                && status.current_revision == status.update_revision
        })
    })
    .await?;
    for pod in pods {
        ensure!(ns.exec(pod, &format!("{SQL} 'SELECT name FROM me'")).await? == pod);
    }
    ns.remove().await
}

#[tokio::test]
async fn s10_pods_write_on_while_the_node_plugin_is_restarted_and_upgraded() -> Result<()> {
    let writers = Writers::start("upgrade").await?;
    let client = &writers.ns.client;
    writers.all_go_on(SOON).await?;

    // The plugin's pods are killed all at once.
    let plugin = Api::<Pod>::namespaced(client.clone(), chart::NAMESPACE);
    let ours = ListParams::default().labels("app.kubernetes.io/component=node");
    for pod in plugin.list(&ours).await? {
        plugin.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    }
    writers.all_go_on(Duration::from_secs(10)).await?;
    chart::ready(client).await?;

    // An upgrade replaces the plugin node by node.
    chart::upgrade(&["--set", "driver.verbosity=3"]).await?;
    chart::ready(client).await?;
    writers.all_go_on(Duration::from_secs(10)).await?;
    writers.nothing_is_missing().await?;

    // The new plugin mounts new volumes, and unmounts volumes that the old plugin has mounted.
    writers.ns.apply("02-dynamic.yaml").await?;
    writers.ns.ready("writer").await?;
    chart::upgrade(&[]).await?;
    chart::ready(client).await?;
    writers.ns.remove().await
}

#[tokio::test]
async fn s10_every_claim_is_bound_once_though_the_controller_is_killed_meanwhile() -> Result<()> {
    const CLAIMS: usize = 50;
    let ns = Namespace::new("killed").await?;
    let claims = ns.api::<PersistentVolumeClaim>();
    let text = serde_json::to_value(&example("13-claim.yaml")?[0])?;
    for i in 0..CLAIMS {
        let mut claim: PersistentVolumeClaim = serde_json::from_value(text.clone())?;
        claim.metadata.name = Some(format!("claim-{i}"));
        claims.create(&PostParams::default(), &claim).await?;
        if i % 10 == 5 {
            // The driver's process gets SIGKILL on whichever node it runs.
            for node in [Machine::Node1, Machine::Node2] {
                node.run("pkill -KILL -f -- '^/csi-nfs --mode=controller' || true").await?;
            }
        }
    }
    eventually(SOON * 2, "all claims are bound", async || Ok((ns.bound_claims().await?.len() == CLAIMS).then_some(())))
        .await?;
    let directories = Machine::Nfs.run(&format!("ls {} | wc -l", exported("killed"))).await?;
    ensure!(directories == CLAIMS.to_string(), "{directories} directories for {CLAIMS} claims");
    let client = ns.client.clone();
    ns.remove().await?;
    chart::ready(&client).await
}

/// status.volumeHealth of a pod and status.storageHealth of its CSINode.
async fn health(ns: &Namespace, pod: &Pod) -> Result<(serde_json::Value, serde_json::Value)> {
    let pod_now = serde_json::to_value(ns.api::<Pod>().get(&pod.name_any()).await?)?;
    let node = Api::<CSINode>::all(ns.client.clone()).get(node_of(pod)?).await?;
    let node = serde_json::to_value(node)?;
    Ok((pod_now["status"]["volumeHealth"].clone(), node["status"]["storageHealth"].clone()))
}

#[tokio::test]
async fn s11_an_outage_of_the_server_is_told_and_outlived() -> Result<()> {
    let writers = Writers::start("outage").await?;
    let ns = &writers.ns;
    let doomed = Namespace::new("outage-doomed").await?;
    doomed.apply("02-dynamic.yaml").await?;
    doomed.ready("writer").await?;
    writers.all_go_on(SOON).await?;

    let outage = Instant::now();
    Machine::Nfs.off()?;
    let sick = eventually(SOON, "the pod and its node report that the server is unreachable", async || {
        let (pod, node) = health(ns, &writers.pods[0]).await?;
        let (pod, node) = (pod.to_string(), node.to_string());
        let told = |of: &str| of.contains("ServerUnreachable");
        Ok((pod.contains("nfs.example.org") && told(&pod) && told(&node)).then_some((pod, node)))
    })
    .await?;
    println!("reported after {:?}: pod {} node {}", outage.elapsed(), sick.0, sick.1);

    // While the server is gone, a pod can be deleted, and its node's kubelet keeps working.
    let end = Instant::now();
    doomed.delete::<Pod>("writer", Duration::from_secs(45)).await?;
    println!("a pod was deleted in {:?} while its server was gone", end.elapsed());
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(outage.elapsed())).await;
    for node in [Machine::Node1, Machine::Node2] {
        node_ready(&ns.client, node, true).await?;
    }

    Machine::Nfs.on()?;
    let serves = "grep -q '^[1-9]' /proc/fs/nfsd/threads";
    eventually(SOON, "the server is back", async || Machine::Nfs.run(serves).await.map(Some)).await?;
    let back = Instant::now();
    writers.all_go_on(SOON * 2).await?;
    println!("the writers continued {:?} after the server was back", back.elapsed());
    writers.nothing_is_missing().await?;
    eventually(SOON, "the reports of bad health are cleared", async || {
        let (pod, node) = health(ns, &writers.pods[0]).await?;
        let told = |of: serde_json::Value| of.to_string().contains("ServerUnreachable");
        Ok((!told(pod) && !told(node)).then_some(()))
    })
    .await?;
    doomed.remove().await?;
    writers.ns.remove().await.context("after the outage")
}

/// What `csi-nfs doctor` in the controller's pod says of the export: each step that is not good, by the command of
/// docs/troubleshooting.md.
async fn complaints() -> Result<Vec<String>> {
    let doctor =
        "-n kube-system exec deploy/csi-nfs-controller -c csi-nfs -- /csi-nfs doctor --export nfs.example.org:/share";
    let output = Command::new(tool("kubectl")).args(doctor.split(' ')).args(["--format", "json"]).output().await?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let steps = report["steps"].as_array().context("a report has steps")?;
    let found = |step: &serde_json::Value| format!("{} {}", step["step"].as_str().unwrap_or_default(), step["found"]);
    Ok(steps.iter().filter(|step| step["verdict"] != "good").map(found).collect())
}

#[tokio::test]
async fn s15_the_doctor_in_the_controllers_pod_names_a_server_whose_clock_is_off_and_nothing_else() -> Result<()> {
    let healthy = complaints().await?;
    Machine::Nfs.run("date --set='+1 hour'").await?;
    let told = complaints().await;
    Machine::Nfs.run("date --set='-1 hour'").await?;
    let told = told?;
    ensure!(healthy.is_empty(), "{healthy:?}");
    ensure!(told.len() == 1 && told[0].starts_with("clock") && told[0].contains("s ahead"), "{told:?}");
    Ok(())
}
