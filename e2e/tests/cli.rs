//! The binary's exit codes, output and signals.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

fn csi_nfs(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_csi-nfs"));
    command.args(words).env_clear().stdin(Stdio::null());
    command
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

/// A driver that serves on `csi.sock` in the directory.
struct Driver(Child);

impl Driver {
    fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    fn start_with(directory: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = csi_nfs(&["--mode=controller", "--endpoint=unix://csi.sock"]);
        command.envs(variables.iter().copied());
        let mut child = command.current_dir(directory).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the driver ended");
        }
        child.stderr = Some(log.into_inner());
        Self(child)
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn probe(directory: &Path) -> Output {
    csi_nfs(&["probe", "--endpoint=unix://csi.sock"]).current_dir(directory).output().unwrap()
}

#[rstest]
#[case(&[])]
#[case(&["--nodeid=n", "--endpoint=tcp://127.0.0.1:1"])]
#[case(&["--no-such-flag"])]
#[case(&["--nodeid=n", "--mode=x\ny"])]
fn bad_configuration_exits_64_with_one_line_and_binds_nothing(#[case] words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/csi.sock", directory.path().display());
    let output = csi_nfs(words).env("CSI_ENDPOINT", socket).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(text(&output.stdout), "");
    let line = text(&output.stderr);
    assert!(line.starts_with("csi-nfs: ") && line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// As in the manifest of the agent. It ends because the directory is missing.
#[test]
fn the_agent_takes_the_flags_of_all_parts_after_its_name() {
    let output = csi_nfs(&["agent", "--path=/no/such/directory", "--log-format=json", "-v=5"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/directory"));
}

#[rstest]
#[case("--version", concat!("csi-nfs ", env!("CARGO_PKG_VERSION")))]
#[case("--help", "Usage: csi-nfs")]
fn what_was_asked_for_goes_to_standard_output(#[case] word: &str, #[case] shown: &str) {
    let output = csi_nfs(&[word]).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains(shown));
}

#[rstest]
#[case(Signal::TERM)]
#[case(Signal::INT)]
fn a_driver_is_probed_and_ends_cleanly_when_it_is_told_to(#[case] signal: Signal) {
    let directory = tempfile::tempdir().unwrap();
    let mut driver = Driver::start(directory.path());
    let alive = probe(directory.path());
    assert_eq!((alive.status.code(), text(&alive.stderr)), (Some(0), ""));
    assert_eq!(driver.end(signal), Some(0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let gone = probe(directory.path());
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(text(&gone.stderr).lines().count(), 1);
}

#[test]
fn after_a_crash_the_next_instance_serves_on_the_same_socket() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(Driver::start(directory.path()).end(Signal::KILL), None);
    assert_eq!(probe(directory.path()).status.code(), Some(1));
    let _driver = Driver::start(directory.path());
    assert_eq!(probe(directory.path()).status.code(), Some(0));
}

#[test]
fn a_second_instance_takes_over_and_outlives_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = Driver::start(directory.path());
    let _second = Driver::start(directory.path());
    assert_eq!(first.end(Signal::TERM), Some(0));
    assert_eq!(probe(directory.path()).status.code(), Some(0));
}

/// The files of a bundle, by name.
fn files(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let file = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let (mut entry, mut text) = (entry.unwrap(), String::new());
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().display().to_string(), text)
    };
    archive.entries().unwrap().map(file).collect()
}

#[test]
fn a_bundle_has_status_settings_and_logs_of_the_driver_and_none_of_the_secrets_that_are_planted() {
    const PLANTED: [&str; 5] = ["planted-1", "planted-2", "planted-3", "planted-4", "planted5"];
    let directory = tempfile::tempdir().unwrap();
    let _driver = Driver::start_with(directory.path(), &[("NODE_ID", "token=planted-1")]);
    let log = "call failed password=planted-2\nAuthorization: Bearer planted-3\n\
               at nfs://admin:planted-4@host/\n-----BEGIN PRIVATE KEY-----\nplanted5\n";
    std::fs::write(directory.path().join("controller.log"), log).unwrap();
    let words = ["bundle", "--endpoint=unix://csi.sock", "--log=controller.log"];
    let made = csi_nfs(&words).current_dir(directory.path()).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let files = files(&made.stdout);
    let names: Vec<&str> = files.keys().map(|name| name.strip_prefix("csi-nfs-bundle/").unwrap()).collect();
    let expected = ["README.txt", "about.txt", "logs/1-controller.log", "settings.txt", "status.json", "status.txt"];
    assert_eq!(names, expected);
    let file = |name: &str| &*files[&format!("csi-nfs-bundle/{name}")];
    assert!(file("settings.txt").contains("--mode=controller\n"), "{}", file("settings.txt"));
    assert!(file("status.txt").contains("serves controller\n"), "{}", file("status.txt"));
    let status: serde_json::Value = serde_json::from_str(file("status.json")).unwrap();
    assert_eq!(status["state"], "serving");
    assert!(file("logs/1-controller.log").starts_with("call failed password=[redacted]\n"));
    for planted in PLANTED {
        assert!(!files.values().any(|text| text.contains(planted)), "{planted}: {files:#?}");
    }

    let again = ["bundle", "--endpoint=unix://csi.sock", "--output=controller.log"];
    let refused = csi_nfs(&again).current_dir(directory.path()).output().unwrap();
    assert_eq!((refused.status.code(), text(&refused.stderr).lines().count()), (Some(1), 1));
    assert_eq!(std::fs::read_to_string(directory.path().join("controller.log")).unwrap(), log);
}

#[test]
fn what_is_not_a_socket_is_kept_and_the_driver_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("csi.sock"), "kept").unwrap();
    let mut command = csi_nfs(&["--mode=controller", "--endpoint=unix://csi.sock"]);
    let output = command.current_dir(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert_eq!(std::fs::read_to_string(directory.path().join("csi.sock")).unwrap(), "kept");
}
