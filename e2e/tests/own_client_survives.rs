//! The driver's own client on real servers: connections that end at any request, servers that restart, controllers that
//! are killed, and addresses that change.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rstest::rstest;
use tokio::task::JoinSet;
use tonic::Status;

use crate::support::names::{Address, Names};
use crate::support::proxy::{Fate, Proxy};
use crate::support::requests::{self, MIB, from, of_snapshot};
use crate::support::{Code, Driver, Lab, Outage, Place, Share, Tree, checked, wait};

const NAME: &str = "nas.test";
/// The longest time until a call succeeds at another address, or says that it does not.
const TOLD: Duration = Duration::from_secs(5);

/// What the tests give their volumes.
const CONTENT: &str = "content";
/// More requests than any call makes.
const MOST: usize = 100;

/// A driver that reaches a share by a proxy.
struct Beyond {
    proxy: Proxy,
    driver: Driver,
    /// The share on its server.
    share: Share,
    /// The same by the proxy.
    by_proxy: Share,
}

/// What is on the share.
#[derive(Default)]
struct Expected {
    volumes: BTreeSet<String>,
    snapshots: BTreeSet<String>,
}

impl Beyond {
    async fn of(share: Share) -> Self {
        let proxy = Proxy::of(&share).await;
        let driver = Driver::with(&["--mode=controller", "--client=own", &proxy.option()]).await;
        Self { proxy, driver, by_proxy: share.by("127.0.0.1"), share }
    }

    /// Makes calls, of which the first loses its connection at its first request, the next one at its second, and so on
    /// until one makes fewer requests; of these, every `of_these.1`th from `of_these.0` on. Each call succeeds, has its
    /// effect, and is answered in the same way when it is repeated. Returns the answers.
    async fn at_each_request<T: PartialEq + Debug>(
        &self,
        what: &str,
        (fate, of_these): (Fate, (usize, usize)),
        call: impl AsyncFn(usize) -> Result<T, Status>,
        mut effect: impl FnMut(usize) -> Expected,
    ) -> Vec<T> {
        let mut answers = Vec::new();
        for pass in (of_these.0..).step_by(of_these.1) {
            assert!(pass < MOST, "{what} makes ever more requests");
            // What clears the trash in the background makes requests, too.
            self.share.trash_is_empty().await;
            self.proxy.after(pass, fate);
            let answer = call(answers.len()).await;
            let disturbed = self.proxy.pass();
            let told = format!("{what}, {fate:?} after {pass} requests");
            let answer = answer.unwrap_or_else(|status| panic!("{told}: {status}"));
            effect(answers.len()).assert(&self.share, &told);
            assert_eq!(call(answers.len()).await.unwrap(), answer, "{told}");
            answers.push(answer);
            if !disturbed {
                break;
            }
        }
        assert!(answers.len() > 1, "{what} made no requests");
        answers
    }
}

impl Expected {
    /// Asserts that the share has these volumes and snapshots, with their records, and nothing else.
    fn assert(&self, share: &Share, told: &str) {
        let names = |names: Vec<String>| -> BTreeSet<String> { names.into_iter().collect() };
        let with = |names: &BTreeSet<String>, end| names.iter().map(|name| format!("{name}{end}")).collect();
        assert_eq!(names(share.names()), self.volumes, "{told}");
        assert_eq!(names(share.left_in("volumes")), with(&self.volumes, ".json"), "{told}");
        let snapshots: BTreeSet<String> = &with(&self.snapshots, ".json") | &with(&self.snapshots, ".tree");
        assert_eq!(names(share.left_in("snapshots")), snapshots, "{told}");
        assert_eq!(share.left_in("staging"), [""; 0], "{told}");
    }
}

