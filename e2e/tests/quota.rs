//! Enforced sizes of volumes: the driver with the agent on the server.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::agent::Agent;
use crate::support::driver::program;
use crate::support::lab::run;
use crate::support::requests::{self, MIB};
use crate::support::wait::{until, until_async};
use crate::support::{Code, Driver, Lab, Place, Share, csi, mounts};

pub fn required(share: &Share, name: &str, mib: i64) -> csi::CreateVolumeRequest {
    let request = requests::create_with(share, name, "quota", "required");
    csi::CreateVolumeRequest { capacity_range: requests::bytes(mib * MIB), ..request }
}

/// Writes to a file until the server refuses. Returns the error and the length of the file on the server. The length on
/// the client would include the refused data.
pub fn fill(target: &Path, volume: &Path, file: &str) -> (u64, std::io::Error) {
    let mut out = File::create(target.join(file)).unwrap();
    let block = vec![7; 256 << 10];
    let refused = loop {
        if let Err(error) = out.write_all(&block).and_then(|()| out.sync_data()) {
            break error;
        }
    };
    drop(out);
    (fs::metadata(volume.join(file)).unwrap().len(), refused)
}

/// Mounts a volume for a pod. Returns the target.
pub async fn published(driver: &Driver, volume: &csi::Volume) -> PathBuf {
    let target = driver.target(&volume.volume_id.replace(['#', '/'], "-"));
    driver.publish(volume, &target).await.unwrap();
    target
}

pub async fn figures(driver: &Driver, volume: &csi::Volume, target: &Path) -> csi::VolumeUsage {
    let all = driver.stats(&volume.volume_id, target).await.unwrap();
    all.into_iter().find(|usage| usage.unit() == csi::volume_usage::Unit::Bytes).unwrap()
}

async fn reasons(driver: &Driver, volume: &csi::Volume) -> Vec<String> {
    let request = csi::ControllerGetVolumeHealthRequest { volume_id: volume.volume_id.clone(), ..Default::default() };
    let answer = driver.controller().controller_get_volume_health(request).await.unwrap().into_inner();
    answer.volume_health.unwrap().health_statuses.into_iter().map(|status| status.reason).collect()
}

#[tokio::test]
async fn a_volume_is_full_at_its_size_and_not_before_and_its_neighbour_is_not() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let _agent = Agent::start(&share);
    let driver = Driver::with(&["--vol-stats-cache-expire-in-minutes=0"]).await;
    let volume = driver.create(required(&share, "v", 16)).await.unwrap();
    let neighbour = driver.create(required(&share, "w", 16)).await.unwrap();
    let (target, next) = (published(&driver, &volume).await, published(&driver, &neighbour).await);

    let (written, refused) = fill(&target, &share.path.join("v"), "data");
    assert_eq!(refused.raw_os_error(), Some(28), "ENOSPC: {refused}");
    let size = 16 * MIB as u64;
    assert!(written <= size && written > size - MIB as u64, "{written}");
    fs::write(next.join("data"), vec![1; 1 << 20]).unwrap();
    let usage = figures(&driver, &volume, &target).await;
    assert_eq!(usage.total, 16 * MIB);
    assert!(usage.available < MIB && usage.used > 15 * MIB, "{usage:?}");
    assert_eq!(reasons(&driver, &volume).await, ["VolumeFull"]);
    assert_eq!(reasons(&driver, &neighbour).await, Vec::<String>::new());

    // The volume is expanded while it is full. Writes that were just refused succeed now.
    driver.expand(&volume.volume_id, 20 * MIB).await.unwrap();
    let (written, _) = fill(&target, &share.path.join("v"), "more");
    assert!((3 * MIB as u64..=4 * MIB as u64).contains(&written), "{written}");
    assert_eq!(figures(&driver, &volume, &target).await.total, 20 * MIB);
    mounts::clear(&driver.path("."));
}

