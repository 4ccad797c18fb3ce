//! `csi-nfs doctor`: each planted fault is named, and nothing else. Beside other tests, servers are slow or nearly full,
//! and the doctor says so.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use serde_json::Value;

use crate::quota::published;
use crate::support::driver::program;
use crate::support::lab::{Away, Outage, run};
use crate::support::names::Names;
use crate::support::servers::Kind;
use crate::support::{Driver, Lab, Place, Share, mounts, requests};

/// The verdicts that are not good, as `step verdict`, and the whole report.
fn examine(share: &Share, arguments: &[&str]) -> (Vec<String>, Value) {
    let export = format!("--export={}:{}", share.server, share.share);
    let output = Command::new(program()).args(["doctor", &export, "--format=json"]).args(arguments).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
    let steps = report["steps"].as_array().unwrap();
    let complaints: Vec<String> = steps
        .iter()
        .filter(|step| step["verdict"] != "good")
        .map(|step| format!("{} {}", text(step, "step"), text(step, "verdict")))
        .collect();
    let bad = complaints.iter().any(|complaint| complaint.ends_with(" bad"));
    assert_eq!(output.status.code(), Some(i32::from(bad)), "{report}");
    (complaints, report)
}

#[tokio::test]
async fn a_healthy_export_is_called_healthy_and_keeps_nothing_of_the_examination() {
    let lab = Lab::alone().await;
    for place in [Place::Xfs, Place::Tmpfs, Place::Ganesha] {
        let share = lab.share(place);
        assert_eq!(examine(&share, &[]).0, Vec::<String>::new(), "{place:?}");
        assert!(fs::read_dir(&share.path).unwrap().next().is_none());
        let driver = Driver::start().await;
        driver.create(requests::create(&share, "v")).await.unwrap();
        assert_eq!(examine(&share, &[]).0, Vec::<String>::new(), "{place:?}");
        assert_eq!(share.left_in("staging"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_the_export_lacks_is_named_and_nothing_else() {
    let lab = Lab::alone().await;
    let (complaints, report) = examine(&lab.share(Place::ReadOnly), &[]);
    assert_eq!(complaints, ["write bad"]);
    assert!(report.to_string().contains("read-only"), "{report}");

    let missing = Share { share: "/nowhere".into(), ..lab.share(Place::Tmpfs) };
    let (complaints, report) = examine(&missing, &[]);
    assert_eq!(complaints, ["mount bad"]);
    assert!(report.to_string().contains("/nowhere"), "{report}");

    let squashed = lab.serve(&Kind::of("rw,insecure,no_subtree_check,root_squash").owned_by(65534));
    assert_eq!(examine(squashed.share(), &[]).0, ["squash warning"]);

    let driver = Driver::start().await;
    squashed.create(&driver, "v", &[]).await;
    drop(driver);
    run("chown", ["-R", "root", squashed.share().path.join(".csi-nfs").to_str().unwrap()]);
    assert_eq!(examine(squashed.share(), &[]).0, ["write bad"], "root's folder is not to be written by nobody");

    let full = lab.serve(&Kind::of("rw,insecure,no_subtree_check,no_root_squash").mounted("size=1M"));
    let mut file = fs::File::create(full.share().path.join("big")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    assert_eq!(examine(full.share(), &[]).0, ["space bad"]);

    let version_3 = examine(&lab.share(Place::Tmpfs), &["--mount-options=vers=3"]);
    assert_eq!(version_3.0, ["locks warning"], "{}", version_3.1);
}

#[tokio::test]
async fn an_agent_that_no_longer_looks_is_named() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    fs::create_dir_all(share.path.join(".csi-nfs/quota")).unwrap();
    let agent = r#"{"version":"1","fileSystem":"xfs","holdsRoot":true,"looked":1000,"period":60}"#;
    fs::write(share.path.join(".csi-nfs/quota/agent.json"), agent).unwrap();
    Driver::start().await.create(requests::create(&share, "v")).await.unwrap();
    assert_eq!(examine(&share, &[]).0, ["agent bad"]);
}

#[tokio::test]
async fn a_server_that_is_away_is_told_from_one_that_does_not_answer_and_from_a_name_that_is_wrong() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    for (outage, expected) in [(Outage::Stopped, "port bad"), (Outage::Frozen, "rpc bad"), (Outage::CutOff, "port bad")]
    {
        let _away = lab.without_ganesha(outage);
        assert_eq!(examine(&share, &[]).0, [expected], "{outage:?}");
    }
    let refused = examine(&share, &["--mount-options=port=1"]);
    assert_eq!(refused.0, ["port bad"]);
    let nameless = examine(&share.by("nowhere.invalid"), &[]);
    assert_eq!(nameless.0, ["name bad"]);

    let _away = lab.without_version_4();
    let old = examine(&lab.share(Place::Tmpfs), &[]);
    assert_eq!(old.0, ["rpc warning", "locks warning"], "{}", old.1);
}

#[rstest]
#[case::server_foreign(|lab: &Lab| lab.with_certificates("good", "foreign"), Place::Xfs, "xprtsec=tls", "certificate")]
#[case::client_expired(
    |lab: &Lab| lab.with_certificates("expired", "good"), Place::MutualTls, "xprtsec=mtls", "certificate"
)]
#[case::tlshd_stopped(|lab: &Lab| lab.without_tlshd(), Place::Xfs, "xprtsec=tls", "tlshd")]
#[case::gssd_stopped(|lab: &Lab| lab.without_gssd(), Place::Kerberos, "sec=krb5p", "rpc.gssd")]
#[tokio::test]
async fn what_is_wrong_with_tls_and_kerberos_is_named(
    #[case] fault: fn(&Lab) -> Away,
    #[case] place: Place,
    #[case] security: &str,
    #[case] named: &str,
) {
    let lab = Lab::alone().await;
    let share = lab.share(place);
    // The kernel would share the connection of a mount that is not encrypted.
    mounts::no_nfs_is_left().await;
    let options = format!("--mount-options={security}");
    let (complaints, report) = examine(&share, &[&options]);
    assert_eq!(complaints, Vec::<String>::new(), "{report}");
    let _away = fault(&lab);
    let (complaints, report) = examine(&share, &[&options]);
    assert_eq!(complaints, ["mount bad"], "{report}");
    assert!(report.to_string().contains(named), "{report}");
}

#[tokio::test]
async fn a_server_that_takes_long_for_every_answer_is_named() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    let _slow = lab.with_delay("60ms");
    assert_eq!(examine(&share, &[]).0, ["rpc warning"]);
}

