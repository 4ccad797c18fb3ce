//! Scenario 13: two hundred claims at once. This is a benchmark: it prints times, and where they were spent.
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use csi_nfs_e2e_kubernetes::chart;
use csi_nfs_e2e_kubernetes::machine::{Machine, exported};
use csi_nfs_e2e_kubernetes::namespace::Namespace;
use csi_nfs_e2e_kubernetes::wait::{SOON, eventually};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, LogParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const CLAIMS: usize = 200;
/// The class without `subDir`.
const FLAT: &str = "burst-flat";

/// The calls of `method` since `start` in the driver's logs: their number, the median duration in seconds, and the
/// seconds from the start of the first call to the end of the last call.
async fn calls(client: &Client, method: &str, start: Instant) -> Result<(usize, f64, f64)> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), chart::NAMESPACE);
    let since = i64::try_from(start.elapsed().as_secs())? + 1;
    let logs = LogParams { container: Some("csi-nfs".into()), since_seconds: Some(since), ..LogParams::default() };
    let (mut took, mut first, mut last) = (Vec::new(), f64::MAX, f64::MIN);
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=controller")).await? {
        for line in pods.logs(&pod.name_any(), &logs).await?.lines() {
            // The last line may be one that is being written.
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
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

/// A class like `nfs`, without its `subDir`: the directory of each volume has the volume's name.
async fn flat_class(client: &Client) -> Result<()> {
    let classes = Api::<StorageClass>::all(client.clone());
    let mut class = classes.get("nfs").await?;
    let sub_dir = class.parameters.as_mut().and_then(|parameters| parameters.remove("subDir"));
    ensure!(sub_dir.is_some(), "the class nfs has no subDir, so there is nothing to compare");
    class.metadata = ObjectMeta { name: Some(FLAT.to_owned()), ..ObjectMeta::default() };
    classes.create(&PostParams::default(), &class).await?;
    Ok(())
}

/// The volumes of the claims in a namespace.
async fn volumes_of(ns: &Namespace) -> Result<Vec<PersistentVolume>> {
    let mut volumes = ns.volumes().list(&ListParams::default()).await?.items;
    volumes.retain(|volume| {
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        claim.and_then(|claim| claim.namespace.as_deref()) == Some(&ns.name)
    });
    Ok(volumes)
}

/// How many of something there were, by the seconds since the begin.
type Course = Vec<(f64, usize)>;

/// How many claims were bound after the creation, and how many volumes were left after the deletion.
type Courses = (Course, Course);

/// Writes the courses to the folder that CSI_NFS_E2E_RUNS names, for docs/pictures: as the dashboards' runs, with the
/// panels of e2e/pictures/burst.json.
fn keep(courses: &[(&str, Courses)]) -> Result<()> {
    let Some(runs) = std::env::var_os("CSI_NFS_E2E_RUNS").map(PathBuf::from) else { return Ok(()) };
    let answer = |of: fn(&Courses) -> &Course| -> Value {
        let series = courses.iter().map(|(form, courses)| json!({"metric": {"form": form}, "values": of(courses)}));
        series.collect()
    };
    let all = courses.iter().flat_map(|(_, (bound, left))| bound.iter().chain(left));
    let end = all.map(|(seconds, _)| *seconds).fold(0.0, f64::max);
    let run = json!({"end": end, "step": 2, "answers": {"1/A": answer(|of| &of.0), "2/A": answer(|of| &of.1)}});
    Ok(std::fs::write(runs.join("burst.json"), run.to_string() + "\n")?)
}

/// Creates the claims at once, waits for all of them, deletes them at once, and prints how long that took. `nested` of
/// the volumes' directories are in the directory of the namespace.
async fn burst(ns: &Namespace, form: &str, class: &str, nested: usize) -> Result<Courses> {
    let claims = ns.api::<PersistentVolumeClaim>();
    let all = ListParams::default();

    let start = Instant::now();
    ns.claim_at_once("13-claim.yaml", CLAIMS, Some(class)).await?;
    let created = start.elapsed();
    let mut provisioned = Duration::ZERO;
    let (mut bindings, mut leavings): Courses = (vec![(0.0, 0)], vec![(0.0, CLAIMS)]);
    eventually(SOON * 2, "all claims are bound", async || {
        if provisioned.is_zero() && volumes_of(ns).await?.len() == CLAIMS {
            provisioned = start.elapsed();
        }
        let bound = ns.bound_claims().await?.len();
        bindings.push((tenths(start.elapsed()), bound));
        Ok((bound == CLAIMS).then_some(()))
    })
    .await?;
    let bound = start.elapsed();
    let made = calls(&ns.client, "CreateVolume", start).await?;
    let directories = Machine::Nfs.run(&format!("ls {} 2>/dev/null | wc -l", exported(&ns.name))).await?;
    ensure!(directories == nested.to_string(), "{form}: {directories} directories in that of the namespace");

    let start = Instant::now();
    claims.delete_collection(&DeleteParams::default(), &all).await?;
    eventually(SOON * 2, "all volumes are gone", async || {
        let left = volumes_of(ns).await?.len();
        leavings.push((tenths(start.elapsed()), left));
        Ok((left == 0 && claims.list(&all).await?.items.is_empty()).then_some(()))
    })
    .await?;
    let gone = start.elapsed();
    let deleted = calls(&ns.client, "DeleteVolume", start).await?;
    println!(
        "{form}, {CLAIMS} claims: created {created:.1?}, all volumes provisioned {provisioned:.1?}, \
         all claims bound {bound:.1?}"
    );
    println!("{form}, {CLAIMS} claims: all gone {gone:.1?} after deletion");
    for (method, (count, median, all)) in [("CreateVolume", made), ("DeleteVolume", deleted)] {
        println!(
            "{form}, of that in the driver: {count} {method} in {all:.1} s, median {median:.2} s, \
             including waits for each other"
        );
    }
    Ok((bindings, leavings))
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// The directories of a namespace's volumes side by side in a directory of the namespace, and all volumes' directories
/// in the share itself. What comes first on a new cluster is slower, so the first burst is to warm up, and then the
/// forms take turns.
#[tokio::test]
async fn s13_two_hundred_claims_at_once() -> Result<()> {
    let ns = Namespace::new("burst").await?;
    flat_class(&ns.client).await?;
    burst(&ns, "warming up", FLAT, 0).await?;
    for _ in 0..2 {
        let nested = ("with subDir", burst(&ns, "with subDir", "nfs", CLAIMS).await?);
        let flat = ("without subDir", burst(&ns, "without subDir", FLAT, 0).await?);
        keep(&[nested, flat])?;
    }
    Api::<StorageClass>::all(ns.client.clone()).delete(FLAT, &DeleteParams::default()).await?;
    ns.remove().await
}
