//! `deploy/kubectl-csi_nfs`, the plugin of kubectl, with a kubectl that notes its arguments.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// It notes each call as a line. It knows pods of a controller and of two nodes, and shows what it is given.
const KUBECTL: &str = r#"#!/bin/sh
echo "$*" >> "$NOTED"
case "$*" in
  *"get pods"*spec.nodeName=n2*component=node*) echo pod/node-2 ;;
  *"get pods"*spec.nodeName=*) ;;
  *"get pods"*component=controller*) echo pod/controller-1; echo pod/controller-2 ;;
  *"get pods"*) echo pod/controller-1; echo pod/node-2 ;;
  *"csi-nfs status"*) echo "status of $4" ;;
  *" logs "*) echo "log of $4"; exit 1 ;;
  *"csi-nfs bundle"*) cat ;;
esac
"#;

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let kubectl = directory.path().join("kubectl");
        fs::write(&kubectl, KUBECTL).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubectl-csi_nfs");
        let mut command = Command::new(plugin);
        command.args(words).env("PATH", path).env("NOTED", self.0.path().join("noted"));
        command.envs(variables.iter().copied()).output().unwrap()
    }

    fn noted(&self) -> Vec<String> {
        fs::read_to_string(self.0.path().join("noted")).unwrap().lines().map(str::to_owned).collect()
    }
}

const RUNNING: &str = "get pods --output=name --field-selector=status.phase=Running";

#[test]
fn a_command_runs_in_the_pod_of_the_controller_with_its_arguments() {
    let bench = Bench::new();
    let output = bench.run(&["doctor", "--export=nfs:/a b", "--format=json"], &[]);
    assert!(output.status.success(), "{output:?}");
    let selector = "--selector=app.kubernetes.io/instance=csi-nfs,app.kubernetes.io/component=controller";
    let expected = [
        format!("--namespace kube-system {RUNNING} {selector}"),
        "--namespace kube-system exec pod/controller-1 --container=csi-nfs -- /csi-nfs doctor --export=nfs:/a b \
         --format=json"
            .to_owned(),
    ];
    assert_eq!(bench.noted(), expected);
}

#[test]
fn a_command_runs_on_the_node_and_in_the_installation_that_are_named() {
    let bench = Bench::new();
    let installed = [("CSI_NFS_NAMESPACE", "storage"), ("CSI_NFS_RELEASE", "two"), ("CSI_NFS_NODE", "n2")];
    let output = bench.run(&["status"], &installed);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "status of pod/node-2\n");
    let selector = "--selector=app.kubernetes.io/instance=two,app.kubernetes.io/component=node";
    assert_eq!(bench.noted()[0], format!("--namespace storage {RUNNING},spec.nodeName=n2 {selector}"));

    let output = bench.run(&["status"], &[("CSI_NFS_NODE", "n9")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "kubectl csi-nfs: no pod of the node runs on n9\n");
}

#[test]
fn a_bundle_gets_the_status_and_the_logs_of_all_pods_also_where_one_fails() {
    let bench = Bench::new();
    let output = bench.run(&["bundle", "--export=nfs:/export"], &[]);
    assert!(output.status.success(), "{output:?}");
    let given = "== pod/controller-1\nstatus of pod/controller-1\nlog of pod/controller-1\n\
                 == pod/node-2\nstatus of pod/node-2\nlog of pod/node-2\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), given);
    let bundle = "--namespace kube-system exec --stdin pod/controller-1 --container=csi-nfs -- /csi-nfs bundle \
                  --export=nfs:/export --log=-";
    assert!(bench.noted().iter().any(|line| line == bundle), "{:#?}", bench.noted());
}
