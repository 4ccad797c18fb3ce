//! The chart without a cluster: its output, and the values that it refuses. The tests need Helm, which `build` builds.
use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use csi_nfs_e2e_kubernetes::template::{SETTINGS, Values, render, render_with, rendered};
use csi_nfs_e2e_kubernetes::{repository, tool};
use serde_json::Value;

/// Adds the paths in values.yaml that an administrator sets: everything except maps with content.
fn leaves(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(&format!("{prefix}{}{key}", if prefix.is_empty() { "" } else { "." }), value, found);
            }
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

fn every_value() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository("deploy/helm/csi-nfs/values.yaml"))?;
    let mut found = BTreeSet::new();
    leaves("", &serde_saphyr::from_str(&text)?, &mut found);
    Ok(found)
}

/// The path that an administrator sets for a leaf. The quantities in `resources` are one value, although values.yaml
/// has several lines for them.
fn settable(leaf: &str) -> &str {
    leaf.split_once(".resources.").map_or(leaf, |(owner, _)| &leaf[..owner.len() + ".resources".len()])
}

/// The changes from `before` to `after`, as a unified diff without context.
fn difference(before: &str, after: &str) -> String {
    similar::TextDiff::from_lines(before, after).unified_diff().context_radius(0).to_string()
}

#[test]
fn every_value_has_its_place_in_what_is_rendered() -> Result<()> {
    let known: BTreeSet<_> = every_value()?.iter().map(|leaf| settable(leaf).to_owned()).collect();
    let tried: BTreeSet<_> = SETTINGS.iter().map(|(path, ..)| (*path).to_owned()).collect();
    ensure!(
        known == tried,
        "only in values.yaml or only in SETTINGS: {:?}",
        known.symmetric_difference(&tried).collect::<Vec<_>>()
    );
    let mut report = String::new();
    for (path, value, needs) in SETTINGS {
        let before = rendered(needs)?;
        let after = rendered(&[needs, &[(*path, *value)][..]].concat())?;
        ensure!(before != after, "{path} changes nothing");
        report += &format!(
            "## {path}={}\n{}\n",
            value.split_whitespace().collect::<Vec<_>>().join(" "),
            difference(&before, &after)
        );
    }
    // Line numbers have no information and change with every edit of a template.
    let hunks = report.lines().map(|line| if line.starts_with("@@ ") { "@@" } else { line });
    insta::assert_snapshot!(hunks.collect::<Vec<_>>().join("\n"));
    Ok(())
}

