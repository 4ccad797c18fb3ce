//! The chart without a cluster: the output of `helm template`, and a test setting for every value.
use std::process::Command;

use anyhow::{Context, Result};

use crate::{repository, tool};

/// Paths of values, and their settings in JSON.
pub type Values = &'static [(&'static str, &'static str)];

/// Runs `helm template` with `--set-json PATH=VALUE` for each pair, and the arguments `more`. Returns its output, or
/// its error message.
pub fn render_with(values: &[(&str, &str)], more: &[&str]) -> Result<Result<String, String>> {
    let sets = values.iter().flat_map(|(path, value)| ["--set-json".to_owned(), format!("{path}={value}")]);
    let output = Command::new(tool("helm"))
        .args(["template", "csi-nfs", ".", "--namespace", "kube-system"])
        .args(sets)
        .args(more)
        .current_dir(repository("deploy/helm/csi-nfs"))
        .output()
        .context("cannot run helm; run e2e/kubernetes/build to build it")?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    Ok(if output.status.success() { Ok(stdout) } else { Err(stderr) })
}

/// Like [`render_with`], for the version of Kubernetes that Helm knows.
pub fn render(values: &[(&str, &str)]) -> Result<Result<String, String>> {
    render_with(values, &[])
}

/// Like [`render`], for valid values.
pub fn rendered(values: &[(&str, &str)]) -> Result<String> {
    render(values)?.map_err(|complaint| anyhow::anyhow!("{values:?}: {complaint}"))
}

