//! What a crash, a lost answer or a rival at any point leaves of snapshots, and of volumes that are made of content: on an
//! export in memory, at every point there is.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::lifecycle::{self, Create};
use super::record::{Record, State};
use super::tree::{How, Tree};
use super::{clone, direct};
use crate::check::{Finding, check};
use crate::error::{Error, Result};
use crate::export::fs::Status;
use crate::export::memory::{Crash, MemoryFs, MemoryServer, Node, Tree as Whole, race};
use crate::export::{Export, trash};
use crate::mount::source::{Server, Share, Source};
use crate::volume::access::CapacityRange;
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::fill::{self, Begun};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle as volumes;
use crate::volume::parameters::{Attributes, OnDelete};
use crate::volume::record::{Origin, Record as VolumeRecord};

const POLICY: DeletePolicy = DeletePolicy { default: OnDelete::Delete, replace_archive: false };

/// One call to a controller. Volumes and snapshots are named; `v` is the volume that is copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
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
    Delete(&'static str),
    List,
}

use Call::{Clone as CloneOf, Delete, DeleteSnapshot, List, Make, Restore, Show, Snapshot};

type OnExport = Arc<Export<MemoryFs>>;

fn connect(server: &MemoryServer) -> OnExport {
    let share = Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/export").unwrap());
    Arc::new(Export::new(share, server.client(), Arc::default()))
}

fn named(name: &str) -> VolumeName {
    VolumeName::parse("name", name).unwrap()
}

fn id(name: &str) -> VolumeId {
    VolumeId::parse(&format!("nfs#export#{name}##")).unwrap()
}

impl Call {
    /// What the caller learns. Times are left out.
    async fn run(&self, export: &OnExport) -> Result<String> {
        match self {
            Make(name) => {
                let create = create(name, None);
                let lock = volumes::lock(export, &create.id(export)?).await?;
                volumes::create(export, &create, &lock).await.map(|record| record.id.to_string())
            }
            Snapshot(name, of) => snapshot(export, name, of).await,
            CloneOf(name, of) => {
                let origin = Origin::Volume(id(of).to_string());
                filled(export, name, origin, false, of).await
            }
            Restore(name, of) => {
                let origin = Origin::Snapshot((*of).to_owned());
                filled(export, name, origin, false, of).await
            }
            Show(name, of) => {
                let origin = Origin::Snapshot((*of).to_owned());
                filled(export, name, origin, true, of).await
            }
            DeleteSnapshot(name) => lifecycle::delete(export, &named(name)).await.map(|()| "gone".to_owned()),
            Delete(name) => {
                let id = id(name);
                if delete::is_gone(export, &id).await? {
                    return Ok("gone".to_owned());
                }
                let lock = volumes::lock(export, &id).await?;
                if let Some(record) = delete::delete(export, &id, POLICY, &lock).await? {
                    direct::delete(export, &record, &lock).await?;
                }
                Ok("gone".to_owned())
            }
            List => {
                let mut listed = Vec::new();
                for name in lifecycle::names(export).await? {
                    if Record::read(export, &name).await?.is_some_and(|record| record.state == State::Ready) {
                        listed.push(name);
                    }
                }
                Ok(format!("{listed:?}"))
            }
        }
    }
}

fn create(name: &str, origin: Option<Origin>) -> volumes::Create {
    let asked = match origin {
        Some(Origin::Snapshot(_)) => Attributes { uid: Some(7), ..Attributes::default() },
        _ => Attributes::default(),
    };
    volumes::Create {
        name: named(name),
        sub_dir: None,
        capacity: CapacityRange::new(1000, 0).unwrap(),
        asked,
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin,
    }
}

async fn volume(export: &OnExport, name: &str) -> Result<(Tree<MemoryFs>, u64)> {
    let found = volumes::get(export, &id(name)).await?;
    let (path, capacity) = found.record.map(|record| (record.path().unwrap(), record.capacity)).unwrap();
    Ok((Tree { export: export.clone(), path, what: format!("volume `{name}`") }, capacity))
}

async fn ready(export: &OnExport, name: &str) -> Result<(Tree<MemoryFs>, u64)> {
    let record = lifecycle::get(export, &named(name)).await?;
    if record.state != State::Ready {
        return Err(Error::Precondition("not ready".to_owned()));
    }
    let path = crate::volume::record::snapshot_tree(&named(name))?;
    Ok((Tree { export: export.clone(), path, what: format!("snapshot `{name}`") }, record.size))
}

