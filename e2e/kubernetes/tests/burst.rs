//! Scenario 13: two hundred claims at once. A benchmark: it prints figures, and names what they were spent on.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use csi_nfs_e2e_kubernetes::example;
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, PostParams};

const CLAIMS: usize = 200;

#[tokio::test]
async fn s13_two_hundred_claims_at_once() -> Result<()> {
    let ns = Namespace::new("burst").await?;
    let claims = ns.api::<PersistentVolumeClaim>();
    let all = ListParams::default();
    let template: PersistentVolumeClaim = serde_json::from_value(serde_json::to_value(&example("13-claim.yaml")?[0])?)?;

    let start = Instant::now();
    try_join_all((0..CLAIMS).map(|i| {
        let mut claim = template.clone();
        claim.metadata.name = Some(format!("claim-{i}"));
        let claims = &claims;
        async move { claims.create(&PostParams::default(), &claim).await }
    }))
    .await?;
    let created = start.elapsed();
    let mut provisioned = Duration::ZERO;
    eventually(SOON * 2, "all claims are bound", async || {
        let ours = |v: &&PersistentVolume| {
            v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).and_then(|c| c.namespace.as_deref()) == Some("burst")
        };
        if provisioned.is_zero() && ns.volumes().list(&all).await?.iter().filter(ours).count() == CLAIMS {
            provisioned = start.elapsed();
        }
        let phase = |c: &&PersistentVolumeClaim| c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        Ok((claims.list(&all).await?.iter().filter(phase).count() == CLAIMS).then_some(()))
    })
    .await?;
    let bound = start.elapsed();
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
    println!(
        "{CLAIMS} claims: made {created:.1?}, all volumes provisioned {provisioned:.1?}, all claims bound {bound:.1?}; all gone {:.1?} after deletion",
        start.elapsed()
    );
    ns.remove().await
}
