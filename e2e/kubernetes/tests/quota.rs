//! Scenario 14: enforced sizes, with the agent on the NFS server, and with that of the chart on a node that serves.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::{Namespace, is_ready, node_of, restarts};
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually, until};
use csi_nfs_e2e_kubernetes::{agent, chart, tool};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::process::Command;

const MIB: u64 = 1 << 20;
const CLAIMS: usize = 50;

/// Size and usage in bytes that `df` in the pod shows.
async fn df(ns: &Namespace) -> Result<(u64, u64)> {
    let shown = ns.exec("filler", "df -k /data | tail -n 1").await?;
    let figures: Vec<u64> = shown.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(figures.len() >= 3, "{shown}");
    Ok((figures[0] * 1024, figures[1] * 1024))
}

/// Size and usage in bytes that kubelet reports.
async fn kubelet(ns: &Namespace, node: &str) -> Result<Option<(u64, u64)>> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let output = Command::new(tool("kubectl")).args(["get", "--raw", &path]).output().await?;
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    let volumes = summary["pods"].as_array().into_iter().flatten().flat_map(|pod| pod["volume"].as_array());
    let ours = |volume: &&Value| volume["pvcRef"]["namespace"] == ns.name.as_str();
    let found = volumes.flatten().find(ours);
    Ok(found.and_then(|volume| Some((volume["capacityBytes"].as_u64()?, volume["usedBytes"].as_u64()?))))
}

/// Fills the pod's volume with files until the server refuses.
async fn fill(ns: &Namespace) -> Result<()> {
    let fill = "n=0; while dd if=/dev/zero of=/data/$n-$(date +%s) bs=1M count=10 conv=fsync; do n=$((n+1)); done 2>&1";
    let told = ns.exec("filler", fill).await?;
    ensure!(told.contains("No space left on device"), "{told}");
    Ok(())
}

#[tokio::test]
async fn s14_a_claim_is_full_at_its_size_and_goes_on_when_it_grows() -> Result<()> {
    agent::start().await?;
    let ns = Namespace::new("quota").await?;
    ns.apply("14-quota.yaml").await?;
    is_full_at_its_size_and_goes_on_when_it_grows(&ns).await?;
    ns.remove().await?;
    agent::kill().await
}

/// Fills the volume of the example, expands it, and fills it again.
async fn is_full_at_its_size_and_goes_on_when_it_grows(ns: &Namespace) -> Result<()> {
    let pod = ns.ready("filler").await?;
    for mib in [100, 150] {
        if mib > 100 {
            let size = json!({"spec": {"resources": {"requests": {"storage": "150Mi"}}}});
            ns.patch::<PersistentVolumeClaim>("limited", size).await?;
            let grown = |claim: &PersistentVolumeClaim| {
                let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
                capacity.is_some_and(|size| size.0 == "150Mi")
            };
            until(&ns.api::<PersistentVolumeClaim>(), "limited", SOON, "grown", grown).await?;
        }
        ensure!(df(ns).await?.0 == mib * MIB, "df shows another size: {:?}", df(ns).await?);
        fill(ns).await?;
        let (size, used) = df(ns).await?;
        ensure!(size - used <= MIB, "the volume is full, but only {used} of {size} are used");
        let node = node_of(&pod)?;
        let mut told = None;
        eventually(SOON * 2, "kubelet reports the same figures as df", async || {
            told = kubelet(ns, node).await?;
            Ok((told == Some((size, used))).then_some(()))
        })
        .await
        .with_context(|| format!("df: {size}, {used}; kubelet: {told:?}"))?;
    }
    Ok(())
}

/// Makes a class like `nfs-limited` for the export of another server.
async fn limited_class(client: &Client, name: &str, server: &str) -> Result<()> {
    let classes = Api::<StorageClass>::all(client.clone());
    let mut class = classes.get("nfs-limited").await?;
    class.parameters.get_or_insert_default().insert("server".to_owned(), server.to_owned());
    class.metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    classes.create(&PostParams::default(), &class).await?;
    Ok(())
}

