//! What a crash, a lost answer or a rival at any point leaves of the life of volumes: on an export in memory, at every
//! point there is.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::access::CapacityRange;
use super::delete::{self, DeletePolicy};
use super::id::{VolumeId, VolumeName};
use super::lifecycle::{self, Create};
use super::parameters::{Attributes, OnDelete};
use crate::check::{Finding, check};
use crate::error::{Error, Result};
use crate::export::fs::Status;
use crate::export::memory::{Crash, MemoryFs, MemoryServer, Node, Tree, race};
use crate::export::{Export, trash};
use crate::mount::source::{Server, Share, Source, SubDir};

const POLICY: DeletePolicy = DeletePolicy { default: OnDelete::Delete, replace_archive: false };

/// One call to a controller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    /// Name, directory.
    Create(&'static str, Option<&'static str>),
    Owned(&'static str),
    Delete(&'static str),
    Expand(&'static str, i64),
    Modify(&'static str),
    List,
}

use Call::{Create as Make, Delete, Expand, List, Modify, Owned};

fn connect(server: &MemoryServer) -> Export<MemoryFs> {
    let share = Source::share(Server::parse("server", "nfs").unwrap(), Share::parse("share", "/export").unwrap());
    Export::new(share, server.client(), Arc::default())
}

impl Call {
    /// What the caller learns. Times are left out.
    async fn run(&self, export: &Export<MemoryFs>) -> Result<String> {
        let id = |text: &str| VolumeId::parse(text).unwrap();
        match self {
            Make(name, sub_dir) => create(export, name, *sub_dir, Attributes::default()).await,
            Owned(name) => {
                let attributes = Attributes { uid: Some(1000), mode: Some(0o2770), ..Attributes::default() };
                create(export, name, None, attributes).await
            }
            Delete(volume) => {
                let id = id(volume);
                if !delete::is_gone(export, &id).await? {
                    delete::delete(export, &id, POLICY, &lifecycle::lock(export, &id).await?).await?;
                }
                Ok("gone".to_owned())
            }
            Expand(volume, to) => {
                let (id, range) = (id(volume), CapacityRange::new(*to, 0).unwrap());
                let lock = lifecycle::lock(export, &id).await?;
                lifecycle::expand(export, &id, range, &lock).await.map(|bytes| bytes.to_string())
            }
            Modify(volume) => {
                let id = id(volume);
                let changes = Attributes { mode: Some(0o700), gid: Some(7), ..Attributes::default() };
                let lock = lifecycle::lock(export, &id).await?;
                lifecycle::modify(export, &id, changes, &lock).await.map(|()| "changed".to_owned())
            }
            List => lifecycle::names(export).await.map(|names| format!("{names:?}")),
        }
    }
}

async fn create(export: &Export<MemoryFs>, name: &str, sub_dir: Option<&str>, asked: Attributes) -> Result<String> {
    let create = Create {
        name: VolumeName::parse("name", name).unwrap(),
        sub_dir: sub_dir.map(|path| SubDir::parse("subDir", path).unwrap()),
        capacity: CapacityRange::new(1000, 0).unwrap(),
        asked,
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: None,
    };
    let lock = lifecycle::lock(export, &create.id(export)?).await?;
    lifecycle::create(export, &create, &lock).await.map(|record| format!("{} {}", record.id, record.capacity))
}

/// Lets a controller do in the background what it does there.
async fn settle(export: &Export<MemoryFs>) {
    trash::sweep_staging(export).await.unwrap();
    assert_eq!(trash::clear(export).await.unwrap(), 0);
}

/// The whole tree, with the records' times taken out.
fn seen(server: &MemoryServer) -> Tree {
    let mut tree = server.tree();
    for node in tree.0.values_mut() {
        let text = node.text();
        if let Some((before, _)) = text.split_once(",\"created\":") {
            node.content = before.as_bytes().to_vec();
        }
    }
    tree
}

/// Each call under test with what is there before it.
fn scenarios() -> Vec<(Vec<Call>, Call)> {
    let nested = Make("v", Some("team/app"));
    vec![
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
    ]
}

async fn prepared(before: &[Call]) -> MemoryServer {
    let server = MemoryServer::new();
    server.plant("theirs/precious", Node::file(0o644, "kept")).unwrap();
    let export = connect(&server);
    for call in before {
        call.run(&export).await.unwrap();
    }
    for volume in ["v", "w", "team/app", "team/web"] {
        if server.tree().has(volume) {
            server.plant(format!("{volume}/data"), Node::file(0o600, volume)).unwrap();
        }
    }
    settle(&export).await;
    server
}

/// Findings that are no fault: what others made, and what was to be retained.
fn faults(findings: Vec<Finding>, call: &Call) -> Vec<Finding> {
    let retained = matches!(call, Delete(volume) if volume.ends_with("retain"));
    let allowed = |finding: &Finding| match finding {
        Finding::DirectoryUnrecorded { directory } => directory == "theirs" || (retained && directory == "v"),
        _ => false,
    };
    findings.into_iter().filter(|finding| !allowed(finding)).collect()
}

/// Breaks a call at its `n`-th operation in some way; false where it has no such operation.
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
        assert_eq!(faults(check(&export).await.unwrap(), &call), [], "{call:?} alone");
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
                    assert_eq!(
                        server.tree().below("theirs"),
                        others,
                        "{call:?} {how} {n}: touched what is not its own"
                    );
                    if lost {
                        server.power_loss(n % 2 == 0);
                    }
                    let export = if dies || lost { connect(&server) } else { export };
                    assert_eq!(call.run(&export).await.unwrap(), answer, "{call:?} {how} {n}, power lost: {lost}");
                    settle(&export).await;
                    assert_eq!(
                        faults(check(&export).await.unwrap(), &call),
                        [],
                        "{call:?} {how} {n}, power lost: {lost}"
                    );
                    assert_eq!(seen(&server), whole, "{call:?} {how} {n}, power lost: {lost}");
                }
            }
        }
    }
    assert!(points > 1000, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_repeated_leaves_no_volume_half_made_and_loses_no_other() {
    for (before, call) in scenarios() {
        let untouched = seen(&prepared(&before).await);
        for n in 0.. {
            let server = prepared(&before).await;
            let export = connect(&server);
            export.fs().crash_at(n, Crash::AfterEffect);
            let done = call.run(&export).await.is_ok();
            if export.fs().operations() <= n {
                break;
            }
            let export = connect(&server);
            settle(&export).await;
            // What is listed is whole; what the call was about is there or not; everybody else's data is as it was.
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
                    // Deleted, and not yet forgotten: its retry does that. Made, and not yet recorded: likewise.
                    (Delete(_), Finding::DirectoryMissing { .. }) => true,
                    (Delete(_) | Make(..) | Owned(_), Finding::ClaimStale { .. }) => true,
                    (Delete(_) | Make(..) | Owned(_), Finding::DirectoryUnrecorded { .. }) => true,
                    (_, Finding::DirectoryUnrecorded { directory }) => directory == "theirs",
                    _ => false,
                };
                assert!(left_over, "{call:?} dies after {n}: {finding}");
            }
        }
    }
}

