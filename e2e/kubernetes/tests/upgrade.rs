//! Scenario 15: the driver is upgraded from the version before, rolled back, and upgraded again, while it is used.
use std::time::Duration;

use anyhow::{Result, ensure};
use csi_nfs_e2e_kubernetes::chart;
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use csi_nfs_e2e_kubernetes::writers::Writers;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams};

const CLAIMS: usize = 50;

/// The versions of the driver that run, one for each container of it.
async fn versions(ns: &Namespace) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(ns.client.clone(), chart::NAMESPACE);
    let mut versions = Vec::new();
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/instance=csi-nfs")).await? {
        let containers = pod.spec.into_iter().flat_map(|spec| spec.containers);
        versions
            .extend(containers.filter(|container| container.name == "csi-nfs").filter_map(|container| container.image));
    }
    Ok(versions)
}

/// Makes the claims, runs `change` meanwhile, waits until all are bound, and deletes them while nothing changes.
async fn with_claims(name: &str, change: impl Future<Output = Result<()>>) -> Result<()> {
    let ns = Namespace::new(name).await?;
    let bind = async {
        ns.claim_at_once("13-claim.yaml", CLAIMS, None).await?;
        let all = "all claims are bound";
        eventually(SOON * 3, all, async || Ok((ns.bound_claims().await?.len() == CLAIMS).then_some(()))).await
    };
    tokio::try_join!(bind, change)?;
    let directories = Machine::Nfs.run(&format!("ls {} | wc -l", exported(name))).await?;
    ensure!(directories == CLAIMS.to_string(), "{directories} directories for {CLAIMS} claims");
    let events = ns.api::<Event>().list(&ListParams::default()).await?;
    let warnings: Vec<_> = events.iter().filter(|event| event.type_.as_deref() == Some("Warning")).collect();
    ensure!(warnings.is_empty(), "{warnings:?}");
    let claims = ns.api::<PersistentVolumeClaim>();
    claims.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    ns.remove().await
}

#[tokio::test]
async fn s15_no_error_reaches_pods_and_claims_while_the_driver_is_upgraded_and_rolled_back() -> Result<()> {
    let writers = Writers::start("versions").await?;
    let client = &writers.ns.client;
    let (current, previous) = (versions(&writers.ns).await?, chart::previous()?);
    writers.all_go_on(SOON).await?;

    let back = async || {
        chart::upgrade_to(&previous, &[]).await?;
        chart::ready(client).await
    };
    with_claims("version-before", back()).await?;
    writers.all_go_on(Duration::from_secs(10)).await?;
    let before = versions(&writers.ns).await?;
    ensure!(before.iter().all(|version| !current.contains(version)), "{before:?}, {current:?}");
    // The version before mounts what this one has made.
    writers.ns.apply("02-dynamic.yaml").await?;
    writers.ns.ready("writer").await?;

    for (name, rolled_back) in [("version-upgraded", false), ("version-back", true), ("version-again", false)] {
        let change = async {
            match rolled_back {
                true => chart::rollback().await?,
                false => chart::upgrade(&[]).await?,
            }
            chart::ready(client).await
        };
        with_claims(name, change).await?;
        writers.all_go_on(Duration::from_secs(10)).await?;
        ensure!(versions(&writers.ns).await?.iter().all(|version| before.contains(version) == rolled_back));
    }
    writers.ns.ready("writer").await?;
    writers.nothing_is_missing().await?;
    writers.ns.remove().await
}
