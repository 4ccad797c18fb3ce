//! Snapshots and groups whose deletion was cut short or runs on a full export, and copies that come late: what is
//! deleted stays deleted, and its name can be used again.

use std::time::Duration;

use futures_util::FutureExt as _;

use crate::error::Error;
use crate::export::fs::Status;
use crate::snapshot::content::{self, Content};
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::record::Record as SnapshotRecord;
use crate::snapshot::tree::{How, Tree};
use crate::snapshot::{create_volume, delete, find, group, single};
use crate::testing::crash_harness::{Call as _, Connection, connect, reach, settle};
use crate::testing::memory::{Crash, MemoryFs, MemoryServer, Node};
use crate::testing::snapshot_crashes::Call::{
    self, Clone as CloneOf, Delete, DeleteGroup, DeleteSnapshot, Group, List, Make, Restore, Show, Snapshot,
};
use crate::testing::snapshot_crashes::{id, named};
use crate::testing::volume_crashes::{expand, modify};
use crate::volume::create::Create;
use crate::volume::fill::{self, Begun};
use crate::volume::lock::lock;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::quota;
use crate::volume::record::{Origin, Record};
use crate::volume::record_file::RecordFile as _;

const MEMBERS: &[&str] = &["g-0", "g-1"];

/// Copies of `server` on which a controller died after each operation of `call`. The last one has the whole call.
async fn cut_short(server: &MemoryServer, call: &Call) -> Vec<MemoryServer> {
    let mut servers = Vec::new();
    for n in 0.. {
        let server = server.copy();
        let export = connect(&server);
        export.fs().crash_at(n, Crash::AfterEffect);
        let _ = call.run(&export).await;
        let whole = export.fs().operations() <= n;
        servers.push(server);
        if whole {
            break;
        }
    }
    servers
}

async fn tree(export: &Connection, of: &str) -> Tree<MemoryFs> {
    content::tree_of_volume(&export.exports, &id(of), None).await.unwrap()
}

fn one() -> single::Create {
    single::Create { name: named("s"), source: id("v").to_string() }
}