#[tokio::test]
async fn mounts_that_are_lost_because_the_export_has_another_fsid_are_named() {
    let lab = Lab::alone().await;
    let served = lab.serve(&Kind::of("rw,insecure,no_subtree_check,no_root_squash"));
    let driver = Driver::start().await;
    let target = published(&driver, &served.create(&driver, "v", &[]).await).await;
    assert_eq!(examine(served.share(), &[]).0, Vec::<String>::new());

    let _anew = served.with_another_fsid();
    let (complaints, report) = examine(served.share(), &[]);
    assert_eq!(complaints, ["mounts bad"], "{report}");
    for told in ["1 of 1 are lost", target.to_str().unwrap(), "fsid="] {
        assert!(report.to_string().contains(told), "{told}: {report}");
    }
    let elsewhere = lab.share(Place::Xfs);
    assert_eq!(examine(&elsewhere, &[]).0, Vec::<String>::new(), "they are of another export");
}

/// A name with the addresses of two servers that export the same path.
#[tokio::test]
async fn a_name_that_leads_to_two_servers_is_named() {
    let lab = Lab::alone().await;
    let names = Names::of(&lab);
    let share = lab.share(Place::Moved);
    fs::create_dir(Path::new("/srv/ganesha/moved").join(share.path.file_name().unwrap())).unwrap();
    for (addresses, expected) in [(&["127.0.0.1"][..], &[][..]), (&["127.0.0.1", "10.90.0.2"], &["addresses bad"])] {
        names.set("nas.test", addresses);
        let (complaints, report) = examine(&share.by("nas.test"), &[]);
        assert_eq!(complaints, expected, "{report}");
    }
}
