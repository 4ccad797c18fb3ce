//! csi-sanity, the conformance tests of CSI, against the driver and a real server. No spec fails, and exactly the specs
//! in `e2e/sanity/skipped.txt` are skipped, for the reasons in `e2e/README.md`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rstest::rstest;
use serde_json::Value;

use crate::support::{Driver, Lab, Place};

/// The path of csi-sanity, which `make csi-sanity` builds.
fn program() -> PathBuf {
    let cache = std::env::var_os("CSI_NFS_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/csi-nfs")));
    cache.unwrap().join("csi-sanity")
}

/// The specs in a report of Ginkgo, each as its outcome and its full name.
fn specs(report: &Value) -> Vec<(String, String)> {
    let specs = report.as_array().unwrap().iter().flat_map(|suite| suite["SpecReports"].as_array().unwrap());
    specs
        .filter(|spec| spec["LeafNodeType"] == "It")
        .map(|spec| {
            let containers = spec["ContainerHierarchyTexts"].as_array();
            let mut words: Vec<&str> = containers.into_iter().flatten().filter_map(Value::as_str).collect();
            words.extend(spec["LeafNodeText"].as_str());
            (spec["State"].as_str().unwrap().to_owned(), words.join(" "))
        })
        .collect()
}

// csi-sanity asks for volumes of 10 GiB: more than these exports have, which nothing enforces, so nothing refuses them.
#[rstest]
#[case::of_4_gib(Place::Xfs)]
#[case::of_320_mib(Place::SmallXfs)]
#[tokio::test]
async fn csi_sanity_finds_nothing_on_an_export_and_skips_what_the_driver_rightly_lacks(#[case] place: Place) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    let driver = Driver::start().await;
    let parameters = driver.path("parameters.yaml");
    fs::write(&parameters, format!("server: \"{}\"\nshare: \"{}\"\n", share.server, share.share)).unwrap();
    let (report, output) = (driver.path("report.json"), driver.path("csi-sanity.log"));
    let log = File::create(&output).unwrap();
    let status = Command::new(program())
        .arg(format!("--csi.endpoint=unix://{}", driver.socket().display()))
        .arg(format!("--csi.testvolumeparameters={}", parameters.display()))
        .arg(format!("--csi.mountdir={}", driver.path("mount").display()))
        .arg(format!("--csi.stagingdir={}", driver.path("staging").display()))
        .arg("--ginkgo.no-color")
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .expect("csi-sanity is missing; run `make csi-sanity` to build it");
    let output = fs::read_to_string(output).unwrap();
    let report = fs::read_to_string(report).unwrap_or_else(|_| panic!("csi-sanity did not run:\n{output}"));
    let specs = specs(&serde_json::from_str(&report).unwrap());
    // csi-sanity marks specs that it omits as pending.
    let with = |states: &[&str]| {
        specs.iter().filter(|(state, _)| states.contains(&state.as_str())).map(|(_, name)| name.clone()).collect()
    };
    let (passed, skipped): (BTreeSet<String>, BTreeSet<String>) = (with(&["passed"]), with(&["skipped", "pending"]));
    eprintln!("csi-sanity: {} specs, {} passed, {} skipped", specs.len(), passed.len(), skipped.len());
    assert!(status.success() && passed.len() + skipped.len() == specs.len(), "{specs:#?}\n{output}");
    assert!(passed.len() + skipped.len() > 80, "too few specs: {specs:?}");

    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/sanity/skipped.txt");
    let list = fs::read_to_string(list).unwrap();
    let allowed: BTreeSet<String> = list.lines().map(str::to_owned).collect();
    let more: Vec<_> = skipped.difference(&allowed).collect();
    let fewer: Vec<_> = allowed.difference(&skipped).collect();
    assert!(
        more.is_empty() && fewer.is_empty(),
        "skipped, but not listed: {more:#?}\nlisted, but not skipped: {fewer:#?}"
    );
    assert!(share.names().is_empty(), "csi-sanity left volumes: {:?}", share.names());
}