#[tokio::test]
async fn without_an_agent_a_required_limit_is_unavailable_and_nothing_stays() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let none = driver.create(required(&share, "v", 4)).await.unwrap_err();
    assert_eq!(none.code(), Code::Unavailable);
    assert!(none.message().contains("csi-nfs agent"), "{none}");
    // An agent has worked and is then stopped.
    let mut agent = Agent::start(&share);
    driver.create(required(&share, "there", 4)).await.unwrap();
    agent.kill();
    let mut nested = required(&share, "w", 4);
    nested.parameters.insert("subDir".into(), "team/app".into());
    assert_eq!(driver.create(nested).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(share.names(), ["there"]);
    let private = share.path.join(".csi-nfs");
    for (place, count) in [("volumes", 1), ("paths", 0), ("staging", 0)] {
        assert_eq!(fs::read_dir(private.join(place)).unwrap().count(), count, "{place}");
    }
    // With `preferred`, the volume is created without a limit, and its health reports that. The same holds for a new
    // size that no agent has applied.
    let preferred = driver.create(requests::create_with(&share, "p", "quota", "preferred")).await.unwrap();
    assert_eq!(reasons(&driver, &preferred).await, ["QuotaNotEnforced"]);
    let grown = driver.expand(&format!("{}#{}#there##", share.server, &share.share[1..]), 8 * MIB).await;
    assert_eq!(grown.unwrap_err().code(), Code::Unavailable);
    // The next agent applies all limits.
    let _agent = Agent::start(&share);
    until_async("the limit of p", Duration::from_secs(10), async || reasons(&driver, &preferred).await.is_empty())
        .await;
}

/// The caller's deadline decides how long a call waits for the agent. The call returns before the deadline, and waits
/// longer than by default if the deadline allows it.
#[tokio::test]
async fn an_agent_is_waited_for_as_long_as_the_caller_waits() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let within = async |name: &str, limit: Duration| {
        let mut request = tonic::Request::new(required(&share, name, 4));
        request.set_timeout(limit);
        driver.controller().create_volume(request).await
    };
    let began = Instant::now();
    let refused = within("v", Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("csi-nfs agent") && began.elapsed() > Duration::from_secs(1), "{refused}");
    assert_eq!(share.names(), Vec::<String>::new());
    let late = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        Agent::start(&share)
    };
    let (made, _agent) = tokio::join!(within("v", Duration::from_secs(60)), late);
    made.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_killed_among_creations_leaves_nothing_that_the_next_does_not_mend() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let mut agent = Agent::start(&share);
    driver.create(required(&share, "first", 4)).await.unwrap();
    let calls: Vec<_> = (0..12).map(|n| driver.create(required(&share, &format!("v{n}"), 4 + n))).collect();
    let kill = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            agent.kill();
            agent = Agent::start(&share);
        }
    };
    let (made, ()) = tokio::join!(futures_util::future::join_all(calls), kill);
    let volumes: Vec<_> = made.into_iter().map(|made| made.unwrap()).collect();
    let mut projects = std::collections::BTreeSet::new();
    for (n, volume) in volumes.iter().enumerate() {
        let target = published(&driver, volume).await;
        assert_eq!(figures(&driver, volume, &target).await.total, (4 + n as i64) * MIB, "{volume:?}");
        let answer = fs::read_to_string(share.path.join(format!(".csi-nfs/quota/volumes/v{n}.json"))).unwrap();
        assert!(projects.insert(answer.split(',').next().unwrap().to_owned()), "{answer}");
        driver.unpublish(&volume.volume_id, &target).await.unwrap();
        driver.delete(&volume.volume_id).await.unwrap();
    }
    let answers = share.path.join(".csi-nfs/quota/volumes");
    until("taking limits away", Duration::from_secs(10), || {
        (fs::read_dir(&answers).unwrap().count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_in_a_directory_already_counts_and_links_are_not_followed() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let outside = share.path.join("outside");
    fs::create_dir_all(share.path.join("old/deep/er")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("theirs"), vec![1; 3 << 20]).unwrap();
    fs::write(share.path.join("old/deep/er/data"), vec![1; 2 << 20]).unwrap();
    std::os::unix::fs::symlink("../outside", share.path.join("old/link")).unwrap();
    std::os::unix::fs::symlink("../outside/theirs", share.path.join("old/deep/link")).unwrap();
    run("mkfifo", [share.path.join("old/fifo").to_str().unwrap()]);
    let driver = Driver::with(&["--vol-stats-cache-expire-in-minutes=0"]).await;
    // The directory is in use meanwhile. A client has files open in it, and perhaps delegations.
    let by_hand = csi::Volume {
        volume_id: format!("{}#{}#old##", share.server, &share.share[1..]),
        volume_context: requests::map([("server", &share.server), ("share", &share.share), ("subDir", "old")]),
        ..Default::default()
    };
    let user = driver.target("user");
    driver.publish(&by_hand, &user).await.unwrap();
    let open: Vec<_> = (0..20).map(|n| File::create(user.join(format!("deep/open-{n}"))).unwrap()).collect();
    let _agent = Agent::start(&share);
    let mut request = required(&share, "v", 8);
    request.parameters.insert("subDir".into(), "old".into());
    let volume = driver.create(request).await.unwrap();
    let target = published(&driver, &volume).await;
    let usage = figures(&driver, &volume, &target).await;
    assert!((2 * MIB..3 * MIB).contains(&usage.used), "{usage:?}");
    drop(open);
    let (written, _) = fill(&target, &share.path.join("old"), "deep/er/more");
    assert!((5 * MIB as u64..=6 * MIB as u64).contains(&written), "{written}");
    mounts::clear(&driver.path("."));
}

#[tokio::test]
async fn inodes_are_limited_where_the_class_says_so_and_can_change() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let _agent = Agent::start(&share);
    let driver = Driver::start().await;
    let mut request = required(&share, "v", 8);
    request.parameters.insert("inodes".into(), "10/Gi".into());
    let volume = driver.create(request).await.unwrap();
    let target = published(&driver, &volume).await;
    let touch = |n: i32| File::create(target.join(n.to_string()));
    // The directory itself counts as one inode.
    let refused = (0..20).find(|&n| touch(n).is_err());
    assert_eq!(refused, Some(9));
    let more = csi::ControllerModifyVolumeRequest {
        volume_id: volume.volume_id.clone(),
        mutable_parameters: requests::map([("inodes", "15")]),
        ..Default::default()
    };
    driver.controller().controller_modify_volume(more).await.unwrap();
    assert_eq!((9..20).find(|&n| touch(n).is_err()), Some(14));
    mounts::clear(&driver.path("."));
}

#[tokio::test]
async fn ext4_is_refused_where_clients_write_as_root_unless_the_class_accepts_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Ext4);
    let _agent = Agent::start(&share);
    let driver = Driver::with(&["--vol-stats-cache-expire-in-minutes=0"]).await;
    let refused = driver.create(required(&share, "v", 8)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("root_squash"), "{refused}");
    let mut accepted = required(&share, "v", 8);
    accepted.parameters.insert("quota".into(), "required-except-root".into());
    accepted.parameters.insert("mountPermissions".into(), "0777".into());
    let volume = driver.create(accepted).await.unwrap();
    let target = published(&driver, &volume).await;
    assert_eq!(figures(&driver, &volume, &target).await.total, 8 * MIB);
    let command = format!("head -c 12M /dev/zero > {}/data", target.display());
    let written =
        Command::new("setpriv").args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", &command]).status();
    assert!(!written.unwrap().success());
    // The server may accept a later part of concurrent writes and refuse an earlier part. That leaves a hole.
    let size = fs::metadata(share.path.join("v/data")).unwrap().blocks() * 512;
    assert!((7 * MIB as u64..=8 * MIB as u64).contains(&size), "{size}");
    mounts::clear(&driver.path("."));
}