async fn snapshot(export: &OnExport, name: &str, of: &str) -> Result<String> {
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

async fn filled(export: &OnExport, name: &str, origin: Origin, show: bool, of: &str) -> Result<String> {
    let mut create = create(name, Some(origin.clone()));
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
            Begun::Whole(direct::create(export, &create, &named(snapshot), &lock).await?)
        }
        _ => fill::begin(export, &create, content.as_ref().map_or(0, |(_, size)| *size), &lock).await?,
    };
    drop(lock);
    match (begun, content) {
        (Begun::Pending(_), Some((tree, _))) => clone::fill(export, &create.name, &tree, &How::default()).await?,
        (Begun::Pending(_), None) => return Err(Error::Interrupted("changed".to_owned())),
        (Begun::Whole(_), _) => {}
    }
    match VolumeRecord::read(export, &create.name).await? {
        Some(record) if !record.pending => Ok(format!("{} {} {:?}", record.id, record.capacity, record.shows)),
        _ => Err(Error::Interrupted("changed".to_owned())),
    }
}

/// Lets a controller do in the background what it does there.
async fn settle(export: &OnExport) {
    trash::sweep_staging(export).await.unwrap();
    assert_eq!(trash::clear(export).await.unwrap(), 0);
}

/// The whole tree, with the records' times taken out, and those of directories and links, which come from the clock.
fn seen(server: &MemoryServer) -> Whole {
    let mut tree = server.tree();
    for node in tree.0.values_mut() {
        let text = node.text();
        if text.starts_with('{')
            && let Some((before, _)) = text.split_once(",\"created\":")
        {
            node.content = before.as_bytes().to_vec();
        }
    }
    tree
}

/// Each call under test with what is there before it.
fn scenarios() -> Vec<(Vec<Call>, Call)> {
    let (v, s) = (Make("v"), Snapshot("s", "v"));
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
        (vec![v, s], List),
    ]
}