#[rstest]
#[tokio::test]
async fn a_connection_that_ends_at_any_request_of_any_call_makes_no_difference(
    #[values(Place::Xfs, Place::Ganesha)] place: Place,
    #[values(Fate::CutBefore, Fate::CutDuring, Fate::CutAfter)] fate: Fate,
) {
    let lab = Lab::enter().await;
    let beyond = Beyond::of(lab.share(place)).await;
    let Beyond { driver, share, by_proxy, .. } = &beyond;
    // Each request to the first server is lost, and each answer. Of the rest, some are enough.
    let all = place == Place::Xfs && fate != Fate::CutDuring;
    let when = (fate, if all { (0, 1) } else { (fate as usize, 7) });
    let names = |kind: &str, numbers: std::ops::Range<usize>| -> BTreeSet<String> {
        numbers.map(|n| format!("{kind}{n}")).collect()
    };
    let holds = |path: &str| {
        assert_eq!(fs::read_to_string(share.path.join(path).join("below/file")).unwrap(), CONTENT, "{path}");
    };

    let create = async |n| driver.create(requests::create(by_proxy, &format!("v{n}"))).await;
    let effect = |n| Expected { volumes: names("v", 0..n + 1), snapshots: BTreeSet::new() };
    let volumes = beyond.at_each_request("CreateVolume", when, create, effect).await;
    let created = names("v", 0..volumes.len());
    let v = &volumes[0].volume_id;
    fs::create_dir(share.path.join("v0/below")).unwrap();
    fs::write(share.path.join("v0/below/file"), CONTENT).unwrap();

    let take = async |n| driver.take_whole(requests::snapshot(v, &format!("s{n}"))).await;
    let effect = |n| {
        holds(&format!(".csi-nfs/snapshots/s{n}.tree"));
        Expected { volumes: created.clone(), snapshots: names("s", 0..n + 1) }
    };
    let snapshots = beyond.at_each_request("CreateSnapshot", when, take, effect).await;
    let taken = names("s", 0..snapshots.len());

    let source = || of_snapshot(&snapshots[0].snapshot_id);
    let restore = async |n| driver.create(from(by_proxy, &format!("r{n}"), source())).await;
    let effect = |n| {
        holds(&format!("r{n}"));
        Expected { volumes: &created | &names("r", 0..n + 1), snapshots: taken.clone() }
    };
    let restored = beyond.at_each_request("CreateVolume from a snapshot", when, restore, effect).await;
    let restored_all = names("r", 0..restored.len());

    let expand = async |n| driver.expand(v, (n as i64 + 2) * MIB).await;
    let effect = |_| Expected { volumes: &created | &restored_all, snapshots: taken.clone() };
    let sizes = beyond.at_each_request("ControllerExpandVolume", when, expand, effect).await;
    assert!(sizes.iter().zip(2..).all(|(size, mib)| *size == mib * MIB), "{sizes:?}");

    let drop_snapshot = async |n: usize| driver.drop_snapshot(&snapshots[n].snapshot_id).await;
    let effect = |n| Expected { volumes: &created | &restored_all, snapshots: names("s", n + 1..taken.len()) };
    let dropped = beyond.at_each_request("DeleteSnapshot", when, drop_snapshot, effect).await.len();

    let delete = async |n: usize| driver.delete(&restored[n].volume_id).await;
    let effect = |n| Expected {
        volumes: &created | &names("r", n + 1..restored.len()),
        snapshots: names("s", dropped..taken.len()),
    };
    beyond.at_each_request("DeleteVolume", when, delete, effect).await;
    checked::at_rest(share).await;
    assert!(!driver.log().contains("the session with the NFS server is over"));
}

#[rstest]
#[tokio::test]
async fn a_connection_that_ends_while_a_session_is_made_makes_no_difference(
    #[values(Place::Xfs, Place::Ganesha)] place: Place,
    #[values(Fate::CutBefore, Fate::CutAfter)] fate: Fate,
) {
    let lab = Lab::enter().await;
    // EXCHANGE_ID, CREATE_SESSION, and the requests that learn the lease and find the export.
    for pass in 0..4 {
        let Beyond { proxy, driver, share, by_proxy } = &Beyond::of(lab.share(place)).await;
        proxy.after(pass, fate);
        driver.create(requests::create(by_proxy, "v")).await.unwrap();
        assert!(proxy.pass());
        Expected { volumes: BTreeSet::from(["v".to_owned()]), ..Expected::default() }.assert(share, "CreateVolume");
    }
}

/// What a server goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The kernel's server restarts, and lets its clients reclaim what they had before it serves others.
    Restart,
    /// The same, and it has forgotten that it had clients.
    RestartWithoutState,
    /// NFS-Ganesha is killed and starts again.
    Killed,
    /// NFS-Ganesha is suspended for longer than its lease, which is 10 s.
    Suspended,
}

impl Trouble {
    async fn befall(self, lab: &Lab) {
        match self {
            Self::Restart => drop(lab.without_kernel_server()),
            Self::RestartWithoutState => {
                drop(lab.without_kernel_server());
                // What clients may reclaim is of two kinds, and the first lock waits for the end of both.
                for kind in ["lockd/nlm_end_grace", "nfsd/v4_end_grace"] {
                    fs::write(Path::new("/proc/fs").join(kind), "Y").unwrap();
                }
            }
            Self::Killed => drop(lab.without_ganesha(Outage::Stopped)),
            Self::Suspended => {
                let _away = lab.without_ganesha(Outage::Frozen);
                tokio::time::sleep(Duration::from_secs(11)).await;
            }
        }
    }
}

