//! Crashes, lost answers and other controllers at every operation while snapshots are taken and deleted and while
//! volumes are restored and cloned, on an export in memory.

use std::collections::BTreeMap;

use crate::check::{Finding, repair};
use crate::error::{Error, Result};
use crate::nfs::source::SubDir;
use crate::snapshot::create_snapshot::{CreateSnapshot, Taken, create_snapshot};
use crate::snapshot::delete_snapshot::{delete_group, delete_snapshot};
use crate::snapshot::find::{self, Found, Place};
use crate::snapshot::id::{GroupId, KnownId, SnapshotId};
use crate::snapshot::record::State;
use crate::snapshot::{content, group, single};
use crate::testing::crash_harness::{self, Call as _, Connection, connect, seen, settle};
use crate::testing::memory::{Crash, MemoryServer, Node};
use crate::volume::access::CapacityRange;
use crate::volume::create::Create;
use crate::volume::fill::{self, Begun};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lock::lock;
use crate::volume::parameters::Attributes;
use crate::volume::quota;
use crate::volume::record::{Origin, Record};
use crate::volume::record_file::RecordFile as _;

/// One call to a controller, with the names of volumes and snapshots. `v` is the volume that is copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    /// An empty volume.
    Make(&'static str),
    /// A snapshot of a volume.
    Snapshot(&'static str, &'static str),
    /// A clone of a volume.
    Clone(&'static str, &'static str),
    /// A volume with an owner, restored from a snapshot.
    Restore(&'static str, &'static str),
    /// A snapshot-backed volume.
    Show(&'static str, &'static str),
    DeleteSnapshot(&'static str),
    /// A group of snapshots of volumes.
    Group(&'static str, &'static [&'static str]),
    /// Deletes the group with its snapshots.
    DeleteGroup(&'static str, &'static [&'static str]),
    Delete(&'static str),
    /// An empty volume in the directory `media`, which volumes share.
    MakeShared(&'static str),
    /// A clone of a volume, in that directory.
    CloneShared(&'static str, &'static str),
    DeleteShared(&'static str),
    List,
}

use Call::{Clone as CloneOf, CloneShared, Delete, DeleteGroup, DeleteShared, DeleteSnapshot};
use Call::{Group, List, Make, MakeShared, Restore, Show, Snapshot};

pub(super) fn named(name: &str) -> VolumeName {
    VolumeName::parse("name", name).unwrap()
}

pub(super) fn id(name: &str) -> VolumeId {
    VolumeId::parse(&format!("nfs#export#{name}##")).unwrap()
}

fn snapshot_id(name: &str) -> SnapshotId {
    SnapshotId::parse(&format!("nfs#export#{name}###snapshot")).unwrap()
}

impl crash_harness::Call for Call {
    async fn run(&self, export: &Connection) -> Result<String> {
        let of_volume = |of: &str| Some(Origin::Volume(id(of).to_string()));
        let of_snapshot = |of: &str| Some(Origin::Snapshot(snapshot_id(of).to_string()));
        match self {
            Make(name) => made(export, create(name, None), false).await,
            MakeShared(name) => made(export, shared(create(name, None)), false).await,
            Snapshot(name, of) => snapshot(export, name, of).await,
            CloneOf(name, of) => made(export, create(name, of_volume(of)), false).await,
            CloneShared(name, of) => made(export, shared(create(name, of_volume(of))), false).await,
            Restore(name, of) => made(export, owned(create(name, of_snapshot(of))), false).await,
            Show(name, of) => made(export, create(name, of_snapshot(of)), true).await,
            Group(name, of) => grouped(export, name, of).await,
            DeleteGroup(name, members) => {
                let members: Vec<String> = members.iter().map(|member| snapshot_id(member).to_string()).collect();
                let group = GroupId { export: export.source().clone(), name: named(name) };
                let deleted = delete_group(&export.exports, &export.jobs, &group, &members, None).await;
                deleted.map(|()| "gone".to_owned())
            }
            DeleteSnapshot(name) => {
                let id = KnownId::Own(snapshot_id(name));
                delete_snapshot(&export.exports, &export.jobs, &id, None).await.map(|()| "gone".to_owned())
            }
            Delete(name) => crash_harness::delete(export, &id(name)).await,
            DeleteShared(name) => {
                let id = VolumeId::parse(&format!("nfs#export#media#{name}#")).unwrap();
                crash_harness::delete(export, &id).await
            }
            List => {
                let listed = find::list(export, Place::Records(0), None, usize::MAX).await?;
                let name = |(_, (found, _)): find::Listed| match found {
                    Found::Own(record) => record.id.name,
                    Found::Archive(found) => found.id.name,
                };
                let mut names: Vec<VolumeName> = listed.into_iter().map(name).collect();
                names.sort();
                Ok(format!("{names:?}"))
            }
        }
    }

    async fn insist(&self, export: &Connection) -> Result<String> {
        crash_harness::until_done(self, export).await
    }

    async fn prepared(before: &[Self]) -> MemoryServer {
        let server = MemoryServer::new();
        server.set_clone_supported(false);
        server.plant("theirs/precious", Node::file(0o644, "kept")).unwrap();
        let export = connect(&server);
        for call in before {
            call.run(&export).await.unwrap();
            if *call == Make("v") {
                server.plant("v/sub/data", Node::file(0o640, "content").owned_by(1000, 1000)).unwrap();
            }
        }
        settle(&export).await;
        server
    }

    fn allows(&self, finding: &Finding) -> bool {
        matches!(finding, Finding::DirectoryUnrecorded { directory } if directory == "theirs")
    }
}

fn create(name: &str, origin: Option<Origin>) -> Create {
    Create {
        name: named(name),
        sub_dir: None,
        // A volume that is filled takes the size of its source.
        capacity: CapacityRange::new(if origin.is_some() { 0 } else { 1000 }, 0).unwrap(),
        kubernetes: None,
        asked: Attributes::default(),
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin,
    }
}

fn shared(create: Create) -> Create {
    Create { sub_dir: Some(SubDir::parse("subDir", "media").unwrap()), ..create }
}

fn owned(create: Create) -> Create {
    Create { asked: Attributes { uid: Some(7), ..Attributes::default() }, ..create }
}

async fn made(export: &Connection, create: Create, may_show: bool) -> Result<String> {
    let record = crash_harness::create(export, create, may_show).await?;
    Ok(match &record.origin {
        Some(_) => format!("{} {} {:?}", record.id, record.capacity, record.backing_snapshot),
        None => record.id.to_string(),
    })
}

/// CreateSnapshot or CreateVolumeGroupSnapshot. Returns [`Error::Interrupted`] while the snapshot is not ready, so that
/// the test repeats the call as a caller does.
async fn taken<T: Taken>(export: &Connection, what: T, of: &[&str]) -> Result<T::Record> {
    let (volumes, share) = (of.iter().map(|of| id(of)).collect(), export.source().clone());
    let asked = CreateSnapshot { what, volumes, share, options: None, secret: None };
    match create_snapshot(&export.exports, &export.jobs, &asked).await? {
        record if T::state(&record) == State::Ready => Ok(record),
        _ => Err(Error::Interrupted("the snapshot is not ready yet".to_owned())),
    }
}

async fn snapshot(export: &Connection, name: &str, of: &str) -> Result<String> {
    let what = single::Create { name: named(name), source: id(of).to_string() };
    let record = taken(export, what, &[of]).await?;
    Ok(format!("{} {} {:?}", record.id, record.size, record.state))
}

async fn grouped(export: &Connection, name: &str, of: &[&str]) -> Result<String> {
    let what = group::Create { name: named(name), sources: of.iter().map(|of| id(of).to_string()).collect() };
    let record = taken(export, what, of).await?;
    Ok(format!("{} {:?} {:?}", record.id, record.members, record.state))
}

/// Each call under test with the calls that come before it.
pub(crate) fn scenarios() -> Vec<(Vec<Call>, Call)> {
    let (v, s) = (Make("v"), Snapshot("s", "v"));
    let (w, g, x) = (Make("w"), Group("g", &["v", "w"]), DeleteGroup("g", &["g-0", "g-1"]));
    vec![
        (vec![v.clone()], s.clone()),
        (vec![v.clone()], CloneOf("c", "v")),
        (vec![v.clone(), s.clone()], Restore("r", "s")),
        (vec![v.clone(), s.clone()], Show("d", "s")),
        (vec![v.clone(), s.clone(), Delete("v")], Restore("r", "s")),
        (vec![v.clone(), s.clone(), Show("d", "s")], CloneOf("c", "d")),
        (vec![v.clone(), s.clone()], DeleteSnapshot("s")),
        (vec![v.clone(), s.clone()], Delete("v")),
        (vec![v.clone(), s.clone(), Show("d", "s")], DeleteSnapshot("s")),
        (vec![v.clone(), s.clone(), Show("d", "s")], Delete("d")),
        (vec![v.clone(), s.clone(), Show("d", "s"), DeleteSnapshot("s")], Delete("d")),
        (vec![v.clone(), s.clone(), Show("d", "s"), Show("e", "s"), DeleteSnapshot("s")], Delete("d")),
        (vec![v.clone(), w.clone()], g.clone()),
        (vec![v.clone(), w.clone(), g.clone()], x.clone()),
        (vec![v.clone(), w.clone(), g.clone(), Show("d", "g-0")], x.clone()),
        (vec![v.clone(), w.clone(), g.clone(), Delete("v")], Restore("r", "g-0")),
        (vec![v.clone(), w, g], Show("d", "g-1")),
        (vec![v.clone()], CloneShared("c", "v")),
        (vec![v.clone(), CloneShared("c", "v"), MakeShared("b")], DeleteShared("c")),
        (vec![v.clone(), CloneShared("c", "v")], MakeShared("b")),
        (vec![v, s], List),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_short_at_any_operation_is_finished_by_its_retry() {
    let points = crash_harness::cut_short_and_retried(scenarios()).await;
    assert!(points > 3000, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_repeated_leaves_nothing_half_made_to_be_seen_and_loses_no_other() {
    for (before, call) in scenarios() {
        let server = Call::prepared(&before).await;
        let untouched = List.run(&connect(&server)).await.unwrap();
        let data = server.tree().get("v/sub/data").cloned();
        call.run(&connect(&server)).await.unwrap();
        let done = List.run(&connect(&server)).await.unwrap();
        for n in 0.. {
            let server = Call::prepared(&before).await;
            let export = connect(&server);
            export.fs().crash_at(n, Crash::AfterEffect);
            let _ = call.run(&export).await;
            if export.fs().operations() <= n {
                break;
            }
            let export = connect(&server);
            settle(&export).await;
            let at = format!("{before:?} {call:?} dies after {n}");
            let listed = List.run(&export).await.unwrap();
            assert!(listed == untouched || listed == done, "{at}: {listed}");
            if call != Delete("v") {
                assert_eq!(server.tree().get("v/sub/data").cloned(), data, "{at}");
            }
            let found = call.faults(&export).await;
            for finding in &found {
                let left_over = match (&call, finding) {
                    // The object is pending, and hidden until a retry completes it.
                    (Snapshot(..), Finding::SnapshotPending { .. }) => true,
                    (Group(..), Finding::GroupPending { .. }) => true,
                    (CloneOf(..) | CloneShared(..) | Restore(..), Finding::VolumePending { .. }) => true,
                    (CloneShared(..) | MakeShared(..) | DeleteShared(..), Finding::OwnerStale { .. }) => true,
                    (CloneOf(..) | Restore(..), Finding::DirectoryUnrecorded { .. }) => false,
                    (Show(..), Finding::NoteStale { .. }) => true,
                    // The object is deleted, and its records are not yet removed.
                    (DeleteSnapshot(..), Finding::SnapshotUnused { .. }) => true,
                    (DeleteGroup(..), Finding::GroupDeleted { .. }) => true,
                    (Delete(_), Finding::DirectoryMissing { .. } | Finding::NoteMissing { .. }) => true,
                    (Delete(_), Finding::SnapshotUnused { .. }) => true,
                    _ => false,
                };
                assert!(left_over, "{at}: {finding}");
            }
            repair(&export, &found).await.unwrap();
            if matches!(call, DeleteSnapshot(..) | DeleteGroup(..)) {
                assert_eq!(call.faults(&export).await, [], "{at}: not repaired");
            }
        }
    }
}

/// Concurrent calls of two controllers, with the calls that come before them.
pub(crate) fn concurrent_controllers() -> Vec<(Vec<Call>, [Vec<Call>; 2])> {
    let (v, s) = (Make("v"), Snapshot("s", "v"));
    let (w, g, x) = (Make("w"), Group("g", &["v", "w"]), DeleteGroup("g", &["g-0", "g-1"]));
    vec![
        (vec![v.clone()], [vec![s.clone()], vec![s.clone()]]),
        (vec![], [vec![v.clone()], vec![s.clone()]]),
        (vec![], [vec![v.clone()], vec![CloneOf("c", "v")]]),
        (vec![v.clone()], [vec![CloneOf("c", "v")], vec![CloneOf("c", "v")]]),
        (vec![v.clone(), s.clone()], [vec![Restore("r", "s")], vec![DeleteSnapshot("s")]]),
        (vec![v.clone(), s.clone()], [vec![Show("d", "s")], vec![DeleteSnapshot("s")]]),
        (vec![v.clone(), s.clone(), Show("d", "s")], [vec![Delete("d")], vec![DeleteSnapshot("s")]]),
        (vec![v.clone(), s.clone()], [vec![Show("d", "s"), Delete("d")], vec![Show("e", "s"), DeleteSnapshot("s")]]),
        (vec![v.clone()], [vec![s.clone()], vec![Delete("v")]]),
        (vec![v.clone()], [vec![CloneOf("c", "v")], vec![Delete("v")]]),
        (vec![v.clone()], [vec![CloneOf("c", "v"), Delete("c")], vec![CloneOf("c", "v")]]),
        (vec![v.clone(), w.clone()], [vec![g.clone()], vec![g.clone()]]),
        (vec![v.clone(), w.clone()], [vec![g.clone()], vec![Group("g", &["v"])]]),
        (vec![v.clone(), w.clone()], [vec![g.clone()], vec![Delete("w")]]),
        (vec![v.clone(), w.clone()], [vec![g.clone()], vec![Snapshot("g-1", "w")]]),
        (vec![v.clone(), w.clone(), g.clone()], [vec![x.clone()], vec![Show("d", "g-0")]]),
        (vec![v.clone(), w.clone(), g.clone()], [vec![x.clone()], vec![Restore("r", "g-1")]]),
        (vec![v.clone(), w, g.clone()], [vec![x.clone(), g.clone()], vec![g, DeleteSnapshot("g-0")]]),
        (vec![v.clone()], [vec![CloneShared("c", "v")], vec![CloneShared("c", "v"), DeleteShared("c")]]),
        (vec![v], [vec![s.clone(), DeleteSnapshot("s")], vec![s]]),
    ]
}

#[tokio::test(start_paused = true)]
async fn two_controllers_together_leave_what_one_could_have_left() {
    let agrees = async |server: &MemoryServer, what: &str| {
        assert_eq!(List.faults(&connect(server)).await, [], "{what}");
    };
    crash_harness::concurrent_controllers(concurrent_controllers(), 3_000, agrees).await;
}

/// A controller gives up an attempt late, after the object was deleted and a second attempt was started in the same
/// second. This does not affect the second attempt.
#[tokio::test]
async fn a_late_give_up_of_an_earlier_attempt_leaves_the_one_that_was_begun_again() {
    let server = Call::prepared(&[Make("v"), Make("w")]).await;
    let export = connect(&server);
    let tree = async |of: &str| content::tree_of_volume(&export.exports, &id(of), None).await.unwrap();
    let trees = [tree("v").await, tree("w").await];

    let wanted = single::Create { name: named("s"), source: id("v").to_string() };
    let first = single::begin(&export, &wanted, &trees[0], Vec::new()).await.unwrap();
    DeleteSnapshot("s").run(&export).await.unwrap();
    let second = single::begin(&export, &wanted, &trees[0], Vec::new()).await.unwrap();
    single::give_up(&export, &first).await.unwrap();
    assert_eq!(find::get(&export, &named("s")).await, Ok(second));

    let wanted = group::Create { name: named("g"), sources: vec![id("v").to_string(), id("w").to_string()] };
    let first = group::begin(&export, &wanted, &trees, Vec::new()).await.unwrap();
    DeleteGroup("g", &["g-0", "g-1"]).run(&export).await.unwrap();
    let second = group::begin(&export, &wanted, &trees, Vec::new()).await.unwrap();
    group::give_up(&export, &first).await.unwrap();
    assert_eq!(group::get(&export, &named("g")).await, Ok(second));

    let wanted = create("c", Some(Origin::Volume(id("v").to_string())));
    let begin = async || {
        let lock = lock(&export, &id("c")).await.unwrap();
        match fill::begin(&export, &wanted, Some(0), quota::patience(), &lock).await.unwrap() {
            Begun::Pending(record) => record,
            Begun::Whole(record) => panic!("{record:?}"),
        }
    };
    let first = begin().await;
    Delete("c").run(&export).await.unwrap();
    let second = begin().await;
    let lock = lock(&export, &id("c")).await.unwrap();
    fill::abandon(&export, &first, &named("c"), &lock).await.unwrap();
    assert_eq!(Record::read(&export, &named("c")).await, Ok(Some(second)));
}

/// A controller dies at any operation of a snapshot, and then the volume is deleted. A retry finds no volume and gives
/// up the pending snapshot, or the whole group. If the give-up is cut short at any operation, another retry completes
/// it.
#[tokio::test(start_paused = true)]
async fn what_was_begun_of_a_volume_that_is_gone_is_given_up_also_where_that_is_cut_short() {
    for take in [Snapshot("s", "v"), Group("g", &["v", "w"])] {
        let mut points = 0;
        for left in left_pending(&take).await {
            for n in 0.. {
                let server = left.copy();
                let export = connect(&server);
                export.fs().crash_at(n, Crash::AfterEffect);
                let first = take.run(&export).await;
                let whole = export.fs().operations() <= n;
                let export = connect(&server);
                let retried = take.run(&export).await;
                settle(&export).await;
                let at = format!("{take:?}, its give-up dies after {n}: {first:?}");
                assert!(matches!(retried, Err(Error::NotFound { .. })), "{at}: {retried:?}");
                let left = server.tree().below(".csi-nfs/snapshots");
                assert!(left.0.is_empty(), "{at}: {left}");
                if whole {
                    break;
                }
                points += 1;
            }
        }
        assert!(points > 50, "only {points} points of {take:?} were tried");
    }
}

/// The different exports that remain if a controller dies during `take`, before the snapshot is ready, and the volume
/// is deleted afterwards.
async fn left_pending(take: &Call) -> Vec<MemoryServer> {
    let prepared = Call::prepared(&[Make("v"), Make("w")]).await;
    let mut left = BTreeMap::new();
    for n in 0.. {
        let server = prepared.copy();
        let export = connect(&server);
        export.fs().crash_at(n, Crash::BeforeEffect);
        let _ = take.run(&export).await;
        if export.fs().operations() <= n {
            break;
        }
        let export = connect(&server);
        settle(&export).await;
        let begun = !server.tree().below(".csi-nfs/snapshots").0.is_empty();
        if begun && List.run(&export).await.unwrap() == "[]" {
            Delete("v").run(&export).await.unwrap();
            settle(&export).await;
            left.insert(seen(&server).to_string(), server);
        }
    }
    left.into_values().collect()
}
