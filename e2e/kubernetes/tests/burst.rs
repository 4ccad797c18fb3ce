//! Scenario 13: two hundred claims at once. This is a benchmark: it prints times, and where they were spent.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use csi_nfs_e2e_kubernetes::chart;
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, LogParams};
use kube::{Client, ResourceExt};

const CLAIMS: usize = 200;

/// The calls of `method` since `start` in the driver's logs: their number, the median duration in seconds, and the
/// seconds from the start of the first call to the end of the last call.
async fn calls(client: &Client, method: &str, start: Instant) -> Result<(usize, f64, f64)> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), chart::NAMESPACE);
    let since = i64::try_from(start.elapsed().as_secs())? + 1;
    let logs = LogParams { container: Some("csi-nfs".into()), since_seconds: Some(since), ..LogParams::default() };
    let (mut took, mut first, mut last) = (Vec::new(), f64::MAX, f64::MIN);
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=controller")).await? {
        for line in pods.logs(&pod.name_any(), &logs).await?.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let (Some(ms), Some(at)) = (line["ms"].as_f64(), line["timestamp"].as_str()) else { continue };
            if line["span"]["method"] == method {
                let end = at.parse::<Timestamp>()?.as_microsecond() as f64 / 1e6;
                (first, last) = (f64::min(first, end - ms / 1e3), f64::max(last, end));
                took.push(ms / 1e3);
            }
        }
    }
    ensure!(!took.is_empty(), "the driver's logs have no {method}");
    took.sort_by(f64::total_cmp);
    Ok((took.len(), took[took.len() / 2], last - first))
}

#[tokio::test]
async fn s13_two_hundred_claims_at_once() -> Result<()> {
    let ns = Namespace::new("burst").await?;
    let claims = ns.api::<PersistentVolumeClaim>();
    let all = ListParams::default();

    let start = Instant::now();
    ns.claim_at_once("13-claim.yaml", CLAIMS).await?;
    let created = start.elapsed();
    let mut provisioned = Duration::ZERO;
    eventually(SOON * 2, "all claims are bound", async || {
        let ours = |v: &&PersistentVolume| {
            v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).and_then(|c| c.namespace.as_deref()) == Some("burst")
        };
        if provisioned.is_zero() && ns.volumes().list(&all).await?.iter().filter(ours).count() == CLAIMS {
            provisioned = start.elapsed();
        }
        Ok((ns.bound_claims().await?.len() == CLAIMS).then_some(()))
    })
    .await?;
    let bound = start.elapsed();
    let made = calls(&ns.client, "CreateVolume", start).await?;
    let directories = Machine::Nfs.run(&format!("ls {} | wc -l", exported("burst"))).await?;
    ensure!(directories == CLAIMS.to_string(), "{directories} directories for {CLAIMS} claims");

    let start = Instant::now();
    claims.delete_collection(&DeleteParams::default(), &all).await?;
    eventually(SOON * 2, "all volumes are gone", async || {
        let left = ns.volumes().list(&all).await?;
        let ours = left.iter().any(|v| {
            v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).and_then(|c| c.namespace.as_deref()) == Some("burst")
        });
        Ok((!ours && claims.list(&all).await?.items.is_empty()).then_some(()))
    })
    .await?;
    let gone = start.elapsed();
    let deleted = calls(&ns.client, "DeleteVolume", start).await?;
    println!(
        "{CLAIMS} claims: created {created:.1?}, all volumes provisioned {provisioned:.1?}, \
         all claims bound {bound:.1?}"
    );
    println!("{CLAIMS} claims: all gone {gone:.1?} after deletion");
    for (method, (count, median, all)) in [("CreateVolume", made), ("DeleteVolume", deleted)] {
        println!(
            "of that in the driver: {count} {method} in {all:.1} s, median {median:.2} s, \
             including waits for each other"
        );
    }
    ns.remove().await
}
