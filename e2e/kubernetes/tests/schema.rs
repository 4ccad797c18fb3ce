//! Validates the chart's output, the manifests and the examples with a dry run on the API server: that of the cluster,
//! and that of the oldest Kubernetes which the chart supports. Runs before the driver is installed, because the API
//! server would validate a change of an object that exists.
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, ensure};
use csi_nfs_e2e_kubernetes::template::{SETTINGS, render_with};
use csi_nfs_e2e_kubernetes::{client, repository, tool};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Validates the objects of `yaml` on the API server. Unknown fields are errors.
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
    ensure!(taken == objects && objects > 0, "{what}: {taken} of {objects} objects were accepted");
    Ok(())
}

/// The chart's output with `values` for the version of the API server.
async fn rendered(values: &[(&str, &str)]) -> Result<String> {
    let version = client().await?.apiserver_version().await?.git_version;
    render_with(values, &["--kube-version", &version])?.map_err(|complaint| anyhow!("{values:?}: {complaint}"))
}

#[tokio::test]
async fn the_chart_with_any_value_renders_what_the_api_server_takes() -> Result<()> {
    let all: Vec<_> =
        SETTINGS.iter().flat_map(|(path, value, needs)| [&[(*path, *value)][..], needs].concat()).collect();
    // These are validated separately, and so is a value `false`, which removes a part of the chart.
    const ALONE: [&str; 3] = ["controller.replicas", "controller.hostNetwork", "controller.dnsPolicy"];
    let shown: Vec<_> =
        all.iter().copied().filter(|(path, value)| *value != "false" && !ALONE.contains(path)).collect();
    validate("every value at once", &rendered(&shown).await?).await?;
    for (path, value) in all.into_iter().filter(|(path, value)| *value == "false" || ALONE.contains(path)) {
        validate(path, &rendered(&[(path, value)]).await?).await?;
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

#[tokio::test]
async fn the_chart_installs_with_the_values_of_the_examples() -> Result<()> {
    let output = Command::new(tool("helm"))
        .args(["install", "csi-nfs", ".", "--namespace=kube-system", "--values=../../examples/values.yaml"])
        .args(["--dry-run=server", "--output=json"])
        .current_dir(repository("deploy/helm/csi-nfs"))
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let release: Value = serde_json::from_slice(&output.stdout)?;
    let [manifest, notes] = [&release["manifest"], &release["info"]["notes"]].map(Value::as_str);
    let (manifest, notes) = (manifest.context("no manifest")?, notes.context("no notes")?);
    validate("the values of the examples", manifest).await?;
    let (there, said) = (manifest.contains("kind: VolumeAttributesClass"), notes.contains("left out"));
    ensure!(there != said, "a class is left out and the notes do not say so, or the other way around: {notes}");
    Ok(())
}
