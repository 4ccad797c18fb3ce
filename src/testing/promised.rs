//! The index of promised bytes (`volume/overcommit.rs`) against the records, after any history.

use std::sync::Arc;

use proptest::prelude::*;

use crate::error::Error;
use crate::export::Export;
use crate::export::fs::Status;
use crate::testing::crash_harness::{self, Connection, connect, races};
use crate::testing::memory::{Crash, MemoryFs, MemoryServer, Node};
use crate::testing::volume_crashes::create;
use crate::volume::access::CapacityRange;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::limits::Overcommit;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::record::Record;
use crate::volume::record_file::{RecordFile as _, now};
use crate::volume::{change, overcommit, quota};

const INDEX: &str = ".csi-nfs/promised/index.json";
/// The size of an export in memory.
const SIZE: u64 = 1 << 40;

fn bound() -> Overcommit {
    Overcommit::parse("overcommit", "1").unwrap()
}

/// Asserts that what is said to be promised is what the records say.
pub(crate) async fn assert_counted(export: &Export<MemoryFs>, what: &str) {
    let mut promised = 0;
    for name in Record::names(export).await.unwrap() {
        let record = Record::read(export, &name).await.unwrap().unwrap();
        promised += if record.backing_snapshot.is_some() { 0 } else { record.capacity };
    }
    let left = overcommit::left(export, Some(bound())).await.unwrap();
    assert_eq!(SIZE - left, promised, "{what}");
}

fn id(name: &str) -> VolumeId {
    VolumeId::parse(&format!("nfs#export#{name}##")).unwrap()
}

async fn make(on: &Connection, name: &str, bytes: i64, bounded: bool) -> Result<String, Error> {
    let overcommit = bounded.then(bound);
    create(on, name, None, bytes, Attributes { overcommit, ..Attributes::default() }).await
}

async fn expand(on: &Connection, name: &str, bytes: i64) -> Result<u64, Error> {
    let (id, range) = (id(name), CapacityRange::new(bytes, 0).unwrap());
    let grow = |export: Arc<Export<MemoryFs>>, lock| {
        let id = id.clone();
        async move { change::expand(&export, &id, range, quota::patience(), &lock).await }
    };
    on.exports.change(&id, None, grow).await
}

/// What happens to one of a few volumes.
#[derive(Debug, Clone, Copy)]
enum Event {
    Make { bytes: i64, bounded: bool },
    Expand { bytes: i64 },
    Delete,
    Keep,
}