#[tokio::test]
async fn one_of_two_agents_works_and_the_other_takes_over() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let mut first = Agent::start(&share);
    driver.create(required(&share, "a", 4)).await.unwrap();
    let second = Agent::start(&share);
    until("standing by", Duration::from_secs(10), || second.log().contains("is on standby").then_some(())).await;
    driver.create(required(&share, "b", 4)).await.unwrap();
    first.kill();
    driver.create(required(&share, "c", 4)).await.unwrap();
}

/// The agent needs each capability in its unit, and no other.
#[tokio::test]
async fn the_agent_needs_the_capabilities_that_its_unit_leaves_it_and_no_other() {
    let lab = Lab::enter().await;
    let unit = include_str!("../../deploy/agent/csi-nfs-agent.service");
    let manifest = include_str!("../../deploy/agent/csi-nfs-agent.yaml");
    let bounding = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let needed: Vec<&str> = bounding.split(' ').map(|name| name.strip_prefix("CAP_").unwrap()).collect();
    assert!(
        manifest.contains(&format!("add: [{}]", needed.join(", "))),
        "the manifest adds other capabilities than {needed:?}"
    );
    let driver = Driver::start().await;
    for missing in [None].into_iter().chain(needed.iter().map(Some)) {
        let share = lab.share(Place::Xfs);
        driver.create(required(&share, "first", 4)).await.unwrap_err();
        // Root is squashed, and the adopted volume has files of a tenant.
        let (nobody, tenant) = (Some(65534), Some(1000));
        fs::create_dir_all(share.path.join("old/private")).unwrap();
        fs::write(share.path.join("old/private/data"), "x").unwrap();
        for (path, owner, mode) in [
            (".csi-nfs", nobody, 0o700),
            (".csi-nfs/volumes", nobody, 0o700),
            (".csi-nfs/lock", nobody, 0o600),
            ("old/private/data", tenant, 0o600),
            ("old/private", tenant, 0o700),
            ("old", tenant, 0o700),
        ] {
            let path = share.path.join(path);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, owner, owner).unwrap();
        }
        let given =
            needed.iter().filter(|name| Some(*name) != missing).map(|name| format!(",+{}", name.to_lowercase()));
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set=-all{}", given.collect::<String>())).arg(program());
        let _agent = Agent::by(command, &["-v=5"], &[&share]);
        let mut request = tonic::Request::new(required(&share, "old", 4));
        request.set_timeout(Duration::from_secs(if missing.is_none() { 20 } else { 3 }));
        let made = driver.controller().create_volume(request).await;
        assert_eq!(made.is_ok(), missing.is_none(), "without {missing:?}: {made:?}\n{}", _agent.log());
    }
}

