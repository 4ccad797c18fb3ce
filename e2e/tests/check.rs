//! `csi-nfs check`: its findings and repairs on a real export.

use std::fs;
use std::process::Command;

use crate::quota::required;
use crate::support::agent::Agent;
use crate::support::driver::program;
use crate::support::lab::run;
use crate::support::requests;
use crate::support::{Driver, Lab, Place, Share, checked};

/// Runs `csi-nfs check`. Returns its exit status and its output.
fn check(share: &Share, arguments: &[&str]) -> (Option<i32>, String) {
    let output = checked::check(share, arguments);
    // What takes long tells how far it is.
    let progress = String::from_utf8(output.stderr).unwrap();
    let is_progress = |line: &str| line.starts_with("csi-nfs: ") && line.contains(" entr");
    assert!(progress.lines().all(is_progress), "{progress}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn an_export_is_checked_and_repaired_while_the_driver_serves_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let export = format!("{}:{}", share.server, share.share);
    let driver = Driver::start().await;
    for name in ["one", "two"] {
        let mut request = requests::create(&share, name);
        request.parameters.insert("subDir".into(), format!("team/{name}"));
        driver.create(request).await.unwrap();
    }
    assert_eq!(check(&share, &[]), (Some(0), format!("{export}: records and directories agree\n")));

    let private = share.path.join(".csi-nfs");
    fs::create_dir(share.path.join("by hand")).unwrap();
    fs::remove_dir(share.path.join("team/two")).unwrap();
    fs::remove_file(private.join("paths/team/one#")).unwrap();
    fs::write(private.join("staging/left"), "half").unwrap();
    let found = "directory by hand belongs to no recorded volume\n\
                 left is left in staging\n\
                 volume one is not recorded as an owner of its directory team/one\n\
                 volume two has a record, but its directory team/two is gone\n";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (status, printed) = check(&share, &[]);
    assert_eq!(status, Some(1));
    assert_eq!(sorted(&printed), sorted(&format!("{found}{export}: 4 findings\n")));

    let (status, printed) = check(&share, &["--repair", "--format=json"]);
    assert_eq!(status, Some(1));
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let kinds = |part: &str| -> Vec<String> {
        report[part].as_array().unwrap().iter().map(|finding| finding["finding"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds("findings"), ["directoryMissing", "directoryUnrecorded"]);
    assert_eq!(kinds("repaired"), ["ownerMissing", "stagingLeftover"]);
    assert_eq!(fs::read_link(private.join("paths/team/one#")).unwrap().to_str(), Some("one"));
    assert!(share.path.join("by hand").exists());
}

#[tokio::test]
async fn limits_that_do_not_fit_are_found_and_the_agent_is_asked_to_mend_them() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let _agent = Agent::start(&share);
    let driver = Driver::start().await;
    for (name, mib) in [("a", 4), ("b", 5), ("c", 6)] {
        driver.create(required(&share, name, mib)).await.unwrap();
    }
    checked::agrees(&share);
    let answers = share.path.join(".csi-nfs/quota/volumes");
    let read = |name: &str| fs::read_to_string(answers.join(name)).unwrap();
    let project = |name: &str| serde_json::from_str::<serde_json::Value>(&read(name)).unwrap()["project"].to_string();
    // An administrator changed a limit, a project, and the agent's answer for a volume that never existed.
    let limit = format!("limit -p bhard=64m {}", project("a.json"));
    run("xfs_quota", ["-x", "-c", &limit, "/srv/xfs"]);
    let b = read("b.json").replace(&project("b.json"), &project("a.json"));
    fs::write(answers.join("b.json"), b).unwrap();
    fs::write(answers.join("gone.json"), read("c.json")).unwrap();
    let (status, printed) = check(&share, &[]);
    assert_eq!(status, Some(1));
    for line in [
        "the size of volume a is not enforced: ",
        "volumes a and b are counted together",
        "the agent still limits volume gone",
    ] {
        assert!(printed.contains(line), "{line} is not in:\n{printed}");
    }
    let (status, printed) = check(&share, &["--repair"]);
    assert_eq!(status, Some(0), "{printed}");
    assert_eq!(printed.matches("repaired: ").count(), 3, "{printed}");
    assert_ne!(project("a.json"), project("b.json"));
    // No agent runs, and the report says so.
    drop(_agent);
    fs::remove_file(answers.join("c.json")).unwrap();
    let (status, printed) = check(&share, &["--repair"]);
    assert_eq!(status, Some(1));
    assert!(printed.starts_with("the size of volume c is not enforced: "), "{printed}");
}

#[tokio::test]
async fn an_export_that_cannot_be_read_is_told_apart_from_one_that_does_not_fit() {
    let _lab = Lab::enter().await;
    let output = Command::new(program()).args(["check", "--export=127.0.0.1:/no such export"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}