/// The agent's pods.
async fn agents(client: &Client) -> Result<Vec<Pod>> {
    let selector = ListParams::default().labels("app.kubernetes.io/component=agent");
    Ok(Api::<Pod>::namespaced(client.clone(), chart::NAMESPACE).list(&selector).await?.items)
}

#[tokio::test]
async fn s14_the_agent_of_the_chart_limits_claims_on_a_node_that_is_an_nfs_server() -> Result<()> {
    const LABEL: &str = "csi-nfs.rs/agent";
    let server = Machine::Node1;
    server.serve().await?;
    let ns = Namespace::new("served-by-a-node").await?;
    let nodes = Api::<Node>::all(ns.client.clone());
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {LABEL: value}}}));
    nodes.patch(server.name(), &PatchParams::default(), &label("".into())).await?;
    let exports = format!("exports.node.server={},exports.node.share=/share", server.address());
    let agent = "agent.enabled=true,agent.exports.node=/srv/export/share";
    let selector = format!("agent.nodeSelector.{}=", LABEL.replace('.', "\\."));
    chart::upgrade(&["--set", &exports, "--set", agent, "--set-string", &selector]).await?;
    let [pod] = &agents(&ns.client).await?[..] else { bail!("the chart has not made one agent") };
    ensure!(node_of(pod)? == server.name() && is_ready(pod), "{pod:?}");

    limited_class(&ns.client, "on-a-node", server.address()).await?;
    ns.claim("14-quota.yaml", "on-a-node").await?;
    ns.apply_one("14-quota.yaml", "Pod", "filler").await?;
    is_full_at_its_size_and_goes_on_when_it_grows(&ns).await?;
    // It gets on with the memory and the rights that the chart gives it.
    let [after] = &agents(&ns.client).await?[..] else { bail!("there is not one agent any more") };
    ensure!(after.uid() == pod.uid() && restarts(after) == 0, "{after:?}");

    let client = ns.client.clone();
    ns.remove().await?;
    Api::<StorageClass>::all(client).delete("on-a-node", &DeleteParams::default()).await?;
    chart::upgrade(&[]).await?;
    nodes.patch(server.name(), &PatchParams::default(), &label(Value::Null)).await?;
    server.stop_serving().await
}

#[tokio::test]
async fn s14_an_agent_that_is_killed_among_fifty_claims_leaves_none_without_its_limit() -> Result<()> {
    agent::start().await?;
    let ns = Namespace::new("limits").await?;
    ns.claim_at_once("14-quota.yaml", CLAIMS, None).await?;
    let bound = async || -> Result<Vec<String>> {
        let bound = ns.bound_claims().await?.into_iter();
        bound
            .map(|claim| claim.spec.and_then(|spec| spec.volume_name).context("the bound claim names no volume"))
            .collect()
    };
    for count in [5, 20] {
        eventually(SOON, "some claims are bound", async || Ok((bound().await?.len() >= count).then_some(()))).await?;
        agent::kill().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        agent::start().await?;
    }
    eventually(SOON * 2, "all claims are bound", async || Ok((bound().await?.len() == CLAIMS).then_some(()))).await?;
    // Each volume has its own project with the requested limit, in the agent's answer and in the file system.
    let report = Machine::Nfs.run("xfs_quota -x -c 'report -p -n -N -b' /srv/disk").await?;
    let mut projects = BTreeSet::new();
    for volume in bound().await? {
        let answer =
            Machine::Nfs.run(&format!("cat {}", exported(&format!(".csi-nfs/quota/volumes/{volume}.json")))).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["limits"]["bytes"] == 100 * MIB, "{volume}: {answer}");
        let project = answer["project"].to_string();
        let line = report.lines().find(|line| line.split_whitespace().next() == Some(&format!("#{project}")));
        let hard = line.and_then(|line| line.split_whitespace().nth(3));
        ensure!(hard == Some(&(100 * MIB / 1024).to_string()), "{volume}: {line:?}");
        ensure!(projects.insert(project), "{volume} has the project ID of another volume");
    }
    ns.remove().await?;
    agent::kill().await
}