#[rstest]
#[case(Place::Xfs, Trouble::Restart)]
#[case(Place::Xfs, Trouble::RestartWithoutState)]
#[case(Place::Ganesha, Trouble::Killed)]
#[case(Place::Ganesha, Trouble::Suspended)]
#[tokio::test]
async fn a_server_that_loses_its_state_under_calls_serves_them_or_they_are_told_and_serves_the_next_ones(
    #[case] place: Place,
    #[case] trouble: Trouble,
) {
    let lab = Lab::alone().await;
    let share = lab.share(place);
    let driver = Driver::with(&["--mode=controller", "--client=own"]).await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    fs::create_dir(share.path.join("v/below")).unwrap();
    for n in 0..300 {
        fs::write(share.path.join(format!("v/below/{n}")), CONTENT).unwrap();
    }
    let snapshot = || requests::snapshot(&v.volume_id, "s");
    let (mut controller, request) = (driver.controller(), snapshot());
    let mut calls = JoinSet::new();
    calls.spawn(async move { controller.create_snapshot(request).await.map(drop) });
    let copying = || (!share.left_in("staging").is_empty()).then_some(());
    wait::until("the start of the copy, which holds locks", Duration::from_secs(20), copying).await;
    for n in 0..4 {
        let (mut controller, request) = (driver.controller(), requests::create(&share, &format!("w{n}")));
        calls.spawn(async move { controller.create_volume(request).await.map(drop) });
    }
    trouble.befall(&lab).await;
    while let Some(answer) = wait::within("a call under way", Duration::from_secs(30), calls.join_next()).await {
        if let Err(status) = answer.unwrap() {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains(&share.server), "{status}");
        }
    }
    // What the driver last heard of the server may be a second old.
    wait::until_async("a server that is back", Duration::from_secs(10), async || {
        driver.create(requests::create(&share, "w0")).await.is_ok()
    })
    .await;
    for n in 1..5 {
        driver.create(requests::create(&share, &format!("w{n}"))).await.unwrap();
    }
    // The first call after a failure of the copy tells of it.
    let s = match driver.take_whole(snapshot()).await {
        Err(status) if status.code() == Code::Unavailable => driver.take_whole(snapshot()).await.unwrap(),
        taken => taken.unwrap(),
    };
    share.trash_is_empty().await;
    let volumes = ["v", "w0", "w1", "w2", "w3", "w4"].map(str::to_owned).into();
    Expected { volumes, snapshots: BTreeSet::from(["s".to_owned()]) }.assert(&share, "afterwards");
    assert_eq!(fs::read_dir(share.path.join(".csi-nfs/snapshots/s.tree/below")).unwrap().count(), 300);
    driver.drop_snapshot(&s.snapshot_id).await.unwrap();
    driver.delete(&v.volume_id).await.unwrap();
    checked::at_rest(&share).await;
}

/// Waits until the server has a lock on a share.
async fn locked(share: &Share) {
    let inode = format!(":{} ", fs::metadata(share.path.join(".csi-nfs/lock")).unwrap().ino());
    let held = || fs::read_to_string("/proc/locks").unwrap().contains(&inode).then_some(());
    wait::until("a lock", Duration::from_secs(5), held).await;
}

/// The request of a CreateVolume by which it holds locks and has begun to make something.
const MIDDLE: usize = 2;

#[tokio::test]
async fn a_killed_controllers_locks_are_its_successors_at_once() {
    let lab = Lab::enter().await;
    let Beyond { proxy, mut driver, share, by_proxy } = Beyond::of(lab.share(Place::Xfs)).await;
    driver.create(requests::create(&by_proxy, "warm")).await.unwrap();
    proxy.after(MIDDLE, Fate::Silenced);
    let (mut controller, request) = (driver.controller(), requests::create(&by_proxy, "v"));
    let call = tokio::spawn(async move { controller.create_volume(request).await });
    proxy.has_come().await;
    locked(&share).await;
    driver.kill();
    call.await.unwrap().unwrap_err();
    proxy.pass();
    driver.start_again().await;
    let taken = driver.create(requests::create(&by_proxy, "v"));
    wait::within("CreateVolume", Duration::from_secs(2), taken).await.unwrap();
    let volumes = ["v", "warm"].map(str::to_owned).into();
    Expected { volumes, ..Expected::default() }.assert(&share, "the successor");
    checked::at_rest(&share).await;
}