fn both() -> group::Create {
    group::Create { name: named("g"), sources: vec![id("v").to_string(), id("w").to_string()] }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_and_a_group_are_taken_anew_wherever_their_deletion_was_cut_short() {
    let takes = [(Snapshot("s", "v"), DeleteSnapshot("s")), (Group("g", &["v", "w"]), DeleteGroup("g", MEMBERS))];
    for (take, delete) in takes {
        let taken = Call::prepared(&[Make("v"), Make("w"), take.clone()]).await;
        for (n, server) in cut_short(&taken, &delete).await.into_iter().enumerate() {
            let export = connect(&server);
            let anew = take.insist(&export).await;
            assert!(anew.is_ok(), "{delete:?} died after {n}: {anew:?}");
            settle(&export).await;
            assert_eq!(take.faults(&export).await, [], "{delete:?} died after {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_begins_late_does_not_bring_back_a_snapshot_or_a_group_whose_deletion_was_cut_short() {
    let prepared = Call::prepared(&[Make("v"), Make("w")]).await;
    let export = connect(&prepared);
    let trees = [tree(&export, "v").await, tree(&export, "w").await];
    single::begin(&export, &one(), &trees[0], Vec::new()).await.unwrap();
    group::begin(&export, &both(), &trees, Vec::new()).await.unwrap();

    for server in cut_short(&prepared, &DeleteSnapshot("s")).await {
        let export = connect(&server);
        let source = tree(&export, "v").await;
        let deleted = find::get(&export, &named("s")).await.is_err();
        let filled = single::fill(&source.export, &named("s"), &source, &How::default()).await;
        assert_eq!(matches!(filled, Err(Error::Interrupted(_))), deleted, "{filled:?}");
        assert_eq!(List.run(&export).await.unwrap() == "[]", deleted);
    }
    for server in cut_short(&prepared, &DeleteGroup("g", MEMBERS)).await {
        let export = connect(&server);
        let sources = [tree(&export, "v").await, tree(&export, "w").await];
        let deleted = group::get(&export, &named("g")).await.is_err();
        let filled = group::fill(&sources[0].export, &named("g"), &sources, &How::default()).await;
        assert_eq!(matches!(filled, Err(Error::Interrupted(_))), deleted, "{filled:?}");
        assert_eq!(List.run(&export).await.unwrap() == "[]", deleted);
    }
}

#[tokio::test]
async fn a_copy_that_another_controller_has_completed_meanwhile_succeeds_with_the_same_size() {
    let server = Call::prepared(&[Make("v"), Make("w")]).await;
    let export = connect(&server);
    let trees = [tree(&export, "v").await, tree(&export, "w").await];
    single::begin(&export, &one(), &trees[0], Vec::new()).await.unwrap();
    group::begin(&export, &both(), &trees, Vec::new()).await.unwrap();
    let target = &trees[0].export;
    for _ in 0..2 {
        assert_eq!(single::fill(target, &named("s"), &trees[0], &How::default()).await, Ok(1000));
        assert_eq!(group::fill(target, &named("g"), &trees, &How::default()).await, Ok(()));
    }
}

#[tokio::test]
async fn a_copy_has_the_size_of_a_volume_that_was_expanded_after_it_was_found() {
    let server = Call::prepared(&[Make("v"), Make("w")]).await;
    let export = connect(&server);
    let trees = [tree(&export, "v").await, tree(&export, "w").await];
    let target = &trees[0].export;
    single::begin(&export, &one(), &trees[0], Vec::new()).await.unwrap();
    expand(&export, &id("v"), 5000).await.unwrap();
    assert_eq!(single::fill(target, &named("s"), &trees[0], &How::default()).await, Ok(5000));
    group::begin(&export, &both(), &trees, Vec::new()).await.unwrap();
    expand(&export, &id("w"), 6000).await.unwrap();
    group::fill(target, &named("g"), &trees, &How::default()).await.unwrap();
    let group = group::get(&export, &named("g")).await.unwrap();
    assert_eq!(group.members.iter().map(|member| member.size).collect::<Vec<_>>(), [5000, 6000]);
    let (create, _) = begun(&export).await;
    let [of_v, _] = trees.clone();
    create_volume::fill(target, &create, &Content::Tree(of_v), &How::default()).await.unwrap();
    assert_eq!(Record::read(&export, &named("c")).await.unwrap().unwrap().capacity, 5000);
}

#[tokio::test(start_paused = true)]
async fn who_takes_what_another_controller_deletes_at_once_is_told_to_call_again() {
    let calls = [
        (Snapshot("s", "v"), DeleteSnapshot("s"), ".csi-nfs/snapshots/s.json"),
        (Group("g", &["v", "w"]), DeleteGroup("g", MEMBERS), ".csi-nfs/snapshots/g.group"),
    ];
    for (take, delete, record) in calls {
        let server = Call::prepared(&[Make("v"), Make("w")]).await;
        let (export, other) = (connect(&server), connect(&server));
        export.fs().delay(Duration::from_millis(10));
        let delete = async {
            while server.tree().get(record).is_none_or(|record| !record.text().contains("ready")) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            delete.run(&other).await.unwrap();
        };
        let within = tokio::time::timeout(Duration::from_secs(10), delete).map(Result::unwrap);
        let (taken, ()) = tokio::join!(take.run(&export), within);
        assert!(matches!(taken, Err(Error::Interrupted(_))), "{take:?}: {taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_begun_anew_during_a_copy_that_then_fails_is_given_up_by_the_call_or_the_call_is_repeated() {
    let calls = [
        (CloneOf("c", "v"), Delete("c"), ".csi-nfs/volumes/c.json"),
        (Snapshot("s", "v"), DeleteSnapshot("s"), ".csi-nfs/snapshots/s.json"),
    ];
    for (make, delete, record) in calls {
        let server = Call::prepared(&[Make("v")]).await;
        for number in 0..200 {
            server.plant(format!("v/{number}"), Node::file(0o640, "content")).unwrap();
        }
        let (export, other) = (connect(&server), connect(&server));
        export.fs().delay(Duration::from_millis(10));
        let begun = async || {
            while !server.tree().has(record) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let again = async {
            // The copy is under way.
            while server.tree().below(".csi-nfs/staging").paths().len() < 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            delete.run(&other).await.unwrap();
            let source_goes = async {
                begun().await;
                Delete("v").run(&other).await.unwrap();
            };
            tokio::join!(make.run(&export), source_goes).0
        };
        let (_, mut again) = tokio::join!(make.run(&export), again);
        while let Err(Error::Interrupted(_)) = again {
            again = make.run(&export).await;
        }
        assert!(matches!(again, Err(Error::NotFound { .. })), "{make:?}: {again:?}");
        assert!(!server.tree().has(record), "{make:?} is left");
    }
}

#[tokio::test]
async fn nothing_is_begun_of_a_volume_that_was_deleted_just_before() {
    let server = Call::prepared(&[Make("v"), Make("w")]).await;
    let export = connect(&server);
    let trees = [tree(&export, "v").await, tree(&export, "w").await];
    Delete("w").run(&export).await.unwrap();
    let of_w = single::Create { source: id("w").to_string(), ..one() };
    let refused = single::begin(&export, &of_w, &trees[1], Vec::new()).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    let refused = group::begin(&export, &both(), &trees, Vec::new()).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    assert!(server.tree().below(".csi-nfs/snapshots").0.is_empty());
}

#[tokio::test]
async fn a_snapshot_outlives_the_volumes_that_it_backs_and_its_content_outlives_a_deleted_snapshot_until_they_are_gone()
{
    let server = Call::prepared(&[Make("v"), Snapshot("s", "v"), Show("d", "s"), Show("e", "s")]).await;
    let export = connect(&server);
    let content = ".csi-nfs/snapshots/s.tree/sub/data";
    Delete("d").run(&export).await.unwrap();
    Delete("e").run(&export).await.unwrap();
    Restore("r", "s").run(&export).await.unwrap();
    assert_eq!(server.tree().get("r/sub/data").unwrap().text(), "content");
    for name in ["d", "e"] {
        Show(name, "s").run(&export).await.unwrap();
    }
    DeleteSnapshot("s").run(&export).await.unwrap();
    Delete("d").run(&export).await.unwrap();
    assert!(server.tree().has(content), "another volume is backed by it");
    Delete("e").run(&export).await.unwrap();
    assert!(!server.tree().has(content));
}

#[tokio::test]
async fn on_a_full_export_a_snapshot_and_a_group_are_deleted_but_for_a_snapshot_that_backs_a_volume() {
    let before =
        [Make("v"), Make("w"), Snapshot("s", "v"), Snapshot("t", "v"), Group("g", &["v", "w"]), Show("d", "t")];
    let server = Call::prepared(&before).await;
    server.set_capacity(0, 0);
    let export = connect(&server);
    DeleteSnapshot("s").run(&export).await.unwrap();
    DeleteGroup("g", MEMBERS).run(&export).await.unwrap();
    let refused = DeleteSnapshot("t").run(&export).await;
    assert!(matches!(refused, Err(Error::Export { status: Status::NoSpc, .. })), "{refused:?}");
    assert_eq!(List.run(&export).await.unwrap(), r#"[VolumeName("t")]"#);
    server.set_capacity(1 << 30, 1000);
    DeleteSnapshot("t").run(&export).await.unwrap();
    assert!(server.tree().has(".csi-nfs/snapshots/t.tree/sub/data"), "it backs a volume");
    Delete("d").run(&export).await.unwrap();
    assert!(server.tree().below(".csi-nfs/snapshots").0.is_empty());
}

#[tokio::test]
async fn what_a_crash_left_in_staging_goes_with_the_snapshot() {
    // A connection without the task that sweeps staging.
    let server = MemoryServer::new();
    let export = reach(&server);
    export.make_layout().await.unwrap();
    server.plant(".csi-nfs/staging/#snapshot#s/half", Node::file(0o600, "copied")).unwrap();
    delete::delete(&export, &named("s")).await.unwrap();
    assert!(server.tree().below(".csi-nfs/staging").0.is_empty());
}

#[tokio::test]
async fn a_snapshot_that_is_not_ready_is_named_to_who_wants_to_restore_it() {
    let server = Call::prepared(&[Make("v")]).await;
    let export = connect(&server);
    single::begin(&export, &one(), &tree(&export, "v").await, Vec::new()).await.unwrap();
    let refused = Restore("r", "s").run(&export).await.unwrap_err();
    assert!(matches!(refused, Error::Precondition(_)), "{refused}");
    assert!(refused.to_string().contains("`nfs#export#s###snapshot` is not ready"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_group_takes_the_name_of_a_deleted_snapshot_unless_it_still_backs_a_volume() {
    let before = [Make("v"), Make("w"), Snapshot("g-0", "v")];
    let group = Group("g", &["v", "w"]);
    for server in cut_short(&Call::prepared(&before).await, &DeleteSnapshot("g-0")).await {
        let export = connect(&server);
        let there = find::get(&export, &named("g-0")).await.is_ok();
        match group.insist(&export).await {
            Err(Error::Conflict { .. }) => assert!(there),
            taken => assert!(!there && taken.is_ok(), "{taken:?}"),
        }
    }
    let backs = [&before[..], &[Show("d", "g-0"), DeleteSnapshot("g-0")]].concat();
    let server = Call::prepared(&backs).await;
    let refused = group.insist(&connect(&server)).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    assert!(server.tree().has(".csi-nfs/snapshots/g-0.tree/sub/data"));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_and_a_group_wait_for_no_other() {
    let of_one = |name| Group(name, &["v"]);
    let server = Call::prepared(&[Make("v"), Snapshot("s", "v"), Snapshot("t", "v"), of_one("g"), of_one("h")]).await;
    let (busy, export) = (connect(&server), connect(&server));
    let (s, g) = (SnapshotRecord::lock_name(&named("s")), GroupRecord::lock_name(&named("g")));
    let _busy = busy.lock(&[&s, &g]).await.unwrap();
    let others = async {
        DeleteSnapshot("t").run(&export).await.unwrap();
        DeleteGroup("h", &["h-0"]).run(&export).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(1), others).await.unwrap();
    let same = DeleteSnapshot("s").run(&export);
    tokio::time::timeout(Duration::from_secs(1), same).await.unwrap_err();
}

#[tokio::test]
async fn a_volume_that_a_snapshot_backs_gets_neither_mode_nor_owner() {
    let server = Call::prepared(&[Make("v"), Snapshot("s", "v"), Show("d", "s")]).await;
    let export = connect(&server);
    let none = Attributes::default();
    let changes = [
        Attributes { mode: Some(0o700), ..none },
        Attributes { uid: Some(7), ..none },
        Attributes { gid: Some(7), ..none },
    ];
    for change in changes {
        let refused = modify(&export, &id("d"), change).await;
        assert!(matches!(refused, Err(Error::Precondition(_))), "{change:?}: {refused:?}");
    }
    modify(&export, &id("d"), Attributes { on_delete: Some(OnDelete::Retain), ..none }).await.unwrap();
}

/// A clone of `v` by the name `c` that was begun.
async fn begun(export: &Connection) -> (Create, Record) {
    let origin = Some(Origin::Volume(id("v").to_string()));
    let create = Create { origin, ..crate::testing::create::volume("c", 0) };
    let lock = lock(export, &id("c")).await.unwrap();
    match fill::begin(export, &create, Some(0), quota::patience(), &lock).await.unwrap() {
        Begun::Pending(record) => (create, record),
        Begun::Whole(record) => panic!("{record:?}"),
    }
}

#[tokio::test]
async fn a_copy_for_a_volume_that_was_deleted_meanwhile_brings_no_record_back() {
    let server = Call::prepared(&[Make("v")]).await;
    let export = connect(&server);
    let (create, record) = begun(&export).await;
    Delete("c").run(&export).await.unwrap();
    let interrupted = |answer| assert!(matches!(answer, Err(Error::Interrupted(_))), "{answer:?}");
    interrupted(fill::begin_anew(&export, &record, &create, 5000).await);
    let lock = lock(&export, &id("c")).await.unwrap();
    interrupted(fill::finish(&export, &record, &named("c"), &lock).await);
    assert_eq!(Record::read(&export, &named("c")).await, Ok(None));
}

#[tokio::test]
async fn a_copy_that_begins_anew_forgets_the_directory_that_an_earlier_one_staged() {
    let server = Call::prepared(&[Make("v")]).await;
    let export = connect(&server);
    let (create, record) = begun(&export).await;
    let staged = Record { staged: Some(4711), ..record.clone() };
    staged.write(&export).await.unwrap();
    assert_eq!(fill::begin_anew(&export, &staged, &create, 0).await.as_ref(), Ok(&record));
    assert_eq!(Record::read(&export, &named("c")).await, Ok(Some(record)));
}

#[tokio::test(start_paused = true)]
async fn no_snapshot_is_made_of_a_directory_without_a_record_that_was_replaced_during_its_copy() {
    let server = Call::prepared(&[]).await;
    let export = connect(&server);
    let theirs = tree(&export, "theirs").await;
    let create = single::Create { source: id("theirs").to_string(), ..one() };
    single::begin(&export, &create, &theirs, Vec::new()).await.unwrap();
    export.fs().delay(Duration::from_secs(1));
    let replace = async {
        let copy = ".csi-nfs/staging/#snapshot#s/precious";
        while server.tree().get(copy).is_none_or(|copied| copied.text() != "kept") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.remove("theirs/precious").unwrap();
        server.remove("theirs").unwrap();
        server.plant("theirs/precious", Node::file(0o600, "other")).unwrap();
    };
    let how = How::default();
    let fill = single::fill(&theirs.export, &create.name, &theirs, &how);
    let (filled, ()) = tokio::join!(fill, tokio::time::timeout(Duration::from_secs(100), replace).map(Result::unwrap));
    assert!(matches!(&filled, Err(gone @ Error::NotFound { .. }) if gone.to_string().contains("during")), "{filled:?}");
    assert!(server.tree().below(".csi-nfs/snapshots").0.is_empty());
}
