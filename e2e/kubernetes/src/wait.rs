//! Waiting with a deadline. The error says what did not happen.
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::Api;
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The deadline for ordinary events on a busy machine.
pub const SOON: Duration = Duration::from_secs(90);

/// The requirements on an object's kind to watch it.
pub trait Watched: Resource<DynamicType = ()> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static> Watched for K {}

/// The requirements on a namespaced kind to watch it.
pub trait Namespaced: Watched + Resource<Scope = NamespaceResourceScope> {}
impl<K: Watched + Resource<Scope = NamespaceResourceScope>> Namespaced for K {}

/// Waits until the object `name` satisfies `condition`, and returns it.
pub async fn until<K: Watched>(
    api: &Api<K>,
    name: &str,
    limit: Duration,
    what: &str,
    condition: impl Fn(&K) -> bool,
) -> Result<K> {
    let seen = await_condition(api.clone(), name, |object: Option<&K>| object.is_some_and(&condition));
    match tokio::time::timeout(limit, seen).await {
        Ok(object) => Ok(object?.unwrap_or_else(|| unreachable!("the condition holds only for an existing object"))),
        Err(_) => bail!("{} {name}: not {what} within {limit:?}: {}", K::kind(&()), status(api, name).await),
    }
}

/// Waits until the object `name` with `uid` is gone.
pub async fn until_gone<K: Watched>(api: &Api<K>, name: &str, uid: &str, limit: Duration) -> Result<()> {
    match tokio::time::timeout(limit, await_condition(api.clone(), name, is_deleted(uid))).await {
        Ok(gone) => Ok(gone.map(drop)?),
        Err(_) => bail!("{} {name}: not gone within {limit:?}: {}", K::kind(&()), status(api, name).await),
    }
}

/// The state of the object: its phase, and each condition that is not true.
async fn status<K: Watched>(api: &Api<K>, name: &str) -> String {
    let object = match api.get(name).await.map(serde_json::to_value) {
        Ok(Ok(object)) => object,
        Ok(Err(e)) => return e.to_string(),
        Err(e) => return e.to_string(),
    };
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let failing = conditions.filter(|c| c["status"] == "False").map(|c| format!(", {} {}", c["reason"], c["message"]));
    format!("phase {}{}", object["status"]["phase"], failing.collect::<String>())
}

/// Calls `attempt` until it returns Some. For events that cannot be watched.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let answer = attempt().await;
        match answer {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if start.elapsed() > limit => bail!("did not happen within {limit:?}: {what}"),
            Err(e) if start.elapsed() > limit => {
                return Err(e.context(format!("did not happen within {limit:?}: {what}")));
            }
            _ => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}
