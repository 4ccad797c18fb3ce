//! Code that the scenarios share: a running cluster (`run` starts it and installs the chart), its machines, and
//! waiting. Each scenario gets a namespace of its own and applies the examples of `deploy/examples` unchanged.
pub mod agent;
pub mod chart;
pub mod machine;
pub mod namespace;
pub mod prometheus;
pub mod template;
pub mod tls;
pub mod wait;
pub mod writers;

use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt, discovery};

/// The driver's name in the chart.
pub const DRIVER: &str = "csi-nfs.rs";

/// The folder of the repository at `path`.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// A program in the cache that `build` has built.
pub fn tool(name: &str) -> PathBuf {
    cached("kubernetes/bin").join(name)
}

/// What the cache has at `path`.
pub fn cached(path: &str) -> PathBuf {
    let cache = std::env::var_os("CSI_NFS_CACHE").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/csi-nfs"));
    cache.join(path)
}

/// A client of the cluster in KUBECONFIG.
pub async fn client() -> Result<Client> {
    Client::try_default().await.context("KUBECONFIG names no cluster; run e2e/kubernetes/up and set KUBECONFIG")
}

/// The documents of the YAML file `deploy/examples/NAME`.
pub fn example(name: &str) -> Result<Vec<DynamicObject>> {
    let path = repository("deploy/examples").join(name);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())
}

/// Creates `object`, in `namespace` if its kind is namespaced.
pub async fn create(client: &Client, namespace: &str, object: &DynamicObject) -> Result<DynamicObject> {
    let types = object.types.as_ref().context("an object without kind")?;
    let (resource, capabilities) = discovery::pinned_kind(client, &GroupVersionKind::try_from(types)?).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
        discovery::Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let created = api.create(&PostParams::default(), object).await;
    created.with_context(|| format!("cannot create {} {}", types.kind, object.name_any()))
}