/// Runs the commands of docs/quota.md on a file system of each kind. One agent serves both, started as its unit does.
#[tokio::test]
async fn what_the_document_says_turns_quotas_on_and_until_then_the_agent_says_it_too() {
    let _lab = Lab::enter().await;
    let document = include_str!("../../docs/quota.md");
    let directory = tempfile::TempDir::with_prefix("file-systems-").unwrap();
    let agent = |paths: &str| {
        let mut command = Command::new(program());
        command.args(["agent", "--path", paths]);
        command
    };
    let mut mounted = Vec::new();
    for (kind, make, turn_on) in
        [("ext4", "mkfs.ext4 -q", "tune2fs -O project,quota -Q prjquota"), ("xfs", "mkfs.xfs -q", "")]
    {
        let (device, place) = (directory.path().join(format!("{kind}.disk")), directory.path().join(kind));
        fs::create_dir(&place).unwrap();
        File::create(&device).unwrap().set_len(320 << 20).unwrap();
        let (device, place) = (device.to_str().unwrap(), place.to_str().unwrap());
        let shell = |script: String| run("sh", ["-c", &script]);
        shell(format!("{make} {device} && mount -o loop {device} {place}"));
        let refused = agent(place).output().unwrap();
        assert_eq!(refused.status.code(), Some(69));
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(told.contains(turn_on) && told.contains("prjquota") && document.contains(turn_on), "{told}");
        shell(format!("umount {place}"));
        if !turn_on.is_empty() {
            shell(format!("{turn_on} {device}"));
        }
        shell(format!("mount -o loop,prjquota {device} {place}"));
        mounted.push(place.to_owned());
    }
    let unit = include_str!("../../deploy/agent/csi-nfs-agent.service");
    assert!(unit.contains("csi-nfs agent --path ${CSI_NFS_AGENT_PATHS}"));
    let log = directory.path().join("log");
    let mut both = agent(&mounted.join(",")).stderr(File::create(&log).unwrap()).spawn().unwrap();
    until("both are on", Duration::from_secs(10), || {
        (fs::read_to_string(&log).unwrap().matches("project quotas are on").count() == 2).then_some(())
    })
    .await;
    both.kill().unwrap();
    both.wait().unwrap();
    for place in mounted {
        run("umount", [&place]);
    }
}

#[tokio::test]
async fn exports_on_one_file_system_have_project_ids_apart() {
    let lab = Lab::enter().await;
    let shares = [lab.share(Place::Xfs), lab.share(Place::Xfs)];
    let _agent = Agent::by(Command::new(program()), &["-v=5"], &[&shares[0], &shares[1]]);
    let driver = Driver::start().await;
    let calls = (0..24).map(|n| driver.create(required(&shares[n % 2], &format!("v{n}"), 4)));
    let made = futures_util::future::join_all(calls).await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let mut projects = std::collections::BTreeSet::new();
    for n in 0..24 {
        let answer = shares[n % 2].path.join(format!(".csi-nfs/quota/volumes/v{n}.json"));
        let answer: serde_json::Value = serde_json::from_slice(&fs::read(answer).unwrap()).unwrap();
        assert!(projects.insert(answer["project"].to_string()), "v{n} has the project ID of another volume: {answer}");
    }
}

#[tokio::test]
async fn an_agent_says_what_is_missing_and_ends() {
    let _lab = Lab::enter().await;
    let missing = Command::new(program()).args(["agent", "--path", "/srv/tmpfs"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(69));
    let told = String::from_utf8(missing.stderr).unwrap();
    assert!(told.contains("XFS or ext4"), "{told}");
}
