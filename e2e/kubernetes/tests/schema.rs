//! The API server's own judgement of what the chart renders and of the examples: each object is sent to it, to be
//! validated and not kept. Runs before the driver is installed: what is there already would be taken as a change of it.
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::template::{SETTINGS, rendered};
use csi_nfs_e2e_kubernetes::{repository, tool};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Has the API server validate the objects of `yaml`, unknown fields included.
async fn validate(what: &str, yaml: &str) -> Result<()> {
    let mut kubectl = Command::new(tool("kubectl"))
        .args(["apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "--filename=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    kubectl.stdin.take().context("no standard input")?.write_all(yaml.as_bytes()).await?;
    let output = kubectl.wait_with_output().await?;
    ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let objects = yaml.lines().filter(|line| line.starts_with("kind: ")).count();
    let taken = String::from_utf8(output.stdout)?.lines().count();
    ensure!(taken == objects && objects > 0, "{what}: {taken} of {objects} objects were taken");
    Ok(())
}

/// The objects that this cluster has the kind of: Prometheus' ServiceMonitor is not one.
fn known(yaml: &str) -> String {
    let objects = yaml.split("\n---\n").filter(|object| !object.contains("monitoring.coreos.com"));
    objects.collect::<Vec<_>>().join("\n---\n")
}

#[tokio::test]
async fn the_chart_with_any_value_renders_what_the_api_server_takes() -> Result<()> {
    let all: Vec<_> =
        SETTINGS.iter().flat_map(|(path, value, needs)| [&[(*path, *value)][..], needs].concat()).collect();
    // a part that a value switches off is not seen with that value, and one class of two has its export
    let shown: Vec<_> =
        all.iter().copied().filter(|(path, value)| *value != "false" && *path != "controller.replicas").collect();
    validate("every value at once", &known(&rendered(&shown)?)).await?;
    for (path, value) in all.into_iter().filter(|(path, value)| *value == "false" || *path == "controller.replicas") {
        validate(path, &rendered(&[(path, value)])?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_takes_the_manifests_and_the_examples() -> Result<()> {
    for folder in ["deploy/manifests", "deploy/examples", "deploy/agent"] {
        for entry in std::fs::read_dir(repository(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "yaml") && !path.ends_with("values.yaml") {
                validate(&path.display().to_string(), &std::fs::read_to_string(&path)?).await?;
            }
        }
    }
    Ok(())
}
