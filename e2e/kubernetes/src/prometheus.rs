//! A Prometheus beside the cluster: it scrapes the driver's pods as the chart's ServiceMonitor says, and evaluates the
//! alerts of the chart's PrometheusRule. Both are read from the cluster. `make prometheus` builds it.
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::{SOON, eventually};
use crate::{cached, chart};

const ADDRESS: &str = "127.0.0.1:9090";

/// A running Prometheus. Dropping this kills it.
pub struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Starts it with its files in `directory`, and waits until it has scraped all pods of the driver.
    pub async fn start(client: &Client, directory: &Path) -> Result<Self> {
        let [rule, monitor] = [of_chart(client, "PrometheusRule").await?, of_chart(client, "ServiceMonitor").await?];
        let endpoint = &monitor["spec"]["endpoints"][0];
        let targets = targets(client).await?;
        let config = json!({
            "global": {"scrape_interval": endpoint["interval"], "evaluation_interval": "15s"},
            "rule_files": ["rules.json"],
            "scrape_configs": [{
                "job_name": "csi-nfs", "honor_labels": endpoint["honorLabels"], "static_configs": targets,
            }],
        });
        std::fs::create_dir_all(directory)?;
        // JSON is YAML.
        std::fs::write(directory.join("rules.json"), rule["spec"].to_string())?;
        std::fs::write(directory.join("prometheus.json"), config.to_string())?;
        let log = File::create(directory.join("log"))?;
        let program = cached("prometheus/prometheus");
        let process = Command::new(&program)
            .args(["--config.file=prometheus.json", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={ADDRESS}"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let prometheus = Self(process);
        eventually(SOON, "Prometheus has scraped all pods of the driver", async || {
            Ok((prometheus.query("up == 1").await?.len() == targets.len()).then_some(()))
        })
        .await?;
        Ok(prometheus)
    }

    /// The series that a query has now.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        Ok(list(&ask(&format!("query?query={query}")).await?["result"]))
    }

    /// The alerts of that name that fire now.
    pub async fn firing(&self, name: &str) -> Result<Vec<Value>> {
        let alerts = list(&ask("alerts").await?["alerts"]);
        Ok(alerts.into_iter().filter(|one| one["labels"]["alertname"] == name && one["state"] == "firing").collect())
    }

    /// Waits until an alert fires. Returns how long that took, and its summary and description.
    pub async fn fires(&self, name: &str, limit: Duration) -> Result<(Duration, String)> {
        let begun = Instant::now();
        let alert = eventually(limit, &format!("{name} fires"), async || Ok(self.firing(name).await?.pop())).await?;
        let [summary, description] = ["summary", "description"].map(|key| alert["annotations"][key].clone());
        println!("{name} fires after {:?}: {summary} {description}", begun.elapsed());
        Ok((begun.elapsed(), format!("{summary} {description}")))
    }

    /// Waits until no alert of that name fires any more.
    pub async fn ends(&self, name: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let ended = async || Ok(self.firing(name).await?.is_empty().then_some(()));
        eventually(limit, &format!("{name} ends"), ended).await?;
        println!("{name} ends after {:?}", begun.elapsed());
        Ok(())
    }
}

/// The object of a kind of the Prometheus Operator that the chart has made.
async fn of_chart(client: &Client, kind: &str) -> Result<Value> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind));
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), chart::NAMESPACE, &resource);
    Ok(api.get("csi-nfs").await.with_context(|| format!("the {kind} of the chart"))?.data)
}

/// The driver's pods, with the labels that the Prometheus Operator makes of the ServiceMonitor.
async fn targets(client: &Client) -> Result<Vec<Value>> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=csi-nfs,app.kubernetes.io/instance=csi-nfs");
    let pods = Api::<Pod>::namespaced(client.clone(), chart::NAMESPACE).list(&ours).await?;
    let mut targets = Vec::new();
    for pod in pods {
        let (name, part) = (pod.name_any(), pod.labels().get("app.kubernetes.io/component").cloned());
        let (spec, status) = (pod.spec.context("a pod without spec")?, pod.status.context("a pod without status")?);
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let port = ports.into_iter().find(|port| port.name.as_deref() == Some("metrics"));
        let Some(port) = port.map(|port| port.container_port) else { continue };
        let ip = status.pod_ip.context("a pod without address")?;
        let labels = json!({"namespace": chart::NAMESPACE, "pod": name, "node": spec.node_name, "csi_nfs_part": part});
        targets.push(json!({"targets": [format!("{ip}:{port}")], "labels": labels}));
    }
    ensure!(!targets.is_empty(), "no pod of the driver has metrics");
    Ok(targets)
}

/// Asks Prometheus' HTTP interface.
async fn ask(what: &str) -> Result<Value> {
    let mut connection = TcpStream::connect(ADDRESS).await.context("Prometheus does not listen")?;
    let request = format!("GET /api/v1/{what} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer of Prometheus")?;
    let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    ensure!(body["status"] == "success", "{what}: {body}");
    Ok(body["data"].clone())
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