/// How an event's call ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    Dies(u64, Crash),
    Fails(u64, Status),
    AnswerLost(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = 0..1_000_000_i64;
    prop_oneof![
        4 => (bytes.clone(), any::<bool>()).prop_map(|(bytes, bounded)| Event::Make { bytes, bounded }),
        3 => bytes.prop_map(|bytes| Event::Expand { bytes }),
        2 => Just(Event::Delete),
        1 => Just(Event::Keep),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let at = 0..50_u64;
    let crash = prop_oneof![Just(Crash::BeforeEffect), Just(Crash::AfterEffect)];
    let status = prop_oneof![Just(Status::Io), Just(Status::NoSpc)];
    prop_oneof![
        4 => Just(End::Whole),
        2 => (at.clone(), crash).prop_map(|(n, crash)| End::Dies(n, crash)),
        2 => (at.clone(), status).prop_map(|(n, status)| End::Fails(n, status)),
        1 => at.prop_map(End::AnswerLost),
    ]
}

async fn run(on: &Connection, name: &str, event: Event) {
    // What the call answers is the subject of other tests.
    let _answer = match event {
        Event::Make { bytes, bounded } => make(on, name, bytes, bounded).await.map(drop),
        Event::Expand { bytes } => expand(on, name, bytes).await.map(drop),
        Event::Delete => crash_harness::delete(on, &id(name)).await.map(drop),
        Event::Keep => {
            let retain = VolumeId { on_delete: Some(OnDelete::Retain), ..id(name) };
            crash_harness::delete(on, &retain).await.map(drop)
        }
    };
}

async fn follow(history: Vec<(bool, usize, Event, End)>) {
    let server = MemoryServer::new();
    let mut controllers = [connect(&server), connect(&server)];
    for (step, (second, volume, event, end)) in history.iter().enumerate() {
        let on = &mut controllers[usize::from(*second)];
        let from = on.fs().operations();
        match *end {
            End::Whole => {}
            End::Dies(n, crash) => on.fs().crash_at(from + n, crash),
            End::Fails(n, status) => on.fs().fail_at(from + n, status),
            End::AnswerLost(n) => on.fs().lose_answer_at(from + n),
        }
        run(on, ["a", "b", "c"][*volume], *event).await;
        // A lock that could not be released is released by a retry, which the next operations may be.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        on.fs().forget_faults();
        if matches!(end, End::Dies(..)) {
            on.fs().crash();
            *on = connect(&server);
        }
        assert_counted(&connect(&server), &format!("step {step} of {history:?}")).await;
    }
}

proptest! {
    // A history takes about as long as ten races, and one thread runs them all.
    #![proptest_config(ProptestConfig::with_cases(u32::try_from(races(4000) / 10).unwrap()))]
    #[test]
    fn what_is_promised_is_what_the_records_say_after_any_history(
        history in prop::collection::vec((any::<bool>(), 0..3_usize, event(), end()), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(follow(history));
    }
}

/// An export with this many volumes without a bound, and one with a bound, whose creation has counted them.
async fn counted_beside(volumes: usize) -> (MemoryServer, Connection) {
    let server = MemoryServer::new();
    let export = connect(&server);
    for n in 0..volumes {
        make(&export, &format!("old{n}"), 1000, false).await.unwrap();
    }
    make(&export, "first", 1000, true).await.unwrap();
    (server, export)
}

#[tokio::test(start_paused = true)]
async fn a_change_costs_the_same_however_many_volumes_there_are() {
    let mut costs = Vec::new();
    for volumes in [10, 400] {
        let (_server, export) = counted_beside(volumes).await;
        let mut cost = Vec::new();
        let mut before = export.fs().operations();
        let mut spent = |export: &Connection| {
            let now = export.fs().operations();
            cost.push(now - std::mem::replace(&mut before, now));
        };
        make(&export, "v", 1000, true).await.unwrap();
        spent(&export);
        make(&export, "w", 1000, false).await.unwrap();
        spent(&export);
        expand(&export, "v", 2000).await.unwrap();
        spent(&export);
        crash_harness::delete(&export, &id("w")).await.unwrap();
        spent(&export);
        overcommit::left(&export, Some(bound())).await.unwrap();
        spent(&export);
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[1]);
}

#[tokio::test(start_paused = true)]
async fn an_index_with_an_impossible_sum_is_made_anew() {
    let (server, export) = counted_beside(2).await;
    let mut index: serde_json::Value = serde_json::from_str(&server.tree().0[INDEX.as_bytes()].text()).unwrap();
    index["others"] = u128::MAX.to_string().into();
    server.remove(INDEX).unwrap();
    server.plant(INDEX, Node::file(0o600, index.to_string())).unwrap();
    assert_eq!(overcommit::indexed(&export).await.unwrap(), None);
    make(&export, "v", 1000, true).await.unwrap();
    assert_counted(&export, "made anew").await;
}

/// Sets the age of the index, in seconds.
fn age(server: &MemoryServer, seconds: u64) {
    let mut index: serde_json::Value = serde_json::from_str(&server.tree().0[INDEX.as_bytes()].text()).unwrap();
    index["counted"] = (now() - seconds).into();
    server.remove(INDEX).unwrap();
    server.plant(INDEX, Node::file(0o600, index.to_string())).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_others_did_without_the_index_counts_when_it_is_made_anew() {
    let server = MemoryServer::new();
    let export = connect(&server);
    make(&export, "v", 1000, true).await.unwrap();
    make(&export, "w", 500, true).await.unwrap();
    // A driver of an earlier version expands a volume, and somebody removes the record of another by hand.
    let name = VolumeName::parse("", "v").unwrap();
    let record = Record::read(&export, &name).await.unwrap().unwrap();
    Record { capacity: 7000, ..record }.write(&export).await.unwrap();
    make(&export, "x", 100, true).await.unwrap();
    server.remove(".csi-nfs/volumes/w.json").unwrap();
    age(&server, 1000);
    make(&export, "y", 10, true).await.unwrap();
    assert_counted(&export, "made anew").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_refused_because_of_an_old_index() {
    for seconds in [100, 1000] {
        let server = MemoryServer::new();
        let export = connect(&server);
        make(&export, "v", SIZE.cast_signed() - 1000, true).await.unwrap();
        make(&export, "w", 1000, true).await.unwrap();
        for more in [1, 1000, 5000] {
            assert!(matches!(make(&export, "x", more, true).await, Err(Error::Exhausted(_))), "{more}");
        }
        server.remove(".csi-nfs/volumes/v.json").unwrap();
        age(&server, seconds);
        make(&export, "x", 1000, true).await.unwrap();
        assert_counted(&export, "after the refusal").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_that_leaves_enough_is_not_made_anew_before_it_is_old() {
    let server = MemoryServer::new();
    let export = connect(&server);
    make(&export, "v", 1000, true).await.unwrap();
    make(&export, "w", 1000, true).await.unwrap();
    age(&server, 100);
    server.remove(".csi-nfs/volumes/v.json").unwrap();
    make(&export, "x", 1000, true).await.unwrap();
    assert_eq!(overcommit::left(&export, Some(bound())).await.unwrap(), SIZE - 3000, "no record was counted");
}

#[tokio::test(start_paused = true)]
async fn an_index_that_cannot_be_read_is_made_anew_and_stops_no_other_change() {
    let server = MemoryServer::new();
    let export = connect(&server);
    make(&export, "v", 1000, true).await.unwrap();
    for content in ["", "counting", "{\"version\":2}", "{\"version\":1,\"others\":\"-1\",\"counted\":1}"] {
        for bounded in [false, true] {
            server.remove(INDEX).unwrap();
            server.plant(INDEX, Node::file(0o600, content)).unwrap();
            make(&export, "w", 1000, bounded).await.unwrap();
            assert_counted(&export, content).await;
            crash_harness::delete(&export, &id("w")).await.unwrap();
            make(&export, "v2", 1000, true).await.unwrap();
            crash_harness::delete(&export, &id("v2")).await.unwrap();
            assert_counted(&export, content).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn asking_what_is_left_writes_nothing() {
    let server = MemoryServer::new();
    let export = connect(&server);
    assert_eq!(overcommit::left(&export, Some(bound())).await.unwrap(), SIZE);
    assert!(server.tree().paths().is_empty(), "{:?}", server.tree().paths());
    make(&export, "v", 1000, false).await.unwrap();
    let before = server.tree();
    assert_eq!(overcommit::left(&export, Some(bound())).await.unwrap(), SIZE - 1000);
    assert_eq!(server.tree(), before);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_was_made_during_a_change_that_found_none_is_made_anew() {
    let server = MemoryServer::new();
    let (export, other) = (connect(&server), connect(&server));
    make(&export, "v", 1000, false).await.unwrap();
    let name = VolumeName::parse("", "v").unwrap();
    let record = Record::read(&export, &name).await.unwrap().unwrap();
    let change = overcommit::begin(&export, &name, None, 0).await.unwrap();
    make(&other, "w", 500, true).await.unwrap();
    Record { capacity: 7000, ..record }.write(&export).await.unwrap();
    change.end(&export).await.unwrap();
    assert_counted(&export, "without an index").await;
    make(&other, "x", 500, true).await.unwrap();
    assert_counted(&export, "made anew").await;
}

#[tokio::test(start_paused = true)]
async fn another_count_reads_only_records_that_are_new() {
    let mut costs = Vec::new();
    for volumes in [10, 400] {
        let (server, export) = counted_beside(volumes).await;
        make(&export, "second", 1000, true).await.unwrap();
        age(&server, 1000);
        let before = export.fs().operations();
        make(&export, "third", 1000, true).await.unwrap();
        costs.push(export.fs().operations() - before);
        assert_counted(&export, "made anew").await;
    }
    // A listing has pages. Reading a record takes an operation or more.
    assert!(costs[1] - costs[0] < 390 / 4, "{costs:?}");
}