#[tokio::test]
async fn a_controller_that_is_cut_off_loses_its_locks_to_another_and_then_changes_nothing() {
    let lab = Lab::enter().await;
    let Beyond { proxy, driver, share, by_proxy } = &Beyond::of(lab.share(Place::Xfs)).await;
    let other = Driver::with(&["--mode=controller", "--client=own"]).await;
    driver.create(requests::create(by_proxy, "warm")).await.unwrap();
    proxy.after(MIDDLE, Fate::Held);
    let (mut controller, request) = (driver.controller(), requests::create(by_proxy, "v"));
    let call = tokio::spawn(async move { controller.create_volume(request).await });
    proxy.has_come().await;
    locked(share).await;
    let mut impatient = tonic::Request::new(requests::create(share, "v"));
    impatient.set_timeout(Duration::from_secs(5));
    let told = other.controller().create_volume(impatient).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    assert!(told.message().contains("another controller") && told.message().contains("--client-name"), "{told}");
    let v = wait::within("the end of the lease", Duration::from_secs(25), other.create(requests::create(share, "v")));
    let v = v.await.unwrap();
    fs::write(share.path.join("v/file"), CONTENT).unwrap();
    let tree = Tree::of(&share.path);
    proxy.pass();
    match call.await.unwrap() {
        Ok(made) => assert_eq!(made.into_inner().volume.unwrap(), v),
        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
    }
    wait::until("the end of the session", Duration::from_secs(5), || {
        driver.log().contains("the session with the NFS server is over").then_some(())
    })
    .await;
    tree.assert_unchanged("the controller whose lease was over");
    driver.delete(&v.volume_id).await.unwrap();
    checked::at_rest(share).await;
}

#[tokio::test]
async fn a_server_that_loses_an_address_is_used_at_another_one_within_seconds() {
    let lab = Lab::alone().await;
    let names = Names::of(&lab);
    let (first, second) = (Address::add("10.91.0.1"), Address::add("10.91.0.2"));
    names.set(NAME, &["10.91.0.1"]);
    let share = lab.share(Place::Xfs).by(NAME);
    let driver = Driver::with(&["--mode=controller", "--client=own"]).await;
    driver.create(requests::create(&share, "v0")).await.unwrap();
    names.set(NAME, &["10.91.0.2"]);
    drop(first);
    // A call of the first second may still go to the former address.
    let again = async |name: &str| {
        let (start, mut calls) = (Instant::now(), JoinSet::new());
        while !calls.try_join_next().is_some_and(|made: Result<bool, _>| made.unwrap()) {
            assert!(start.elapsed() < TOLD, "no volume at the other address");
            let (mut controller, name) = (driver.controller(), format!("{name}-{}", calls.len()));
            let request = requests::create(&share, &name);
            calls.spawn(async move { controller.create_volume(request).await.is_ok() });
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    again("v1").await;
    // Of two addresses, the one in use goes away.
    let _first = Address::add("10.91.0.1");
    names.set(NAME, &["10.91.0.2", "10.91.0.1"]);
    drop(second);
    again("v2").await;
}

#[rstest]
#[case::a_dead_one_first(&["10.90.0.99", "127.0.0.1"])]
#[case::a_dead_one_of_the_newer_family(&["fd00:90::99", "127.0.0.1"])]
#[case::a_dead_one_of_the_older_family(&["10.90.0.99", "::1"])]
#[case::only_of_the_newer_family(&["::1"])]
#[tokio::test]
async fn a_server_is_used_at_the_address_that_answers(#[case] addresses: &[&str]) {
    let lab = Lab::alone().await;
    let names = Names::of(&lab);
    names.set(NAME, addresses);
    let share = lab.share(Place::Xfs).by(NAME);
    let driver = Driver::with(&["--mode=controller", "--client=own"]).await;
    let v = wait::within("CreateVolume", TOLD, driver.create(requests::create(&share, "v"))).await.unwrap();
    wait::within("DeleteVolume", TOLD, driver.delete(&v.volume_id)).await.unwrap();
    let address = format!("address={}", addresses[addresses.len() - 1]);
    assert!(driver.log().lines().any(|line| line.contains("connected") && line.contains(&address)), "{address}");
}