/// Each value with a setting other than the default, and the other values that it needs to have an effect.
pub const SETTINGS: &[(&str, &str, Values)] = &[
    ("agent.address", r#""[::]""#, WITH_AGENT),
    ("agent.affinity", r#"{"nodeAffinity":{}}"#, WITH_AGENT),
    ("agent.enabled", "true", WITH_EXPORTS),
    ("agent.exports", r#"{"main":"/srv/nfs","other.export":"/data/other"}"#, WITH_AGENT),
    ("agent.extraArgs", r#"["--extra"]"#, WITH_AGENT),
    ("agent.nodeSelector", r#"{"disk":"none"}"#, WITH_AGENT),
    ("agent.podAnnotations", r#"{"note":"x"}"#, WITH_AGENT),
    ("agent.podLabels", r#"{"team":"storage"}"#, WITH_AGENT),
    ("agent.priorityClassName", r#""high""#, WITH_AGENT),
    ("agent.projectIds", r#""1000-2000""#, WITH_AGENT),
    ("agent.resources", r#"{"limits":{"memory":"128Mi"}}"#, WITH_AGENT),
    ("agent.seLinuxOptions", r#"{"type":"spc_t"}"#, WITH_AGENT),
    ("agent.serviceAccountAnnotations", r#"{"note":"x"}"#, WITH_AGENT),
    ("agent.tolerations", "[]", WITH_AGENT),
    ("commonLabels", r#"{"cost-center":"storage"}"#, &[]),
    ("controller.affinity", r#"{"podAntiAffinity":{}}"#, &[]),
    ("controller.appArmorProfile", r#"{"type":"Unconfined"}"#, &[]),
    ("controller.client", r#""own""#, &[]),
    ("controller.dnsPolicy", r#""Default""#, &[]),
    ("controller.enabled", "false", &[]),
    ("controller.extraArgs", r#"["--extra"]"#, &[]),
    ("controller.extraEnv", r#"[{"name":"A","value":"b"}]"#, &[]),
    ("controller.extraVolumeMounts", r#"[{"name":"keys","mountPath":"/keys"}]"#, CONTROLLER_KEYS),
    ("controller.extraVolumes", r#"[{"name":"keys","emptyDir":{}}]"#, &[]),
    ("controller.hostNetwork", "true", &[]),
    ("controller.nodeSelector", r#"{"disk":"none"}"#, &[]),
    ("controller.podAnnotations", r#"{"note":"x"}"#, &[]),
    ("controller.podDisruptionBudget.enabled", "false", &[]),
    ("controller.podLabels", r#"{"team":"storage"}"#, &[]),
    ("controller.priorityClassName", r#""high""#, &[]),
    ("controller.replicas", "1", &[]),
    ("controller.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[]),
    ("controller.seLinuxOptions", r#"{"type":"spc_t"}"#, &[]),
    ("controller.serviceAccountAnnotations", r#"{"note":"x"}"#, &[]),
    ("controller.tls.secretName", r#""nfs-tls""#, &[("controller.client", r#""own""#)]),
    ("controller.tolerations", "[]", &[]),
    (
        "controller.topologySpreadConstraints",
        r#"[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway"}]"#,
        &[],
    ),
    ("driver.defaultOnDelete", r#""archive""#, &[]),
    ("driver.inlineVolumes", "true", &[]),
    ("driver.logFormat", r#""text""#, &[]),
    ("driver.mountOptions", r#"["nfsvers=4.1","hard"]"#, &[]),
    ("driver.mountPermissions", r#""0770""#, &[]),
    ("driver.name", r#""nfs.csi.k8s.io""#, &[]),
    ("driver.replaceArchive", "true", &[]),
    ("driver.seLinuxMount", "true", &[]),
    ("driver.shutdownGraceSeconds", "60", &[]),
    ("driver.statsCacheMinutes", "1", &[]),
    ("driver.verbosity", "5", &[]),
    ("driver.otlpEndpoint", "\"http://collector.example.org:4317\"", &[]),
    (
        "exports",
        concat!(
            r#"{"main":{"server":"nfs.example.org","share":"/share"},"#,
            r#""v6":{"server":"[fd00::1]","share":"/","mountOptions":["vers=4.1","xprtsec=tls"]}}"#,
        ),
        &[],
    ),
    ("fullnameOverride", r#""storage""#, &[]),
    ("image.digest", r#""sha256:0000000000000000000000000000000000000000000000000000000000000000""#, &[]),
    ("image.pullPolicy", r#""Always""#, &[]),
    ("image.repository", r#""registry.example.org/csi-nfs""#, &[]),
    ("image.tag", r#""next""#, &[]),
    ("imagePullSecrets", r#"[{"name":"registry"}]"#, &[]),
    ("metrics.address", r#""[::]""#, &[("metrics.enabled", "true")]),
    ("metrics.controllerPort", "9190", &[("metrics.enabled", "true")]),
    ("metrics.dashboards.enabled", "true", &[("metrics.enabled", "true")]),
    (
        "metrics.dashboards.labels.grafana_dashboard",
        r#""yes""#,
        &[("metrics.enabled", "true"), ("metrics.dashboards.enabled", "true")],
    ),
    ("metrics.enabled", "true", &[]),
    ("metrics.rules.enabled", "true", &[("metrics.enabled", "true")]),
    ("metrics.rules.labels", r#"{"release":"prometheus"}"#, WITH_RULES),
    ("metrics.rules.runbooks", r#""https://example.org/alerts""#, WITH_RULES),
    ("metrics.rules.thresholds.agentSeconds", "1800", WITH_RULES),
    ("metrics.rules.thresholds.callsFailing", "0.5", WITH_RULES),
    ("metrics.rules.thresholds.exportFree", "0.05", WITH_RULES),
    ("metrics.rules.thresholds.exportInodesFree", "0.02", WITH_RULES),
    ("metrics.rules.thresholds.exportPromised", "1.5", WITH_RULES),
    ("metrics.rules.thresholds.stagingSeconds", "3600", WITH_RULES),
    ("metrics.rules.thresholds.trashSeconds", "604800", WITH_RULES),
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
    ("nameOverride", r#""files""#, &[]),
    ("networkPolicy.apiServers", r#"["192.0.2.1/32"]"#, &[("networkPolicy.enabled", "true")]),
    ("networkPolicy.enabled", "true", &[]),
    ("networkPolicy.servers", r#"["192.0.2.10/32","fd00::/64"]"#, &[("networkPolicy.enabled", "true")]),
    (
        "networkPolicy.tenants",
        r#"["default","kube-public"]"#,
        &[("networkPolicy.servers", r#"["192.0.2.10/32","192.0.2.11/32","fd00::/64"]"#)],
    ),
    ("node.affinity", r#"{"nodeAffinity":{}}"#, &[]),
    ("node.enabled", "false", &[]),
    ("node.extraArgs", r#"["--extra"]"#, &[]),
    ("node.extraEnv", r#"[{"name":"A","value":"b"}]"#, &[]),
    ("node.extraVolumeMounts", r#"[{"name":"keys","mountPath":"/keys"}]"#, NODE_KEYS),
    ("node.extraVolumes", r#"[{"name":"keys","emptyDir":{}}]"#, &[]),
    ("node.kubeletDir", r#""/var/snap/kubelet""#, &[]),
    ("node.maxUnavailable", "1", &[]),
    ("node.nodeSelector", r#"{"disk":"none"}"#, &[]),
    ("node.podAnnotations", r#"{"note":"x"}"#, &[]),
    ("node.podLabels", r#"{"team":"storage"}"#, &[]),
    ("node.priorityClassName", r#""high""#, &[]),
    ("node.resources", r#"{"limits":{"memory":"64Mi"}}"#, &[]),
    ("node.seLinuxOptions", r#"{"type":"spc_t"}"#, &[]),
    ("node.serviceAccountAnnotations", r#"{"note":"x"}"#, &[]),
    ("node.tolerations", "[]", &[]),
    ("openshift.enabled", "true", &[]),
    ("rbac.secretNamespaces", r#"["default"]"#, &[]),
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
    ("storageCapacity.scheduling", "true", &[]),
    (
        "storageClasses",
        concat!(
            r#"[{"name":"nfs","export":"main","default":true,"#,
            r#""parameters":{"subDir":"${pvc.metadata.name}","onDelete":"archive", "#,
            r#""quota":"required","inodes":"65536/Gi","overcommit":"1.25","readOnlyFromSnapshot":"copy"}}, "#,
            r#"{"name":"own","reclaimPolicy":"Retain","volumeBindingMode":"WaitForFirstConsumer","#,
            r#""allowVolumeExpansion":false,"mountOptions":["soft","context=\"u:r:t:s0:c1,c2\""], "#,
            r#""annotations":{"note":"x"},"parameters":{"server":"nfs.example.org","share":"/other"}}]"#,
        ),
        &[("exports.main", r#"{"server":"nfs.example.org","share":"/share","mountOptions":["nconnect=4"]}"#)],
    ),
    ("tests.storageClass", r#""nfs""#, &[]),
    (
        "volumeAttributesClasses",
        r#"[{"name":"keep","parameters":{"onDelete":"retain","quota":"none","inodes":"0"}}]"#,
        &[],
    ),
    (
        "volumeGroupSnapshotClasses",
        r#"[{"name":"group","default":true,"deletionPolicy":"Retain","parameters":{"a":"b"}}]"#,
        &[("snapshots.enabled", "true")],
    ),
    (
        "volumeSnapshotClasses",
        r#"[{"name":"snap","default":true,"deletionPolicy":"Retain","parameters":{"a":"b"}}]"#,
        &[("snapshots.enabled", "true")],
    ),
];
const EXPORTS: &str = concat!(
    r#"{"main":{"server":"nfs.example.org","share":"/share"},"#,
    r#""other.export":{"server":"nfs.example.org","share":"/other"}}"#,
);
const NODES: (&str, &str) = ("agent.nodeSelector", r#"{"csi-nfs.rs/agent":""}"#);
const WITH_EXPORTS: Values = &[("exports", EXPORTS), ("agent.exports", r#"{"main":"/srv/nfs"}"#), NODES];
const WITH_AGENT: Values =
    &[("agent.enabled", "true"), ("exports", EXPORTS), ("agent.exports", r#"{"main":"/srv/nfs"}"#), NODES];
const WITH_RULES: Values = &[("metrics.enabled", "true"), ("metrics.rules.enabled", "true")];
const CONTROLLER_KEYS: Values = &[("controller.extraVolumes", r#"[{"name":"keys","emptyDir":{}}]"#)];
const NODE_KEYS: Values = &[("node.extraVolumes", r#"[{"name":"keys","emptyDir":{}}]"#)];
const WITH_CONTROLLER: Values = &[("snapshots.enabled", "true"), ("snapshots.controller.install", "true")];
