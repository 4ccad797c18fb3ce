//! The namespace of a scenario: creating objects in it, and waiting for them.
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Event, Namespace as Object, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{
    Api, ApiResource, AttachParams, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use tokio::io::AsyncReadExt;

use crate::wait::{Namespaced, SOON, eventually, until, until_gone};

/// A namespace. [`Namespace::remove`] deletes it with all its volumes. After a failure it stays, so that it can be
/// inspected.
pub struct Namespace {
    pub client: Client,
    pub name: String,
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

impl Namespace {
    /// Creates the namespace and waits until pods can be created in it.
    pub async fn new(name: &str) -> Result<Namespace> {
        Self::labelled(name, &[]).await
    }

    /// The same, with labels.
    pub async fn labelled(name: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        let client = crate::client().await?;
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() };
        let object = Object { metadata, ..Default::default() };
        Api::all(client.clone()).create(&PostParams::default(), &object).await?;
        let namespace = Namespace { client, name: name.to_owned() };
        let accounts = namespace.api::<k8s_openapi::api::core::v1::ServiceAccount>();
        until(&accounts, "default", SOON, "made", |_| true).await?;
        Ok(namespace)
    }

    /// The objects of a kind in this namespace.
    pub fn api<K: Namespaced>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The objects of a custom kind in this namespace.
    pub fn custom(&self, group: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        Api::namespaced_with(self.client.clone(), &self.name, &resource)
    }

    /// Waits until the snapshot or group snapshot is ready to use, and returns it.
    pub async fn snapshot_ready(&self, api: &Api<DynamicObject>, name: &str) -> Result<DynamicObject> {
        let mut seen = serde_json::Value::Null;
        let ready = eventually(SOON, "a snapshot is ready", async || {
            let snapshot = api.get(name).await?;
            seen = snapshot.data["status"].clone();
            Ok((seen["readyToUse"] == true).then_some(snapshot))
        });
        ready.await.with_context(|| format!("{name}: {seen}"))
    }

    /// The cluster's PersistentVolumes.
    pub fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// Creates all objects of the example file in this namespace.
    pub async fn apply(&self, example: &str) -> Result<()> {
        for object in crate::example(example)? {
            crate::create(&self.client, &self.name, &object).await?;
        }
        Ok(())
    }

    /// Creates the object of the example file with this kind and name.
    pub async fn apply_one(&self, example: &str, kind: &str, name: &str) -> Result<()> {
        let objects = crate::example(example)?;
        let found = objects.iter().find(|o| o.name_any() == name && o.types.as_ref().is_some_and(|t| t.kind == kind));
        crate::create(&self.client, &self.name, found.with_context(|| format!("{example} has no {kind} {name}"))?)
            .await?;
        Ok(())
    }

    /// Waits until the claim is bound, and returns its volume.
    pub async fn bound(&self, claim: &str) -> Result<PersistentVolume> {
        let bound = match until(&self.api(), claim, SOON, "bound", is_bound).await {
            Ok(bound) => bound,
            Err(e) => bail!("{e}: {:?}", self.events(claim).await?),
        };
        let volume = bound.spec.and_then(|s| s.volume_name).context("the bound claim names no volume")?;
        Ok(self.volumes().get(&volume).await?)
    }

    /// The claim that is the first object of the example; of this class, if one is given.
    fn claim_like(example: &str, class: Option<&str>) -> Result<PersistentVolumeClaim> {
        let mut claim: PersistentVolumeClaim =
            serde_json::from_value(serde_json::to_value(&crate::example(example)?[0])?)?;
        if let (Some(class), Some(spec)) = (class, &mut claim.spec) {
            spec.storage_class_name = Some(class.to_owned());
        }
        Ok(claim)
    }

    /// Creates the claim that is the first object of the example, of this class.
    pub async fn claim(&self, example: &str, class: &str) -> Result<()> {
        self.api().create(&PostParams::default(), &Self::claim_like(example, Some(class))?).await?;
        Ok(())
    }

    /// Creates `count` claims like the first object of the example, all at once; of this class, if one is given.
    pub async fn claim_at_once(&self, example: &str, count: usize, class: Option<&str>) -> Result<()> {
        let claims = &self.api::<PersistentVolumeClaim>();
        let template = Self::claim_like(example, class)?;
        let make = |i| {
            let mut claim = template.clone();
            claim.metadata.name = Some(format!("claim-{i}"));
            async move { claims.create(&PostParams::default(), &claim).await }
        };
        try_join_all((0..count).map(make)).await?;
        Ok(())
    }

    /// The claims that are bound.
    pub async fn bound_claims(&self) -> Result<Vec<PersistentVolumeClaim>> {
        let mut claims = self.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items;
        claims.retain(is_bound);
        Ok(claims)
    }

    /// Waits until the pod is ready.
    pub async fn ready(&self, pod: &str) -> Result<Pod> {
        self.ready_within(pod, SOON).await
    }

    /// Waits until the pod is ready, for a pod whose volume takes long.
    pub async fn ready_within(&self, pod: &str, limit: Duration) -> Result<Pod> {
        match until(&self.api(), pod, limit, "ready", is_ready).await {
            Ok(pod) => Ok(pod),
            Err(e) => bail!("{e}: {:?}", self.events(pod).await?),
        }
    }

    /// Waits until `count` pods with the label `app` are ready, and returns them.
    pub async fn ready_all(&self, app: &str, count: usize) -> Result<Vec<Pod>> {
        let selector = ListParams::default().labels(&format!("app={app}"));
        eventually(SOON * 2, &format!("{count} pods of {app} are ready"), async || {
            let pods = self.api::<Pod>().list(&selector).await?.items;
            let live: Vec<_> =
                pods.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none() && is_ready(p)).collect();
            Ok((live.len() == count).then_some(live))
        })
        .await
    }

    /// Runs `script` with sh in the pod's first container. Returns its output. Fails if its status is not 0.
    pub async fn exec(&self, pod: &str, script: &str) -> Result<String> {
        self.exec_in(pod, &AttachParams::default(), &["sh", "-c", script]).await
    }

    /// Runs a program in the pod's container that `of` names. Returns its output. Fails if its status is not 0.
    pub async fn exec_in(&self, pod: &str, of: &AttachParams, program: &[&str]) -> Result<String> {
        let mut process = self.api::<Pod>().exec(pod, program.iter().copied(), of).await?;
        let status = process.take_status().context("no status channel")?;
        let (mut output, mut errors) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (process.stdout().context("no output")?, process.stderr().context("no errors")?);
        tokio::try_join!(stdout.read_to_string(&mut output), stderr.read_to_string(&mut errors))?;
        match status.await {
            Some(status) if status.status.as_deref() == Some("Success") => Ok(output.trim_end().to_owned()),
            status => {
                bail!("in pod {pod}: {program:?}: {}: {errors}", status.and_then(|s| s.message).unwrap_or_default())
            }
        }
    }

    /// The events of the object `name`, as "Reason: message".
    pub async fn events(&self, name: &str) -> Result<Vec<String>> {
        let of = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let text = |e: Event| format!("{}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default());
        Ok(self.api::<Event>().list(&of).await?.into_iter().map(text).collect())
    }

    /// Waits for an event of the object `name` that contains `text`.
    pub async fn event(&self, name: &str, text: &str) -> Result<String> {
        let mut seen = Vec::new();
        let found = eventually(SOON, "event", async || {
            seen = self.events(name).await?;
            Ok(seen.iter().find(|e| e.contains(text)).cloned())
        });
        found.await.with_context(|| format!("no event of {name} contains {text:?}"))
    }

    /// Deletes the snapshot or group snapshot, and waits until it is gone.
    pub async fn delete_snapshot(&self, api: &Api<DynamicObject>, name: &str) -> Result<()> {
        api.delete(name, &DeleteParams::default()).await?;
        eventually(SOON, "a snapshot is gone", async || Ok(api.get_opt(name).await?.is_none().then_some(()))).await
    }

    /// Changes an object with a merge patch.
    pub async fn patch<K: Namespaced>(&self, name: &str, patch: serde_json::Value) -> Result<K> {
        Ok(self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// Deletes the object and waits until it is gone.
    pub async fn delete<K: Namespaced>(&self, name: &str, limit: Duration) -> Result<()> {
        let uid = self.api::<K>().get(name).await?.uid().context("no uid")?;
        self.api::<K>().delete(name, &DeleteParams::default()).await?;
        until_gone(&self.api::<K>(), name, &uid, limit).await
    }

    /// Deletes the namespace. Waits until it is gone with every volume that the driver created for its claims.
    pub async fn remove(self) -> Result<()> {
        let namespaces: Api<Object> = Api::all(self.client.clone());
        let uid = namespaces.get(&self.name).await?.uid().context("no uid")?;
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        until_gone(&namespaces, &self.name, &uid, SOON * 2).await?;
        eventually(SOON, &format!("the volumes of {} are gone", self.name), async || {
            let volumes = self.volumes().list(&ListParams::default()).await?;
            let left = volumes.iter().any(|v| {
                let spec = v.spec.as_ref();
                let deletes = spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
                let ours =
                    spec.and_then(|s| s.claim_ref.as_ref()).and_then(|c| c.namespace.as_deref()) == Some(&self.name);
                deletes && ours
            });
            Ok((!left).then_some(()))
        })
        .await
    }
}

/// Whether all of the pod's containers are ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The node that the pod runs on.
pub fn node_of(pod: &Pod) -> Result<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).context("the pod has no node")
}

/// The number of restarts of the pod's containers.
pub fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    containers.iter().map(|c| c.restart_count).sum()
}
