//! What a crash, a lost answer or a rival at any point leaves of snapshots, and of volumes that are made of content: on an
//! export in memory, at every point there is.

use crate::check::{Finding, repair};
use crate::error::{Error, Result};
use crate::nfs::source::SubDir;
use crate::snapshot::clone::Content;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::lifecycle::{self, Create};
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::{How, Tree};
use crate::snapshot::{clone, group, snapshot_backed};
use crate::testing::crash_harness::{self, Call as _, Connection, connect, settle};
use crate::testing::memory::{Crash, MemoryFs, MemoryServer, Node};
use crate::volume::access::CapacityRange;
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::fill::{self, Begun};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle as volumes;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::quota;
use crate::volume::record::{Origin, Record as VolumeRecord};

const POLICY: DeletePolicy = DeletePolicy { default: OnDelete::Delete, replace_archive: false };

/// One call to a controller. Volumes and snapshots are named; `v` is the volume that is copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    /// An empty volume.
    Make(&'static str),
    /// A snapshot of a volume.
    Snapshot(&'static str, &'static str),
    /// A volume of a volume.
    Clone(&'static str, &'static str),
    /// A volume of a snapshot, with an owner.
    Restore(&'static str, &'static str),
    /// A volume that shows a snapshot.
    Show(&'static str, &'static str),
    DeleteSnapshot(&'static str),
    /// A group of snapshots of volumes.
    Group(&'static str, &'static [&'static str]),
    /// The group with its snapshots.
    DeleteGroup(&'static str, &'static [&'static str]),
    Delete(&'static str),
    /// An empty volume with the directory `media`, which volumes share.
    MakeShared(&'static str),
    /// A volume of a volume with that directory.
    CloneShared(&'static str, &'static str),
    DeleteShared(&'static str),
    List,
}

use Call::{Clone as CloneOf, CloneShared, Delete, DeleteGroup, DeleteShared, DeleteSnapshot};
use Call::{Group, List, Make, MakeShared, Restore, Show, Snapshot};

pub(super) fn named(name: &str) -> VolumeName {
    VolumeName::parse("name", name).unwrap()
}

fn id(name: &str) -> VolumeId {
    VolumeId::parse(&format!("nfs#export#{name}##")).unwrap()
}

impl crash_harness::Call for Call {
    async fn run(&self, export: &Connection) -> Result<String> {
        match self {
            Make(name) => made(export, create(name, None)).await,
            MakeShared(name) => made(export, shared(create(name, None))).await,
            Snapshot(name, of) => snapshot(export, name, of).await,
            CloneOf(name, of) => {
                let origin = Origin::Volume(id(of).to_string());
                filled(export, create(name, Some(origin)), false, of).await
            }
            CloneShared(name, of) => {
                let origin = Origin::Volume(id(of).to_string());
                filled(export, shared(create(name, Some(origin))), false, of).await
            }
            Restore(name, of) => {
                let origin = Origin::Snapshot((*of).to_owned());
                filled(export, create(name, Some(origin)), false, of).await
            }
            Show(name, of) => {
                let origin = Origin::Snapshot((*of).to_owned());
                filled(export, create(name, Some(origin)), true, of).await
            }
            Group(name, of) => grouped(export, name, of).await,
            DeleteGroup(name, members) => {
                let members: Vec<String> =
                    members.iter().map(|member| format!("nfs#export#{member}###snapshot")).collect();
                group::delete(export, &named(name), &members).await.map(|()| "gone".to_owned())
            }
            DeleteSnapshot(name) => lifecycle::delete(export, &named(name)).await.map(|()| "gone".to_owned()),
            Delete(name) => deleted(export, id(name)).await,
            DeleteShared(name) => deleted(export, VolumeId::parse(&format!("nfs#export#media#{name}#")).unwrap()).await,
            List => {
                let mut listed = Vec::new();
                for name in lifecycle::names(export).await? {
                    if lifecycle::read(export, &name).await?.is_some_and(|record| record.state == State::Ready) {
                        listed.push(name);
                    }
                }
                Ok(format!("{listed:?}"))
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

fn create(name: &str, origin: Option<Origin>) -> volumes::Create {
    // What is filled is as large as its content.
    let capacity = if origin.is_some() { 0 } else { 1000 };
    let asked = match origin {
        Some(Origin::Snapshot(_)) => Attributes { uid: Some(7), ..Attributes::default() },
        _ => Attributes::default(),
    };
    volumes::Create {
        name: named(name),
        sub_dir: None,
        capacity: CapacityRange::new(capacity, 0).unwrap(),
        asked,
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin,
    }
}

fn shared(create: volumes::Create) -> volumes::Create {
    volumes::Create { sub_dir: Some(SubDir::parse("subDir", "media").unwrap()), ..create }
}

async fn made(export: &Connection, create: volumes::Create) -> Result<String> {
    let lock = volumes::lock(export, &create.id(export)?).await?;
    volumes::create(export, &create, quota::patience(), &lock).await.map(|record| record.id.to_string())
}

async fn deleted(export: &Connection, id: VolumeId) -> Result<String> {
    if delete::is_gone(export, &id).await? {
        return Ok("gone".to_owned());
    }
    let lock = volumes::lock(export, &id).await?;
    if let Some(record) = delete::delete(export, &id, POLICY, &lock).await? {
        snapshot_backed::delete(export, &record, &lock).await?;
    }
    Ok("gone".to_owned())
}

async fn volume(export: &Connection, name: &str) -> Result<(Tree<MemoryFs>, u64)> {
    let found = volumes::get_settled(export, &id(name)).await?;
    let unrecorded = || (id(name).sub_dir.names().collect(), 0);
    let (path, capacity) = found.record.map_or_else(unrecorded, |record| (record.path().unwrap(), record.capacity));
    Ok((Tree { export: export.clone(), path, what: format!("volume `{name}`") }, capacity))
}

async fn ready(export: &Connection, name: &str) -> Result<(Tree<MemoryFs>, u64)> {
    let record = lifecycle::get(export, &named(name)).await?;
    if record.state != State::Ready {
        return Err(Error::Precondition("not ready".to_owned()));
    }
    let path = crate::volume::record::snapshot_tree(&named(name))?;
    Ok((Tree { export: export.clone(), path, what: format!("snapshot `{name}`") }, record.size))
}

async fn snapshot(export: &Connection, name: &str, of: &str) -> Result<String> {
    let (name, source) = (named(name), id(of).to_string());
    let shown = |record: Record| format!("{} {} {:?}", record.id, record.size, record.state);
    if let Some(record) = lifecycle::find(export, &name, &source).await?
        && record.state == State::Ready
    {
        return Ok(shown(record));
    }
    let (tree, size) = volume(export, of).await?;
    let create = Create { name: name.clone(), source, size, mount_options: Vec::new() };
    if lifecycle::begin(export, &create, &tree).await?.state == State::Pending {
        lifecycle::fill(export, &name, &tree, &How::default()).await?;
    }
    lifecycle::get(export, &name).await.map(shown)
}

async fn grouped(export: &Connection, name: &str, of: &[&str]) -> Result<String> {
    let name = named(name);
    let shown = |record: GroupRecord| format!("{} {:?} {:?}", record.id, record.members, record.state);
    let sources: Vec<String> = of.iter().map(|of| id(of).to_string()).collect();
    if let Some(record) = group::find(export, &name, &sources).await?
        && record.state == State::Ready
    {
        return Ok(shown(record));
    }
    let (mut trees, mut sizes) = (Vec::new(), Vec::new());
    for of in of {
        let (tree, size) = volume(export, of).await?;
        trees.push(tree);
        sizes.push(size);
    }
    let create = group::Create { name: name.clone(), sources, sizes, mount_options: Vec::new() };
    if group::begin(export, &create, &trees).await?.state == State::Pending {
        group::fill(export, &name, &trees, &How::default()).await?;
    }
    group::get(export, &name).await.map(shown)
}

async fn filled(export: &Connection, mut create: volumes::Create, show: bool, of: &str) -> Result<String> {
    let Some(origin) = create.origin.clone() else { panic!("it is filled with something") };
    if show {
        create.asked = Attributes::default();
    }
    let known = VolumeRecord::read(export, &create.name).await?;
    let content = match &origin {
        _ if known.is_some_and(|record| !record.pending) => None,
        Origin::Volume(_) => Some(volume(export, of).await?),
        Origin::Snapshot(_) => Some(ready(export, of).await?),
    };
    let lock = volumes::lock(export, &create.id(export)?).await?;
    let begun = match (&origin, VolumeRecord::read(export, &create.name).await?) {
        (Origin::Snapshot(snapshot), None) if show => {
            Begun::Whole(snapshot_backed::create(export, &create, &named(snapshot), &lock).await?)
        }
        _ => fill::begin(export, &create, content.as_ref().map(|(_, size)| *size), quota::patience(), &lock).await?,
    };
    drop(lock);
    match (begun, content) {
        (Begun::Pending(_), Some((tree, _))) => {
            clone::fill(export, &create.name, &Content::Tree(tree), &How::default()).await?
        }
        (Begun::Pending(_), None) => return Err(Error::Interrupted("changed".to_owned())),
        (Begun::Whole(_), _) => {}
    }
    match VolumeRecord::read(export, &create.name).await? {
        Some(record) if !record.pending => {
            Ok(format!("{} {} {:?}", record.id, record.capacity, record.backing_snapshot))
        }
        _ => Err(Error::Interrupted("changed".to_owned())),
    }
}

/// Each call under test with what is there before it.
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
                    // Begun, and hidden until a retry finishes it.
                    (Snapshot(..), Finding::SnapshotPending { .. }) => true,
                    (Group(..), Finding::GroupPending { .. }) => true,
                    (CloneOf(..) | CloneShared(..) | Restore(..), Finding::VolumePending { .. }) => true,
                    (CloneShared(..) | MakeShared(..) | DeleteShared(..), Finding::ClaimStale { .. }) => true,
                    (CloneOf(..) | Restore(..), Finding::DirectoryUnrecorded { .. }) => false,
                    (Show(..), Finding::NoteStale { .. }) => true,
                    // Deleted, and not yet forgotten.
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
                assert_eq!(call.faults(&export).await, [], "{at}: not mended");
            }
        }
    }
}

/// Calls of two controllers at once, with what is there before them.
pub(crate) fn rivals() -> Vec<(Vec<Call>, [Vec<Call>; 2])> {
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
    crash_harness::rivals(rivals(), 3_000, agrees).await;
}

/// An attempt that was given up, or deleted, and begun again in the same second is another one: what a controller still
/// does about the first does not reach the second.
#[tokio::test]
async fn a_late_give_up_of_an_earlier_attempt_leaves_the_one_that_was_begun_again() {
    let server = Call::prepared(&[Make("v"), Make("w")]).await;
    let export = connect(&server);
    let (name, source) = (named("s"), id("v").to_string());
    let (tree, size) = volume(&export, "v").await.unwrap();
    let wanted = Create { name: name.clone(), source, size, mount_options: Vec::new() };
    let first = lifecycle::begin(&export, &wanted, &tree).await.unwrap();
    lifecycle::delete(&export, &name).await.unwrap();
    let second = lifecycle::begin(&export, &wanted, &tree).await.unwrap();
    lifecycle::give_up(&export, &first).await.unwrap();
    assert_eq!(lifecycle::get(&export, &name).await, Ok(second));

    let sources = vec![id("v").to_string(), id("w").to_string()];
    let trees = [tree, volume(&export, "w").await.unwrap().0];
    let wanted = group::Create { name: named("g"), sources, sizes: vec![0, 0], mount_options: Vec::new() };
    let first = group::begin(&export, &wanted, &trees).await.unwrap();
    group::delete(
        &export,
        &named("g"),
        &["nfs#export#g-0###snapshot".to_owned(), "nfs#export#g-1###snapshot".to_owned()],
    )
    .await
    .unwrap();
    let second = group::begin(&export, &wanted, &trees).await.unwrap();
    group::give_up(&export, &first).await.unwrap();
    assert_eq!(group::get(&export, &named("g")).await, Ok(second));

    let wanted = create("c", Some(Origin::Volume(id("v").to_string())));
    let begin = async || {
        let lock = volumes::lock(&export, &id("c")).await.unwrap();
        match fill::begin(&export, &wanted, Some(0), quota::patience(), &lock).await.unwrap() {
            Begun::Pending(record) => record,
            Begun::Whole(record) => panic!("{record:?}"),
        }
    };
    let first = begin().await;
    deleted(&export, id("c")).await.unwrap();
    let second = begin().await;
    let lock = volumes::lock(&export, &id("c")).await.unwrap();
    fill::abandon(&export, &first, &named("c"), &lock).await.unwrap();
    assert_eq!(VolumeRecord::read(&export, &named("c")).await, Ok(Some(second)));
}
