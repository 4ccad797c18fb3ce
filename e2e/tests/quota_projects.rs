//! The agent on exports that are not as it would have them: a root with a project of its own, and very deep trees.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::quota::required;
use crate::support::agent::Agent;
use crate::support::lab::run;
use crate::support::requests::{self, MIB};
use crate::support::wait::until;
use crate::support::{Code, Driver, Lab, Place, Share, csi};

/// Gives a directory and everything in it a project that new objects inherit, as an administrator does.
fn give_project(directory: &Path, project: u32) {
    let setup = format!("project -s -p {} {project}", directory.display());
    run("xfs_quota", ["-x", "-c", &setup, "/srv/xfs"]);
}

fn id(share: &Share, name: &str) -> String {
    format!("{}#{}#{name}##", share.server, &share.share[1..])
}

#[tokio::test]
async fn volumes_of_an_export_whose_root_has_a_project_are_deleted_and_have_snapshots() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    give_project(&share.path, 42);
    let mut agent = Agent::start(&share);
    driver.create(required(&share, "v", 8)).await.unwrap();
    fs::write(share.path.join("v/data"), vec![1; 1 << 20]).unwrap();
    // A directory that is made in staging, and then moved to the root.
    let mut staged = required(&share, "staged", 8);
    staged.parameters.insert("mountPermissions".into(), "0777".into());
    driver.create(staged).await.unwrap();
    let snapshot = driver.take_whole(requests::snapshot(&id(&share, "v"), "s")).await.unwrap();
    let restored = requests::from(&share, "restored", requests::of_snapshot(&snapshot.snapshot_id));
    driver.create(csi::CreateVolumeRequest { capacity_range: requests::bytes(8 * MIB), ..restored }).await.unwrap();
    assert_eq!(fs::read(share.path.join("restored/data")).unwrap().len(), 1 << 20);
    driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    driver.delete(&id(&share, "restored")).await.unwrap();
    driver.delete(&id(&share, "staged")).await.unwrap();
    share.trash_is_empty().await;

    // Without an agent, the administrator does it again: the message says what to do, and the next agent mends it.
    agent.kill();
    give_project(&share.path.join(".csi-nfs"), 42);
    let refused = driver.delete(&id(&share, "v")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("run `csi-nfs agent` on the server"), "{refused}");
    let agent = Agent::start(&share);
    until("the agent's message", Duration::from_secs(10), || {
        (agent.log().matches("no longer inherit").count() == 2).then_some(())
    })
    .await;
    driver.delete(&id(&share, "v")).await.unwrap();
    share.trash_is_empty().await;
}

/// Makes so many directories, one in the other.
fn make_deep(directory: &Path, levels: usize) {
    let mut dir: OwnedFd = File::open(directory).unwrap().into();
    for _ in 0..levels {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    rustix::fs::openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
}

#[tokio::test]
async fn the_deepest_and_the_widest_trees_are_counted_in_little_memory() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    driver.create(requests::create(&share, "first")).await.unwrap();
    let snapshot = share.path.join(".csi-nfs/snapshots/deep.tree");
    fs::create_dir(&snapshot).unwrap();
    make_deep(&snapshot, 5000);
    for name in ["deep", "wide"] {
        fs::create_dir(share.path.join(name)).unwrap();
    }
    make_deep(&share.path.join("deep"), 16_000);
    for n in 0..20_000 {
        fs::create_dir(share.path.join("wide").join(format!("{n:0200}"))).unwrap();
    }
    let agent = Agent::start(&share);
    for name in ["deep", "wide"] {
        let mut request = tonic::Request::new(required(&share, name, 800));
        request.set_timeout(Duration::from_secs(100));
        driver.controller().create_volume(request).await.unwrap();
    }
    let usage = || fs::read_to_string(share.path.join(".csi-nfs/quota/snapshots.json")).ok();
    let counted = until("the snapshot is counted", Duration::from_secs(100), || {
        let usage: serde_json::Value = serde_json::from_str(&usage()?).unwrap();
        usage["inodes"].as_u64().filter(|inodes| *inodes > 0)
    })
    .await;
    assert_eq!(counted, 5002);
    let most = agent.proc_status("VmHWM") * 1024;
    assert!(most < 64 * MIB as u64, "{most} bytes");
    // Neither rm nor the end of the test goes down 16,000 levels.
    drop(agent);
    driver.delete(&id(&share, "deep")).await.unwrap();
    driver.delete(&id(&share, "wide")).await.unwrap();
}
