//! The chart without a cluster: what it renders, and what it refuses. Needs Helm, which `build` makes.
use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::{repository, tool};
use serde_json::Value;

/// Paths of values, and what they are set to, in JSON.
type Values = &'static [(&'static str, &'static str)];

/// Runs `helm template` with `--set-json PATH=VALUE` for each pair; its output, or what it complained of.
fn render(values: &[(&str, &str)]) -> Result<Result<String, String>> {
    let sets = values.iter().flat_map(|(path, value)| ["--set-json".to_owned(), format!("{path}={value}")]);
    let output = Command::new(tool("helm"))
        .args(["template", "csi-nfs", ".", "--namespace", "kube-system"])
        .args(sets)
        .current_dir(repository("deploy/helm/csi-nfs"))
        .output()
        .context("no helm: e2e/kubernetes/build makes it")?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    Ok(if output.status.success() { Ok(stdout) } else { Err(stderr) })
}

fn rendered(values: &[(&str, &str)]) -> Result<String> {
    render(values)?.map_err(|complaint| anyhow::anyhow!("{values:?}: {complaint}"))
}

/// The paths of values.yaml that a person sets: whatever is not a map with something in it.
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

/// A map of quantities is one value to a person, though values.yaml has several lines for it.
fn settable(leaf: &str) -> &str {
    leaf.split_once(".resources.").map_or(leaf, |(owner, _)| &leaf[..owner.len() + ".resources".len()])
}