async fn prepared(before: &[Call]) -> MemoryServer {
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

/// Findings that are no fault: what others made.
fn faults(findings: Vec<Finding>) -> Vec<Finding> {
    let theirs =
        |finding: &Finding| matches!(finding, Finding::DirectoryUnrecorded { directory } if directory == "theirs");
    findings.into_iter().filter(|finding| !theirs(finding)).collect()
}

/// Breaks a call at its `n`-th operation in some way.
type Break = fn(&MemoryFs, u64);

const BREAKS: [(&str, Break, bool); 5] = [
    ("dies before", |fs, n| fs.crash_at(n, Crash::BeforeEffect), true),
    ("dies after", |fs, n| fs.crash_at(n, Crash::AfterEffect), true),
    ("answer lost", |fs, n| fs.lose_answer_at(n), false),
    ("fails", |fs, n| fs.fail_at(n, Status::Io), false),
    ("full", |fs, n| fs.fail_at(n, Status::NoSpc), false),
];

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_short_at_any_operation_is_finished_by_its_retry() {
    let mut points = 0;
    for (before, call) in scenarios() {
        let server = prepared(&before).await;
        let export = connect(&server);
        let answer = call.run(&export).await.unwrap();
        settle(&export).await;
        let (whole, others) = (seen(&server), server.tree().below("theirs"));
        assert_eq!(faults(check(&export).await.unwrap()), [], "{call:?} alone");
        for (how, cut, dies) in BREAKS {
            for lost in [false, true] {
                for n in 0.. {
                    let server = prepared(&before).await;
                    let export = connect(&server);
                    cut(export.fs(), n);
                    let first = call.run(&export).await;
                    if export.fs().operations() <= n {
                        assert_eq!(first.unwrap(), answer);
                        break;
                    }
                    points += 1;
                    let at = format!("{before:?} {call:?} {how} {n}, power lost: {lost}");
                    assert_eq!(server.tree().below("theirs"), others, "{at}: touched what is not its own");
                    if lost {
                        server.power_loss(n % 2 == 0);
                    }
                    let export = if dies || lost { connect(&server) } else { export };
                    assert_eq!(call.run(&export).await.as_ref(), Ok(&answer), "{at}");
                    settle(&export).await;
                    assert_eq!(faults(check(&export).await.unwrap()), [], "{at}");
                    assert_eq!(seen(&server), whole, "{at}");
                }
            }
        }
    }
    assert!(points > 3000, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_repeated_leaves_nothing_half_made_to_be_seen_and_loses_no_other() {
    for (before, call) in scenarios() {
        let server = prepared(&before).await;
        let untouched = List.run(&connect(&server)).await.unwrap();
        let data = server.tree().get("v/sub/data").cloned();
        call.run(&connect(&server)).await.unwrap();
        let done = List.run(&connect(&server)).await.unwrap();
        for n in 0.. {
            let server = prepared(&before).await;
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
            for finding in faults(check(&export).await.unwrap()) {
                let left_over = match (&call, &finding) {
                    // Begun, and hidden until a retry finishes it.
                    (Snapshot(..), Finding::SnapshotPending { .. }) => true,
                    (CloneOf(..) | Restore(..), Finding::VolumePending { .. }) => true,
                    (CloneOf(..) | Restore(..), Finding::DirectoryUnrecorded { .. }) => false,
                    (Show(..), Finding::NoteStale { .. }) => true,
                    // Deleted, and not yet forgotten.
                    (DeleteSnapshot(..), Finding::TreeUnrecorded { .. }) => true,
                    (Delete(_), Finding::DirectoryMissing { .. } | Finding::NoteMissing { .. }) => true,
                    (Delete(_), Finding::SnapshotUnused { .. } | Finding::TreeUnrecorded { .. }) => true,
                    _ => false,
                };
                assert!(left_over, "{at}: {finding}");
            }
        }
    }
}

/// What a run of calls looked like from outside: the answers, and the tree in the end.
type Outcome = (Vec<String>, String);

fn shown(answer: Result<String>) -> String {
    answer.unwrap_or_else(|error: Error| format!("{:?}", error.code()))
}

async fn raced(before: &[Call], rivals: &[Vec<Call>; 2], seed: u64) -> (Outcome, Vec<Finding>) {
    let server = prepared(before).await;
    let exports = [connect(&server), connect(&server)];
    let racers = exports
        .iter()
        .zip(rivals)
        .map(|(export, calls)| {
            export.fs().interleave(true);
            Box::pin(async move {
                let mut answers = Vec::new();
                for call in calls {
                    let mut answer = call.run(export).await;
                    // As a caller does that is told to call again.
                    for _ in 0..8 {
                        if !matches!(answer, Err(Error::Interrupted(_))) {
                            break;
                        }
                        answer = call.run(export).await;
                    }
                    answers.push(shown(answer));
                }
                answers
            }) as Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>>
        })
        .collect();
    let answers = race(seed, racers).await.concat();
    let export = connect(&server);
    settle(&export).await;
    ((answers, seen(&server).to_string()), faults(check(&export).await.unwrap()))
}

/// The outcomes that one controller could have had, which does one call after the other.
async fn sequential(before: &[Call], rivals: &[Vec<Call>; 2]) -> BTreeSet<Outcome> {
    let mut outcomes = BTreeSet::new();
    let total = rivals[0].len() + rivals[1].len();
    for order in 0..1_u32 << total {
        if order.count_ones() as usize != rivals[1].len() {
            continue;
        }
        let server = prepared(before).await;
        let export = connect(&server);
        let mut answers = [Vec::new(), Vec::new()];
        for turn in 0..total {
            let who = (order >> turn & 1) as usize;
            let call = &rivals[who][answers[who].len()];
            answers[who].push(shown(call.run(&export).await));
        }
        settle(&export).await;
        outcomes.insert((answers.concat(), seen(&server).to_string()));
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn two_controllers_together_leave_what_one_could_have_left() {
    let (v, s) = (Make("v"), Snapshot("s", "v"));
    let scenarios: Vec<(Vec<Call>, [Vec<Call>; 2])> = vec![
        (vec![v.clone()], [vec![s.clone()], vec![s.clone()]]),
        (vec![v.clone()], [vec![CloneOf("c", "v")], vec![CloneOf("c", "v")]]),
        (vec![v.clone(), s.clone()], [vec![Restore("r", "s")], vec![DeleteSnapshot("s")]]),
        (vec![v.clone(), s.clone()], [vec![Show("d", "s")], vec![DeleteSnapshot("s")]]),
        (vec![v.clone(), s.clone(), Show("d", "s")], [vec![Delete("d")], vec![DeleteSnapshot("s")]]),
        (vec![v.clone(), s.clone()], [vec![Show("d", "s"), Delete("d")], vec![Show("e", "s"), DeleteSnapshot("s")]]),
        (vec![v.clone()], [vec![s.clone()], vec![Delete("v")]]),
        (vec![v.clone()], [vec![CloneOf("c", "v")], vec![Delete("v")]]),
        (vec![v.clone()], [vec![CloneOf("c", "v"), Delete("c")], vec![CloneOf("c", "v")]]),
        (vec![v], [vec![s.clone(), DeleteSnapshot("s")], vec![s]]),
    ];
    let rounds: u64 = std::env::var("CSI_NFS_RACES").map_or(3_000, |rounds| rounds.parse().unwrap());
    let each = rounds / scenarios.len() as u64;
    for (before, rivals) in scenarios {
        let allowed = sequential(&before, &rivals).await;
        for seed in 0..each {
            let (outcome, findings) = raced(&before, &rivals, seed).await;
            assert_eq!(findings, [], "seed {seed} of {before:?}, {rivals:?}: {:?}", outcome.0);
            assert!(
                allowed.contains(&outcome),
                "seed {seed} of {before:?}, {rivals:?}: {:?}\n{}\nallowed: {allowed:#?}",
                outcome.0,
                outcome.1
            );
        }
    }
}
