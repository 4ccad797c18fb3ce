//! Pods that write all the time, to see that nothing interrupts them.
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::machine::{Machine, exported};
use crate::namespace::{Namespace, restarts};
use crate::wait::eventually;

/// Two pods, one on each node. They write lines until the first error.
pub struct Writers {
    /// Their namespace.
    pub ns: Namespace,
    /// The pods.
    pub pods: Vec<Pod>,
}

impl Writers {
    /// Starts them in a new namespace `name`.
    pub async fn start(name: &str) -> Result<Writers> {
        let ns = Namespace::new(name).await?;
        ns.apply("10-writers.yaml").await?;
        let pods = ns.ready_all("writers", 2).await?;
        Ok(Writers { ns, pods })
    }

    /// Waits until each pod has written more. Fails if a pod was restarted.
    pub async fn all_go_on(&self, limit: Duration) -> Result<()> {
        for pod in &self.pods {
            let log = exported(&format!("{}/log/{}", self.ns.name, pod.name_any()));
            let mut before = None;
            eventually(limit, "a writer continues", async || {
                let count: u64 = Machine::Nfs.run(&format!("wc -l < {log}")).await?.parse()?;
                Ok((count > *before.get_or_insert(count) + 3).then_some(()))
            })
            .await?;
            let now = self.ns.api::<Pod>().get(&pod.name_any()).await?;
            ensure!(restarts(&now) == 0 && now.uid() == pod.uid(), "{} was restarted after an error", pod.name_any());
        }
        Ok(())
    }

    /// Asserts that every line exists once and in order.
    pub async fn nothing_is_missing(&self) -> Result<()> {
        for pod in &self.pods {
            let file = exported(&format!("{}/log/{}", self.ns.name, pod.name_any()));
            let text = Machine::Nfs.run(&format!("cat {file}")).await?;
            let written: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
            ensure!(written.iter().copied().eq(1..=written.len() as u64), "{file} has gaps");
        }
        Ok(())
    }
}
