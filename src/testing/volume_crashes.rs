//! Crashes, lost answers and other controllers at every operation while volumes are created, changed and deleted, on an
//! export in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::check::{Finding, check};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs as _, Name};
use crate::nfs::source::SubDir;
use crate::testing::crash_harness::{self, Call as _, Connection, connect, seen, settle};
use crate::testing::memory::{Crash, MemoryFs, MemoryServer, Node};
use crate::testing::promised::assert_counted;
use crate::volume::access::CapacityRange;
use crate::volume::create::Create;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::limits::{Overcommit, Quota};
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{change, quota};

/// One call to a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// Creates a volume with this name in this directory.
    Create(&'static str, Option<&'static str>),
    Owned(&'static str),
    /// Creates a volume with half of the capacity that may be promised.
    Bounded(&'static str),
    Delete(&'static str),
    Expand(&'static str, i64),
    Modify(&'static str),
    /// Sets what happens to the directory on deletion, by a VolumeAttributesClass.
    Decide(&'static str, OnDelete),
    /// A tenant or an administrator writes into a directory.
    Write(&'static str),
    List,
}

use Call::{Bounded, Create as Make, Decide, Delete, Expand, List, Modify, Owned, Write};

/// A thousandth of the server's size, which a class with `overcommit` 0.001 may promise.
const PROMISED: i64 = (1 << 40) / 1000;

impl crash_harness::Call for Call {
    async fn run(&self, export: &Connection) -> Result<String> {
        let id = |text: &str| VolumeId::parse(text).unwrap();
        match self {
            Make(name, sub_dir) => create(export, name, *sub_dir, 1000, Attributes::default()).await,
            Owned(name) => {
                let attributes = Attributes { uid: Some(1000), mode: Some(0o2770), ..Attributes::default() };
                create(export, name, None, 1000, attributes).await
            }
            Bounded(name) => {
                let overcommit = Some(Overcommit::parse("overcommit", "0.001").unwrap());
                create(export, name, None, PROMISED / 2, Attributes { overcommit, ..Attributes::default() }).await
            }
            Delete(volume) => crash_harness::delete(export, &id(volume)).await,
            Expand(volume, to) => expand(export, &id(volume), *to).await,
            Modify(volume) => {
                let changes = Attributes { mode: Some(0o700), gid: Some(7), ..Attributes::default() };
                modify(export, &id(volume), changes).await
            }
            Decide(volume, on_delete) => {
                let changes = Attributes { on_delete: Some(*on_delete), ..Attributes::default() };
                modify(export, &id(volume), changes).await
            }
            Write(path) => {
                let dir = export.make_dirs(&export.fs().root(), SubDir::parse("", path)?.names(), 0o755).await?;
                export
                    .replace_small(
                        (&dir, &Name::new("new").unwrap()),
                        (&dir, &Name::new("data").unwrap()),
                        0o600,
                        path.as_bytes().to_vec(),
                    )
                    .await?;
                Ok("written".to_owned())
            }
            List => Record::names(export).await.map(|names| format!("{names:?}")),
        }
    }

    async fn faults(&self, export: &Connection) -> Vec<Finding> {
        assert_counted(export, &format!("{self:?}")).await;
        check(export).await.unwrap().into_iter().filter(|finding| !self.allows(finding)).collect()
    }

    async fn prepared(before: &[Self]) -> MemoryServer {
        let server = MemoryServer::new();
        server.plant("theirs/precious", Node::file(0o644, "kept")).unwrap();
        let export = connect(&server);
        for call in before {
            call.run(&export).await.unwrap();
        }
        for volume in ["v", "w", "team/app", "team/web"] {
            if server.tree().has(volume) && !server.tree().has(format!("{volume}/data")) {
                server.plant(format!("{volume}/data"), Node::file(0o600, volume)).unwrap();
            }
        }
        settle(&export).await;
        server
    }

    fn allows(&self, finding: &Finding) -> bool {
        match finding {
            Finding::DirectoryUnrecorded { directory } => directory == "theirs",
            Finding::VolumeKept { .. } => true,
            _ => false,
        }
    }
}

pub(crate) async fn expand(export: &Connection, id: &VolumeId, bytes: i64) -> Result<String> {
    let range = CapacityRange::new(bytes, 0).unwrap();
    let grow = |export: Arc<Export<MemoryFs>>, lock| {
        let id = id.clone();
        async move { change::expand(&export, &id, range, quota::patience(), &lock).await }
    };
    export.exports.change(id, None, grow).await.map(|bytes| bytes.to_string())
}

pub(crate) async fn modify(export: &Connection, id: &VolumeId, changes: Attributes) -> Result<String> {
    let modify = |export: Arc<Export<MemoryFs>>, lock| {
        let id = id.clone();
        async move { change::modify(&export, &id, changes, quota::patience(), &lock).await }
    };
    export.exports.change(id, None, modify).await.map(|()| "changed".to_owned())
}

pub(crate) async fn create(
    export: &Connection,
    name: &str,
    sub_dir: Option<&str>,
    bytes: i64,
    asked: Attributes,
) -> Result<String> {
    let create = Create {
        name: VolumeName::parse("name", name).unwrap(),
        sub_dir: sub_dir.map(|path| SubDir::parse("subDir", path).unwrap()),
        capacity: CapacityRange::new(bytes, 0).unwrap(),
        asked,
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: None,
        kubernetes: None,
    };
    crash_harness::create(export, create, false).await.map(|record| format!("{} {}", record.id, record.capacity))
}

/// Each call under test with the calls that come before it.
pub(crate) fn scenarios() -> Vec<(Vec<Call>, Call)> {
    let nested = Make("v", Some("team/app"));
    let (v, w) = ("nfs#export#team/app#v#", "nfs#export#team/app#w#");
    let (make_v, make_w) = (nested.clone(), Make("w", Some("team/app")));
    let (keep, remove) = (Decide(v, OnDelete::Retain), Decide(v, OnDelete::Delete));
    vec![
        // The record says that the directory stays, and the ID says nothing. The volume is deleted, deleted again,
        // deleted by another name and by the directory above.
        (vec![make_v.clone(), keep.clone()], Delete(v)),
        (vec![make_v.clone(), keep.clone(), Delete(v)], Delete(v)),
        (vec![make_v.clone(), keep.clone(), Delete(v)], Delete(w)),
        (vec![make_v.clone(), keep.clone(), Delete(v)], Delete("nfs#export#team##")),
        (vec![make_v.clone(), keep.clone(), Delete(v)], Delete("nfs#export#team##archive")),
        (vec![Make("v", None), Decide("nfs#export#v##", OnDelete::Retain)], Delete("nfs#export#v##archive")),
        (vec![Write("v")], Delete("nfs#export#v##retain")),
        // A new volume in the kept directory is then deleted or kept.
        (vec![make_v.clone(), keep.clone(), Delete(v)], make_v.clone()),
        (vec![make_v.clone(), keep.clone(), Delete(v)], make_w.clone()),
        (vec![make_v.clone(), keep.clone(), Delete(v), make_v.clone()], Delete(v)),
        (vec![make_v.clone(), keep.clone(), Delete(v), make_v.clone(), remove.clone()], Delete(v)),
        (vec![make_v.clone(), keep.clone(), Delete(v), make_w.clone(), Decide(w, OnDelete::Delete)], Delete(w)),
        (vec![make_v.clone(), make_w.clone(), keep.clone(), Delete(v)], Delete(w)),
        (vec![make_v.clone(), make_w, keep], Delete(v)),
        // The volume adopts the directory.
        (vec![Write("team/app")], make_v.clone()),
        (vec![Write("team/app"), make_v.clone()], Delete(v)),
        (vec![Write("team/app"), make_v.clone(), remove], Delete(v)),
        (vec![Write("team/app"), make_v.clone(), Decide(v, OnDelete::Archive)], Delete(v)),
        (vec![Write("v")], Delete("nfs#export#v##")),
        (vec![make_v.clone(), Decide(v, OnDelete::Archive)], Delete(v)),
        (vec![make_v, Decide(v, OnDelete::Archive), Delete(v)], Delete(v)),
        (vec![], Make("v", None)),
        (vec![], Owned("v")),
        (vec![], nested.clone()),
        (vec![Make("w", None)], Make("v", None)),
        (vec![Make("w", Some("team/app"))], nested.clone()),
        (vec![Make("v", None), Make("w", None)], Delete("nfs#export#v##")),
        (vec![nested.clone()], Delete("nfs#export#team/app#v#")),
        (vec![nested.clone(), Make("w", Some("team/app"))], Delete("nfs#export#team/app#v#")),
        (vec![nested.clone(), Make("w", Some("team/web"))], Delete("nfs#export#team/app#v#")),
        (vec![Make("v", None)], Delete("nfs#export#v##retain")),
        (vec![Make("v", None)], Delete("nfs#export#v##archive")),
        (vec![nested.clone()], Delete("nfs#export#team/app#v#archive")),
        (vec![Make("v", None)], Expand("nfs#export#v##", 5000)),
        (vec![nested.clone()], Expand("nfs#export#team/app#v#", 5000)),
        (vec![Make("v", None)], Modify("nfs#export#v##")),
        (vec![Make("v", None), Make("w", Some("team/app"))], List),
        (vec![Bounded("w")], Bounded("v")),
        (vec![Bounded("v")], Expand("nfs#export#v##", PROMISED)),
        // The bytes are counted, and volumes change that a class without a bound made.
        (vec![Bounded("w")], Make("v", None)),
        (vec![Bounded("w"), Make("v", None)], Delete("nfs#export#v##")),
        (vec![Bounded("w"), Make("v", None)], Expand("nfs#export#v##", 5000)),
        (vec![Make("v", None), Bounded("w")], Delete("nfs#export#v##retain")),
        (vec![Make("v", Some("team/app")), Bounded("w"), Decide(v, OnDelete::Retain)], Delete(v)),
        (vec![Make("v", None), Bounded("w"), Delete("nfs#export#w##")], Bounded("x")),
        (vec![Make("v", None), Bounded("w")], Delete("nfs#export#w##")),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_short_at_any_operation_is_finished_by_its_retry() {
    let points = crash_harness::cut_short_and_retried(scenarios()).await;
    assert!(points > 1000, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_repeated_leaves_no_volume_half_made_and_loses_no_other() {
    for (before, call) in scenarios() {
        let untouched = seen(&Call::prepared(&before).await);
        for n in 0.. {
            let server = Call::prepared(&before).await;
            let export = connect(&server);
            export.fs().crash_at(n, Crash::AfterEffect);
            let done = call.run(&export).await.is_ok();
            if export.fs().operations() <= n {
                break;
            }
            let export = connect(&server);
            assert_counted(&export, &format!("{call:?} dies after {n}")).await;
            settle(&export).await;
            // Listed volumes are whole, the volume of the call exists or not, and all other data is unchanged.
            let tree = seen(&server);
            for (path, node) in &untouched.0 {
                let own = match &call {
                    Delete(volume) => {
                        String::from_utf8_lossy(path).starts_with(VolumeId::parse(volume).unwrap().sub_dir.as_str())
                    }
                    _ => false,
                };
                if path.ends_with(b"data") && !own {
                    assert_eq!(tree.0.get(path), Some(node), "{call:?} dies after {n}, done: {done}");
                }
            }
            for finding in check(&export).await.unwrap() {
                let left_over = match (&call, &finding) {
                    // The directory is removed and its record is not yet, or the directory is made and not yet
                    // recorded. A retry completes both.
                    (Delete(_), Finding::DirectoryMissing { .. }) => true,
                    (Delete(_) | Make(..) | Owned(_) | Bounded(_), Finding::OwnerStale { .. }) => true,
                    (Delete(_) | Make(..) | Owned(_) | Bounded(_), Finding::DirectoryUnrecorded { .. }) => true,
                    (Delete(_) | Make(..), Finding::KeptStale { .. }) => true,
                    (_, Finding::VolumeKept { .. }) => true,
                    (_, Finding::DirectoryUnrecorded { directory }) => directory == "theirs",
                    _ => false,
                };
                assert!(left_over, "{call:?} dies after {n}: {finding}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_waits_for_the_agent_stops_no_other_claim_of_its_namespace() {
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    let soon = Duration::from_secs(1);
    let required = Attributes { quota: Some(Quota::Required), ..Attributes::default() };
    let mut waiting = Box::pin(create(&one, "a", Some("ns/a"), 1000, required));
    assert!(timeout(soon, &mut waiting).await.is_err());
    for (export, name, sub_dir) in [(&one, "b", "ns/b"), (&two, "c", "ns/c")] {
        timeout(soon, create(export, name, Some(sub_dir), 1000, Attributes::default())).await.unwrap().unwrap();
        let id = VolumeId::parse(&format!("nfs#export#{sub_dir}#{name}#")).unwrap();
        timeout(soon, crash_harness::delete(export, &id)).await.unwrap().unwrap();
    }
    assert!(matches!(waiting.await, Err(Error::NoAgent { .. })));
}

/// Concurrent calls of two controllers, with the calls that come before them.
pub(crate) fn concurrent_controllers() -> Vec<(Vec<Call>, [Vec<Call>; 2])> {
    let v = "nfs#export#v##";
    let (app, web) = ("nfs#export#team/app#a#", "nfs#export#team/app#b#");
    let (make_app, make_web) = (Make("a", Some("team/app")), Make("b", Some("team/app")));
    let (keep, remove) = (Decide(app, OnDelete::Retain), Decide(app, OnDelete::Delete));
    let kept = vec![make_app.clone(), keep.clone(), Delete(app)];
    let (a, b, deep) = ("nfs#export#ns/a#a#", "nfs#export#ns/b#b#", "nfs#export#ns/x/a#a#");
    let (archive_a, archive_b) = (Delete("nfs#export#ns/a#a#archive"), Delete("nfs#export#ns/b#b#archive"));
    vec![
        (vec![make_app.clone(), keep.clone()], [vec![Delete(app), Delete(app)], vec![Delete(app), Delete(web)]]),
        (vec![make_app.clone(), make_web.clone(), keep], [vec![Delete(app), Delete(app)], vec![Delete(web)]]),
        (kept.clone(), [vec![make_app.clone(), remove, Delete(app)], vec![Delete(app)]]),
        (kept, [vec![Delete("nfs#export#team##")], vec![make_web.clone(), Delete(web)]]),
        (vec![Write("team/app")], [vec![make_app.clone(), Delete(app)], vec![make_web.clone(), Delete(web)]]),
        (vec![], [vec![Make("v", None), Delete(v)], vec![Make("v", None), Delete(v)]]),
        (vec![], [vec![Make("v", None), Delete(v), Make("v", None)], vec![Delete(v), Make("v", None)]]),
        (vec![], [vec![Owned("v")], vec![Make("v", None)]]),
        (vec![Make("v", None)], [vec![Delete(v), Make("v", None)], vec![Expand(v, 5000), Modify(v)]]),
        (vec![], [vec![make_app.clone(), Delete(app)], vec![make_web.clone(), Delete(web)]]),
        (vec![make_app.clone()], [vec![Delete(app), make_app.clone()], vec![make_web, Delete(web)]]),
        (vec![], [vec![make_app, Delete(app)], vec![Make("team", None), Delete("nfs#export#team##")]]),
        (vec![Make("v", None)], [vec![Delete("nfs#export#v##archive"), Make("v", None)], vec![Delete(v)]]),
        // Volumes side by side in one namespace, whose directory comes and goes with them.
        (vec![], [vec![Make("a", Some("ns/a")), Delete(a)], vec![Make("b", Some("ns/b")), Delete(b)]]),
        (vec![Make("a", Some("ns/a"))], [vec![Delete(a), Make("a", Some("ns/a"))], vec![Make("b", Some("ns/b"))]]),
        (vec![], [vec![Make("a", Some("ns/x/a")), Delete(deep)], vec![Make("b", Some("ns/b")), Delete(b), Delete(b)]]),
        (vec![], [vec![Make("a", Some("ns/a")), Delete(a)], vec![Make("b", Some("ns")), Delete("nfs#export#ns#b#")]]),
        (vec![Make("a", Some("ns/a")), Make("b", Some("ns/b"))], [vec![archive_a.clone()], vec![archive_b, Delete(b)]]),
        // The second archive of `a` and the first one of `a-1`.
        (
            vec![Make("a", Some("ns/a")), archive_a.clone(), Make("a", Some("ns/a")), Make("b", Some("ns/a-1"))],
            [vec![archive_a], vec![Delete("nfs#export#ns/a-1#b#archive")]],
        ),
        (
            vec![Make("a", Some("ns/a")), Decide(a, OnDelete::Retain)],
            [vec![Delete(a), Make("a", Some("ns/a"))], vec![Make("b", Some("ns/b")), Delete(b)]],
        ),
        (vec![], [vec![Bounded("a"), Bounded("b")], vec![Bounded("c")]]),
        (vec![Bounded("v")], [vec![Bounded("a"), Delete("nfs#export#a##")], vec![Bounded("b"), Expand(v, PROMISED)]]),
        (vec![Bounded("v")], [vec![Delete(v), Make("v", None), Bounded("a")], vec![Bounded("b"), Bounded("c")]]),
        (vec![Bounded("v")], [vec![Expand(v, PROMISED)], vec![Bounded("a"), Bounded("b")]]),
        // The bytes are counted for the first time while volumes change that a class without a bound made.
        (vec![Make("v", None)], [vec![Make("w", None), Delete(v)], vec![Bounded("a"), Bounded("b")]]),
        (vec![Make("v", None)], [vec![Delete(v), Make("v", None)], vec![Bounded("a"), Delete("nfs#export#a##")]]),
        (vec![Make("v", None)], [vec![Expand(v, 5000), Expand(v, 9000)], vec![Bounded("a"), Expand(v, 7000)]]),
    ]
}

#[tokio::test(start_paused = true)]
async fn two_controllers_together_give_only_answers_that_one_could_have_given() {
    crash_harness::concurrent_controllers(concurrent_controllers(), 4_000, async |server, what| {
        assert_counted(&connect(server), what).await;
    })
    .await;
}

#[tokio::test]
async fn a_mode_and_an_owner_are_set_on_a_directory_that_is_there_already_and_by_a_change() {
    let looks = |server: &MemoryServer| {
        let node = server.tree().get("v").unwrap().clone();
        (node.mode, node.uid, node.gid)
    };
    let server = Call::prepared(&[Write("v"), Owned("v")]).await;
    assert_eq!(looks(&server), (0o2770, 1000, 0));
    Modify("nfs#export#v##").run(&connect(&server)).await.unwrap();
    assert_eq!(looks(&server), (0o700, 1000, 7));
}
