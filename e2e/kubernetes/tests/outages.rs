//! Scenario 15: what an operator is told while things break, by the chart's alerts in a Prometheus.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::{Namespace, node_of};
use csi_nfs_e2e_kubernetes::prometheus::Prometheus;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use csi_nfs_e2e_kubernetes::writers::Writers;
use csi_nfs_e2e_kubernetes::{agent, cached, chart};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

/// Everything that the chart has for Prometheus and Grafana. The agent looks every 300 s, so its age gets to that.
const WATCHED: &str = "metrics.enabled=true,metrics.serviceMonitor.enabled=true,metrics.rules.enabled=true,\
                       metrics.dashboards.enabled=true,metrics.rules.thresholds.agentSeconds=330";
/// How long an alert may take that waits for five minutes, and for a scrape and looks before them.
const MINUTES: Duration = Duration::from_secs(600);
/// As much of the export's file system as a test leaves free.
const FREE_PERCENT: u64 = 5;

/// Upgrades the chart so that Prometheus has everything, and starts it.
async fn watch(client: &Client) -> Result<Prometheus> {
    chart::upgrade(&["--set", WATCHED]).await?;
    chart::ready(client).await?;
    Prometheus::start(client, &cached("kubernetes/cluster/prometheus")).await
}

/// Stops Prometheus, and takes its parts of the chart away.
async fn unwatch(prometheus: Prometheus) -> Result<()> {
    drop(prometheus);
    chart::upgrade(&[]).await
}

#[tokio::test]
async fn s15_an_alert_names_a_server_that_is_gone_and_who_misses_it_and_ends_when_it_is_back() -> Result<()> {
    let writers = Writers::start("told").await?;
    let client = writers.ns.client.clone();
    let prometheus = watch(&client).await?;
    writers.all_go_on(SOON).await?;

    Machine::Nfs.off()?;
    let (took, told) = prometheus.fires("NFSServerUnreachable", MINUTES).await?;
    ensure!(took < Duration::from_secs(120), "the alert fires after {took:?}");
    ensure!(told.contains("nfs.example.org") || told.contains(Machine::Nfs.address()), "{told}");
    let plugins = ListParams::default().labels("app.kubernetes.io/component=node");
    for pod in Api::<Pod>::namespaced(client.clone(), chart::NAMESPACE).list(&plugins).await? {
        let (pod, node) = (pod.name_any(), node_of(&pod)?.to_owned());
        ensure!(told.contains(&pod) && told.contains(&format!("(node {node})")), "{pod} on {node}: {told}");
    }

    Machine::Nfs.on()?;
    prometheus.ends("NFSServerUnreachable", SOON * 2).await?;
    writers.all_go_on(SOON).await?;
    writers.nothing_is_missing().await?;
    let dashboards = Api::<ConfigMap>::namespaced(client, chart::NAMESPACE);
    let found = dashboards.list(&ListParams::default().labels("grafana_dashboard=1")).await?.items;
    let panels = found.iter().flat_map(|one| one.data.iter().flatten()).filter(|(_, text)| text.contains("\"panels\""));
    ensure!(panels.count() == 2, "the dashboards are not there: {found:?}");
    writers.ns.remove().await?;
    unwatch(prometheus).await
}

#[tokio::test]
async fn s15_an_agent_that_is_killed_a_full_export_and_a_directory_that_is_removed_have_alerts() -> Result<()> {
    agent::start().await?;
    let ns = Namespace::new("watched").await?;
    let prometheus = watch(&ns.client).await?;
    ns.apply("02-dynamic.yaml").await?;
    ns.ready("writer").await?;
    let claims = ns.bound_claims().await?;
    let claim = claims.first().map(ResourceExt::name_any).context("no claim is bound")?;
    let answers = "csi_nfs_export_agent_answer_timestamp_seconds > 0";
    eventually(SOON * 4, "the controller has seen the agent", async || {
        Ok((!prometheus.query(answers).await?.is_empty()).then_some(()))
    })
    .await?;

    let agent = async {
        agent::kill().await?;
        let (_, told) = prometheus.fires("NFSQuotaAgentGone", MINUTES).await?;
        ensure!(told.contains("/share"), "{told}");
        agent::start().await?;
        prometheus.ends("NFSQuotaAgentGone", SOON * 3).await
    };
    let full = async {
        let free = "$(( $(stat -f -c '%a * %S' /srv/disk) ))";
        let size = "$(( $(stat -f -c '%b * %S' /srv/disk) ))";
        let ballast = "/srv/disk/export/ballast";
        let fill = format!("fallocate -l $(( {free} - {size} * {FREE_PERCENT} / 100 )) {ballast}");
        Machine::Nfs.run(&fill).await?;
        let (_, told) = prometheus.fires("NFSExportNearlyFull", MINUTES).await?;
        ensure!(told.contains("/share has 5") || told.contains("/share has 4.9"), "{told}");
        Machine::Nfs.run(&format!("rm {ballast}")).await?;
        prometheus.ends("NFSExportNearlyFull", SOON * 2).await
    };
    let removed = async {
        Machine::Nfs.run(&format!("rm -r {}", exported(&format!("{}/{claim}", ns.name)))).await?;
        let (_, told) = prometheus.fires("NFSVolumeDirectoryMissing", MINUTES).await?;
        ensure!(told.contains(&format!("(claim {claim})")), "{told}");
        ns.delete::<Pod>("writer", SOON * 2).await?;
        ns.delete::<PersistentVolumeClaim>(&claim, SOON).await?;
        // It fires for five minutes more.
        prometheus.ends("NFSVolumeDirectoryMissing", MINUTES).await
    };
    tokio::try_join!(agent, full, removed)?;
    ns.remove().await?;
    unwatch(prometheus).await?;
    agent::kill().await
}