/// What a run of calls looked like from outside: the answers, and the tree in the end.
type Outcome = (Vec<String>, String);

fn shown(answer: Result<String>) -> String {
    answer.unwrap_or_else(|error: Error| format!("{:?}", error.code()))
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

async fn raced(before: &[Call], rivals: &[Vec<Call>; 2], seed: u64) -> Outcome {
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
                    answers.push(shown(call.run(export).await));
                }
                answers
            }) as Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>>
        })
        .collect();
    let answers = race(seed, racers).await.concat();
    settle(&connect(&server)).await;
    (answers, seen(&server).to_string())
}

#[tokio::test(start_paused = true)]
async fn two_controllers_together_give_only_answers_that_one_could_have_given() {
    let v = "nfs#export#v##";
    let (app, web) = ("nfs#export#team/app#a#", "nfs#export#team/app#b#");
    let (make_app, make_web) = (Make("a", Some("team/app")), Make("b", Some("team/app")));
    let scenarios: Vec<(Vec<Call>, [Vec<Call>; 2])> = vec![
        (vec![], [vec![Make("v", None), Delete(v)], vec![Make("v", None), Delete(v)]]),
        (vec![], [vec![Make("v", None), Delete(v), Make("v", None)], vec![Delete(v), Make("v", None)]]),
        (vec![], [vec![Owned("v")], vec![Make("v", None)]]),
        (vec![Make("v", None)], [vec![Delete(v), Make("v", None)], vec![Expand(v, 5000), Modify(v)]]),
        (vec![], [vec![make_app.clone(), Delete(app)], vec![make_web.clone(), Delete(web)]]),
        (vec![make_app.clone()], [vec![Delete(app), make_app.clone()], vec![make_web, Delete(web)]]),
        (vec![], [vec![make_app, Delete(app)], vec![Make("team", None), Delete("nfs#export#team##")]]),
        (vec![Make("v", None)], [vec![Delete("nfs#export#v##archive"), Make("v", None)], vec![Delete(v)]]),
    ];
    let rounds: u64 = std::env::var("CSI_NFS_RACES").map_or(4_000, |rounds| rounds.parse().unwrap());
    let each = rounds / scenarios.len() as u64;
    for (before, rivals) in scenarios {
        let allowed = sequential(&before, &rivals).await;
        for seed in 0..each {
            let outcome = raced(&before, &rivals, seed).await;
            assert!(
                allowed.contains(&outcome),
                "seed {seed} of {before:?}, {rivals:?}: {:?}\n{}\nallowed: {allowed:#?}",
                outcome.0,
                outcome.1
            );
        }
    }
}