/// Each value with another setting than the default, and what else it needs to show.
const SETTINGS: &[(&str, &str, Values)] = &[
    ("controller.affinity", r#"{"podAntiAffinity":{}}"#, &[]),
    ("controller.extraArgs", r#"["--extra"]"#, &[]),
    ("controller.nodeSelector", r#"{"disk":"none"}"#, &[]),
    ("controller.podAnnotations", r#"{"note":"x"}"#, &[]),
    ("controller.podDisruptionBudget.enabled", "false", &[]),
    ("controller.podLabels", r#"{"team":"storage"}"#, &[]),
    ("controller.priorityClassName", r#""high""#, &[]),
    ("controller.replicas", "1", &[]),
    ("controller.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[]),
    ("controller.tolerations", "[]", &[]),
    ("driver.defaultOnDelete", r#""archive""#, &[]),
    ("driver.inlineVolumes", "true", &[]),
    ("driver.logFormat", r#""text""#, &[]),
    ("driver.mountOptions", r#"["nfsvers=4.1","hard"]"#, &[]),
    ("driver.mountPermissions", r#""0770""#, &[]),
    ("driver.name", r#""nfs.csi.k8s.io""#, &[]),
    ("driver.replaceArchive", "true", &[]),
    ("driver.shutdownGraceSeconds", "60", &[]),
    ("driver.statsCacheMinutes", "1", &[]),
    ("driver.verbosity", "5", &[]),
    (
        "exports",
        r#"{"main":{"server":"nfs.example.org","share":"/share"},"v6":{"server":"[fd00::1]","share":"/"}}"#,
        &[],
    ),
    ("image.pullPolicy", r#""Always""#, &[]),
    ("image.repository", r#""registry.example.org/csi-nfs""#, &[]),
    ("image.tag", r#""next""#, &[]),
    ("imagePullSecrets", r#"[{"name":"registry"}]"#, &[]),
    ("metrics.address", r#""[::]""#, &[("metrics.enabled", "true")]),
    ("metrics.enabled", "true", &[]),
    ("metrics.port", "9000", &[("metrics.enabled", "true")]),
    ("metrics.serviceMonitor.enabled", "true", &[("metrics.enabled", "true")]),
    (
        "metrics.serviceMonitor.interval",
        r#""5m""#,
        &[("metrics.enabled", "true"), ("metrics.serviceMonitor.enabled", "true")],
    ),
    (
        "metrics.serviceMonitor.labels",
        r#"{"release":"prometheus"}"#,
        &[("metrics.enabled", "true"), ("metrics.serviceMonitor.enabled", "true")],
    ),
    ("node.affinity", r#"{"nodeAffinity":{}}"#, &[]),
    ("node.extraArgs", r#"["--extra"]"#, &[]),
    ("node.kubeletDir", r#""/var/snap/kubelet""#, &[]),
    ("node.maxUnavailable", "1", &[]),
    ("node.nodeSelector", r#"{"disk":"none"}"#, &[]),
    ("node.podAnnotations", r#"{"note":"x"}"#, &[]),
    ("node.podLabels", r#"{"team":"storage"}"#, &[]),
    ("node.priorityClassName", r#""high""#, &[]),
    ("node.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[]),
    ("node.tolerations", "[]", &[]),
    ("rbac.secretNamespaces", r#"["storage"]"#, &[]),
    ("sidecars.kubeApiBurst", "10", &[]),
    ("sidecars.kubeApiQps", "5", &[]),
    ("sidecars.provisioner.extraArgs", r#"["--extra"]"#, &[]),
    ("sidecars.provisioner.image.repository", r#""mirror/provisioner""#, &[]),
    ("sidecars.provisioner.image.tag", r#""v7""#, &[]),
    ("sidecars.provisioner.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[]),
    ("sidecars.provisioner.timeout", r#""5m""#, &[]),
    ("sidecars.provisioner.workerThreads", "7", &[]),
    ("sidecars.resizer.extraArgs", r#"["--extra"]"#, &[]),
    ("sidecars.resizer.image.repository", r#""mirror/resizer""#, &[]),
    ("sidecars.resizer.image.tag", r#""v7""#, &[]),
    ("sidecars.resizer.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[]),
    ("sidecars.resizer.timeout", r#""5m""#, &[]),
    ("sidecars.resizer.workerThreads", "7", &[]),
    ("sidecars.snapshotter.extraArgs", r#"["--extra"]"#, &[("snapshots.enabled", "true")]),
    ("sidecars.snapshotter.image.repository", r#""mirror/snapshotter""#, &[("snapshots.enabled", "true")]),
    ("sidecars.snapshotter.image.tag", r#""v9""#, &[("snapshots.enabled", "true")]),
    ("sidecars.snapshotter.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[("snapshots.enabled", "true")]),
    ("sidecars.snapshotter.timeout", r#""5m""#, &[("snapshots.enabled", "true")]),
    ("sidecars.snapshotter.workerThreads", "7", &[("snapshots.enabled", "true")]),
    ("sidecars.verbosity", "5", &[]),
    ("snapshots.controller.image.repository", r#""mirror/controller""#, WITH_CONTROLLER),
    ("snapshots.controller.image.tag", r#""v9""#, WITH_CONTROLLER),
    ("snapshots.controller.install", "true", &[("snapshots.enabled", "true")]),
    ("snapshots.controller.replicas", "1", WITH_CONTROLLER),
    ("snapshots.controller.resources", r#"{"limits":{"memory":"64Mi"}}"#, WITH_CONTROLLER),
    ("snapshots.enabled", "true", &[]),
    ("storageCapacity.enabled", "false", &[]),
    ("storageCapacity.pollInterval", r#""10m""#, &[]),
    (
        "storageClasses",
        r#"[{"name":"nfs","export":"main","default":true,"parameters":{"subDir":"${pvc.metadata.name}","onDelete":"archive"}},
            {"name":"own","reclaimPolicy":"Retain","volumeBindingMode":"WaitForFirstConsumer","allowVolumeExpansion":false,"mountOptions":["soft"],
             "annotations":{"note":"x"},"parameters":{"server":"nfs.example.org","share":"/other"}}]"#,
        &[("exports.main", r#"{"server":"nfs.example.org","share":"/share","mountOptions":["nconnect=4"]}"#)],
    ),
    ("volumeAttributesClasses", r#"[{"name":"keep","parameters":{"onDelete":"retain"}}]"#, &[]),
    (
        "volumeSnapshotClasses",
        r#"[{"name":"snap","default":true,"deletionPolicy":"Retain","parameters":{"a":"b"}}]"#,
        &[("snapshots.enabled", "true")],
    ),
];
const WITH_CONTROLLER: Values = &[("snapshots.enabled", "true"), ("snapshots.controller.install", "true")];

/// What changed from `before` to `after`, with the object's name at the head of each hunk.
fn difference(before: &str, after: &str) -> String {
    similar::TextDiff::from_lines(before, after).unified_diff().context_radius(0).to_string()
}

#[test]
fn every_value_has_its_place_in_what_is_rendered() -> Result<()> {
    let known: BTreeSet<_> = every_value()?.iter().map(|leaf| settable(leaf).to_owned()).collect();
    let tried: BTreeSet<_> = SETTINGS.iter().map(|(path, ..)| (*path).to_owned()).collect();
    ensure!(known == tried, "not in both: {:?}", known.symmetric_difference(&tried).collect::<Vec<_>>());
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
    // line numbers tell nothing and change with every edit of a template
    let hunks = report.lines().map(|line| if line.starts_with("@@ ") { "@@" } else { line });
    insta::assert_snapshot!(hunks.collect::<Vec<_>>().join("\n"));
    Ok(())
}

#[test]
fn a_value_of_the_wrong_shape_fails_at_install() -> Result<()> {
    for leaf in every_value()? {
        let path = settable(&leaf);
        let complaint = render(&[(path, r#"{"nonsense":[1]}"#)])?.err();
        let complaint = complaint.with_context(|| format!("{path} took nonsense"))?;
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
        let complaint = complaint.with_context(|| format!("{owner}nonsense was taken"))?;
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
        (&[("volumeSnapshotClasses", r#"[{"name":"a"}]"#)], "volumeSnapshotClasses need snapshots.enabled=true"),
        (&[("snapshots.controller.install", "true")], "snapshots.controller.install needs snapshots.enabled=true"),
        (&[("metrics.serviceMonitor.enabled", "true")], "metrics.serviceMonitor.enabled needs metrics.enabled=true"),
        (&[("driver.mountPermissions", r#""777""#)], "mountPermissions"),
        (&[("driver.name", r#""Upper Case""#)], "name"),
        (&[("driver.mountOptions", r#"["a,b"]"#)], "mountOptions"),
        (&[("controller.replicas", "-1")], "replicas"),
        (&[("node.kubeletDir", r#""var/lib""#)], "kubeletDir"),
    ];
    for (values, expected) in cases {
        let complaint = render(values)?.err().with_context(|| format!("{values:?} was taken"))?;
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
    ensure!(now == committed, "deploy/manifests is not what the chart renders: run deploy/render");
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