#[test]
fn a_value_of_the_wrong_shape_fails_at_install() -> Result<()> {
    for leaf in every_value()? {
        let path = settable(&leaf);
        let complaint = render(&[(path, r#"{"nonsense":[1]}"#)])?.err();
        let complaint = complaint.with_context(|| format!("{path} accepted nonsense"))?;
        ensure!(complaint.contains("values don't meet the specifications of the schema"), "{path}: {complaint}");
    }
    Ok(())
}

#[test]
fn an_unknown_value_fails_at_install_wherever_it_stands() -> Result<()> {
    let mut owners: BTreeSet<String> = [String::new()].into();
    for leaf in every_value()? {
        let parts: Vec<_> = leaf.split('.').collect();
        owners.extend((1..parts.len()).map(|n| parts[..n].join(".") + "."));
    }
    for owner in owners.iter().filter(|o| !o.ends_with("requests.") && !o.ends_with("limits.")) {
        let complaint = render(&[(&format!("{owner}nonsense"), "1")])?.err();
        let complaint = complaint.with_context(|| format!("{owner}nonsense was accepted"))?;
        ensure!(complaint.contains("nonsense"), "{owner}: {complaint}");
    }
    Ok(())
}

#[test]
fn a_value_that_cannot_work_is_refused_with_its_name() -> Result<()> {
    let cases: &[(Values, &str)] = &[
        (
            &[("storageClasses", r#"[{"name":"a","export":"missing"}]"#)],
            r#"a names the export "missing", which is not in exports"#,
        ),
        (
            &[("storageClasses", r#"[{"name":"a"}]"#)],
            "a has neither an export nor parameters.server and parameters.share",
        ),
        (
            &[("storageClasses", r#"[{"name":"a","parameters":{"server":"x","share":"/","onDelete":"Delete"}}]"#)],
            "onDelete",
        ),
        (&[("storageClasses", r#"[{"name":"a","parameters":{"server":"x","share":"/","sub":"x"}}]"#)], "sub"),
        (&[("storageClasses", r#"[{"name":"a","parameters":{"server":"-x","share":"/"}}]"#)], "server"),
        (&[("storageClasses", r#"[{"name":"a","parameters":{"server":"x","share":"y"}}]"#)], "share"),
        (
            &[(
                "storageClasses",
                r#"[{"name":"a","parameters":{"server":"x","share":"/","mountPermissions":"0888"}}]"#,
            )],
            "mountPermissions",
        ),
        (&[("volumeSnapshotClasses", r#"[{"name":"a"}]"#)], "volumeGroupSnapshotClasses need snapshots.enabled=true"),
        (&[("snapshots.controller.install", "true")], "snapshots.controller.install needs snapshots.enabled=true"),
        (&[("metrics.serviceMonitor.enabled", "true")], "metrics.serviceMonitor.enabled needs metrics.enabled=true"),
        (&[("metrics.dashboards.enabled", "true")], "metrics.dashboards.enabled needs metrics.enabled=true"),
        (&[("metrics.rules.enabled", "true")], "metrics.rules.enabled needs metrics.enabled=true"),
        (&[("metrics.rules.thresholds.exportFree", "10")], "exportFree"),
        (&[("metrics.rules.runbooks", r#""https://x # y""#)], "runbooks"),
        (&[("controller.hostNetwork", "true"), ("metrics.enabled", "true")], "metrics.controllerPort must differ"),
        (
            &[("controller.hostNetwork", "true"), ("networkPolicy.enabled", "true")],
            "networkPolicy.enabled has no effect",
        ),
        (&[("agent.enabled", "true")], "agent.enabled needs agent.exports"),
        (
            &[("agent.enabled", "true"), ("agent.exports", r#"{"main":"/srv"}"#)],
            "agent.enabled needs agent.nodeSelector or agent.affinity",
        ),
        (
            &[
                ("agent.enabled", "true"),
                ("agent.exports", r#"{"main":"/srv"}"#),
                ("agent.nodeSelector", r#"{"a":"b"}"#),
            ],
            r#"agent.exports names the export "main", which is not in exports"#,
        ),
        (&[("agent.exports", r#"{"main":"srv"}"#)], "main"),
        (&[("image.digest", r#""latest""#)], "digest"),
        (&[("networkPolicy.servers", r#"["nfs.example.org"]"#)], "servers"),
        (&[("networkPolicy.tenants", r#"["team"]"#)], "networkPolicy.tenants needs networkPolicy.servers"),
        (&[("driver.mountPermissions", r#""777""#)], "mountPermissions"),
        (&[("driver.name", r#""Upper Case""#)], "name"),
        (
            &[("controller.tls.secretName", r#""keys""#)],
            "controller.tls.secretName needs controller.client=own or auto",
        ),
        (&[("driver.mountOptions", r#"["a,b"]"#)], "mountOptions"),
        (&[("controller.replicas", "-1")], "replicas"),
        (&[("node.kubeletDir", r#""var/lib""#)], "kubeletDir"),
    ];
    for (values, expected) in cases {
        let complaint = render(values)?.err().with_context(|| format!("{values:?} was accepted"))?;
        ensure!(complaint.contains(expected), "{values:?}: {complaint}");
    }
    Ok(())
}

#[test]
fn the_manifests_are_the_chart_rendered() -> Result<()> {
    let fresh = std::env::temp_dir().join(format!("csi-nfs-manifests-{}", std::process::id()));
    let status = Command::new(repository("deploy/render")).arg(&fresh).env("HELM", tool("helm")).status()?;
    ensure!(status.success());
    let read = |folder: &std::path::Path| -> Result<Vec<_>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            files.push((entry.file_name(), std::fs::read_to_string(entry.path())?));
        }
        files.sort();
        Ok(files)
    };
    let (now, committed) = (read(&fresh)?, read(&repository("deploy/manifests"))?);
    std::fs::remove_dir_all(&fresh)?;
    ensure!(now == committed, "deploy/manifests differs from the chart's output; run deploy/render");
    Ok(())
}

#[test]
fn the_chart_lints_with_the_values_of_the_examples() -> Result<()> {
    let output = Command::new(tool("helm"))
        .args(["lint", "--strict", ".", "--values", "../../examples/values.yaml"])
        .current_dir(repository("deploy/helm/csi-nfs"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn the_chart_installs_from_the_oldest_version_on_that_is_tested() -> Result<()> {
    let module = std::fs::read_to_string(repository("e2e/kubernetes/oldest/go.mod"))?;
    let (_, pinned) = module.split_once("k8s.io/kubernetes v1.").context("go.mod does not pin Kubernetes")?;
    let minor: u32 = pinned.split('.').next().context("no minor version")?.parse()?;
    let on = |minor: u32| render_with(&[], &["--kube-version", &format!("v1.{minor}.0-provider.1")]);
    on(minor)?.map_err(|complaint| anyhow!("on Kubernetes 1.{minor}: {complaint}"))?;
    let complaint = on(minor - 1)?.err().with_context(|| format!("installs on Kubernetes 1.{}", minor - 1))?;
    ensure!(complaint.contains("chart requires kubeVersion"), "{complaint}");
    for document in ["docs/install.md", "docs/support.md"] {
        let text = std::fs::read_to_string(repository(document))?;
        ensure!(text.contains(&format!("1.{minor}")), "{document} does not name Kubernetes 1.{minor}");
    }
    Ok(())
}

#[test]
fn classes_of_volume_attributes_are_left_out_before_the_version_that_brought_them() -> Result<()> {
    let values = [("volumeAttributesClasses", r#"[{"name":"keep","parameters":{"onDelete":"retain"}}]"#)];
    for (version, there) in [("v1.30.0", false), ("v1.33.9-provider.1", false), ("v1.34.0-provider.1", true)] {
        let rendered = render_with(&values, &["--kube-version", version])?.map_err(|complaint| anyhow!(complaint))?;
        ensure!(rendered.contains("kind: VolumeAttributesClass") == there, "on Kubernetes {version}");
    }
    Ok(())
}

#[test]
fn a_release_without_the_controller_has_none_of_the_objects_that_another_release_has() -> Result<()> {
    let exports = r#"{"main":{"server":"nfs.example.org","share":"/share"}}"#;
    let values = [
        ("controller.enabled", "false"),
        ("exports", exports),
        ("storageClasses", r#"[{"name":"a","export":"main"}]"#),
        ("volumeAttributesClasses", r#"[{"name":"a","parameters":{"onDelete":"retain"}}]"#),
        ("snapshots.enabled", "true"),
        ("volumeSnapshotClasses", r#"[{"name":"a"}]"#),
        ("volumeGroupSnapshotClasses", r#"[{"name":"a"}]"#),
    ];
    let kinds =
        ["CSIDriver", "StorageClass", "VolumeAttributesClass", "VolumeSnapshotClass", "VolumeGroupSnapshotClass"];
    let (whole, apart) = (rendered(&values[1..])?, rendered(&values)?);
    for kind in kinds.map(|kind| format!("kind: {kind}\n")) {
        ensure!(whole.contains(&kind) && !apart.contains(&kind), "{kind}");
    }
    ensure!(apart.contains("kind: DaemonSet"), "{apart}");
    Ok(())
}
