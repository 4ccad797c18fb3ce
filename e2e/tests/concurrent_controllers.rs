//! Concurrent calls to two controllers on one export, for the same and for different volumes. A single controller could
//! have given every answer.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rstest::rstest;
use tonic::Status;

use crate::support::csi::volume_content_source::Type as Source;
use crate::support::requests::{self, MIB, from, of_snapshot, of_volume};
use crate::support::{Code, Driver, Lab, Place, Share, checked, csi, random};

/// The number of calls, and the number of calls in flight at the same time.
const CALLS: usize = 1000;
const IN_FLIGHT: usize = 32;
/// The number of volumes. With fewer volumes, more calls collide.
const VOLUMES: u32 = 40;

/// Calls about a volume, a snapshot of it, a clone of it, and a volume that is restored from the snapshot.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    /// The capacity in MiB.
    Create(i64),
    Expand(i64),
    Delete,
    Snapshot,
    DeleteSnapshot,
    Clone,
    DeleteClone,
    Restore,
    DeleteRestored,
}

/// The existing objects, with sizes in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct World {
    volume: Option<i64>,
    snapshot: Option<i64>,
    clone: Option<i64>,
    restored: Option<i64>,
}

/// The result of a call: the size in MiB if it returns one.
type Answer = Result<Option<i64>, Code>;

/// A call with its answer.
#[derive(Debug, Clone, Copy)]
struct Event {
    call: Call,
    began: Instant,
    ended: Instant,
    answer: Answer,
}

/// The history, one line a call: milliseconds after the first call, the call, its answer.
fn told(history: &[Event]) -> String {
    let mut events = history.to_vec();
    events.sort_by_key(|event| event.began);
    let first = events[0].began;
    let ms = |at: Instant| at.duration_since(first).as_millis();
    let line =
        |event: &Event| format!("{:6}..{:6} {:?}: {:?}\n", ms(event.began), ms(event.ended), event.call, event.answer);
    events.iter().map(line).collect()
}

/// The result that a single controller returns in this world, and the world afterwards.
fn alone(world: World, call: Call) -> (Answer, World) {
    let mut after = world;
    /// Creates `copy` from `source`, unless it exists.
    fn copied(copy: &mut Option<i64>, source: Option<i64>) -> Answer {
        *copy = copy.or(source);
        copy.map(Some).ok_or(Code::NotFound)
    }
    fn gone(what: &mut Option<i64>) -> Answer {
        *what = None;
        Ok(None)
    }
    let answer = match (call, world.volume) {
        (Call::Create(asked), Some(has)) if asked > has => Err(Code::AlreadyExists),
        (Call::Create(asked), _) => copied(&mut after.volume, Some(asked)),
        (Call::Expand(_), None) => Err(Code::NotFound),
        (Call::Expand(asked), Some(has)) => {
            after.volume = Some(asked.max(has));
            Ok(after.volume)
        }
        (Call::Delete, _) => gone(&mut after.volume),
        (Call::Snapshot, volume) => copied(&mut after.snapshot, volume),
        (Call::DeleteSnapshot, _) => gone(&mut after.snapshot),
        (Call::Clone, volume) => copied(&mut after.clone, volume),
        (Call::DeleteClone, _) => gone(&mut after.clone),
        (Call::Restore, _) => copied(&mut after.restored, world.snapshot),
        (Call::DeleteRestored, _) => gone(&mut after.restored),
    };
    (answer, after)
}

/// Whether a single controller could have given these answers to the calls in some order. In that order, no call comes
/// before a call that ended before it started. (Wing and Gong, "Testing and verifying concurrent objects", 1993.)
fn has_order(events: &[Event]) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(vec![false; events.len()], World::default())];
    while let Some((done, world)) = open.pop() {
        if done.iter().all(|done| *done) {
            return true;
        }
        if !seen.insert((done.clone(), world)) {
            continue;
        }
        let first_end = events.iter().zip(&done).filter(|(_, done)| !**done).map(|(event, _)| event.ended).min();
        for (index, event) in events.iter().enumerate() {
            if done[index] || first_end.is_some_and(|end| event.began > end) {
                continue;
            }
            let (answer, after) = alone(world, event.call);
            if answer == event.answer {
                let mut done = done.clone();
                done[index] = true;
                open.push((done, after));
            }
        }
    }
    false
}

/// The calls about one volume, its snapshot, clone and restored volume, on a share.
struct Subject<'a> {
    share: &'a Share,
    number: u32,
}

impl Subject<'_> {
    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.number)
    }

    /// Whether the volume is below a common directory. Half of the volumes are.
    fn is_nested(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    fn id(&self, kind: &str) -> String {
        let (server, share, name) = (&self.share.server, &self.share.share[1..], self.name(kind));
        match kind {
            "s" => format!("{server}#{share}#{name}###snapshot"),
            "v" if self.is_nested() => format!("{server}#{share}#team/{name}#{name}#"),
            _ => format!("{server}#{share}#{name}##"),
        }
    }

    fn copy(&self, kind: &str, source: Source) -> csi::CreateVolumeRequest {
        csi::CreateVolumeRequest { capacity_range: None, ..from(self.share, &self.name(kind), source) }
    }

    async fn ask(&self, driver: &Driver, call: Call) -> Result<Option<i64>, Status> {
        let request = match call {
            Call::Create(mib) => {
                let mut request = requests::create(self.share, &self.name("v"));
                request.capacity_range = requests::bytes(mib * MIB);
                if self.is_nested() {
                    request.parameters.insert("subDir".into(), format!("team/{}", self.name("v")));
                }
                request
            }
            Call::Clone => self.copy("c", of_volume(&self.id("v"))),
            Call::Restore => self.copy("r", of_snapshot(&self.id("s"))),
            Call::Expand(mib) => return driver.expand(&self.id("v"), mib * MIB).await.map(|bytes| Some(bytes / MIB)),
            Call::Delete => return driver.delete(&self.id("v")).await.map(|()| None),
            Call::DeleteClone => return driver.delete(&self.id("c")).await.map(|()| None),
            Call::DeleteRestored => return driver.delete(&self.id("r")).await.map(|()| None),
            Call::Snapshot => {
                let taken = driver.take(requests::snapshot(&self.id("v"), &self.name("s"))).await?;
                return match taken.ready_to_use {
                    true => Ok(Some(taken.size_bytes / MIB)),
                    false => Err(Status::unavailable("the snapshot is not ready yet")),
                };
            }
            Call::DeleteSnapshot => return driver.drop_snapshot(&self.id("s")).await.map(|()| None),
        };
        driver.create(request).await.map(|volume| Some(volume.capacity_bytes / MIB))
    }

    /// Repeats the call, as Kubernetes does, while the copy is interrupted or not done.
    async fn insist(&self, driver: &Driver, call: Call) -> Result<Option<i64>, Status> {
        for _ in 0..500 {
            match self.ask(driver, call).await {
                Err(status) if [Code::Unavailable, Code::FailedPrecondition].contains(&status.code()) => {
                    // Kubernetes pauses between two attempts.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer => return answer,
            }
        }
        self.ask(driver, call).await
    }
}

#[rstest]
#[case::both_by_the_kernels_client("kernel", "kernel")]
#[case::one_by_its_own("kernel", "own")]
#[case::both_by_their_own("own", "own")]
#[tokio::test]
async fn two_controllers_give_only_answers_that_one_could_have_given(#[case] one: &str, #[case] other: &str) {
    let lab = Lab::enter().await;
    let mut random = random::seeded();
    let share = lab.share(Place::Xfs);
    let start = async |client: &str| Driver::with(&["--mode=controller", &format!("--client={client}")]).await;
    let drivers = [start(one).await, start(other).await];
    let calls: Vec<(u32, usize, Call)> = (0..CALLS)
        .map(|_| {
            let call = match random.u32(..15) {
                0..4 => Call::Create(random.i64(1..4)),
                4 => Call::Expand(random.i64(1..6)),
                5..7 => Call::Delete,
                7..9 => Call::Snapshot,
                9 => Call::DeleteSnapshot,
                10..12 => Call::Clone,
                12 => Call::DeleteClone,
                13 => Call::Restore,
                _ => Call::DeleteRestored,
            };
            (random.u32(..VOLUMES), random.usize(..2), call)
        })
        .collect();
    let ask = async |(number, driver, call): (u32, usize, Call)| {
        let began = Instant::now();
        let answer = Subject { share: &share, number }.insist(&drivers[driver], call).await;
        let answer = answer.map_err(|status| status.code());
        (number, Event { call, began, ended: Instant::now(), answer })
    };
    let answered: Vec<_> = futures_util::stream::iter(calls).map(ask).buffer_unordered(IN_FLIGHT).collect().await;
    let mut histories: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
    for (number, event) in answered {
        histories.entry(number).or_default().push(event);
    }
    for (number, history) in &histories {
        assert!(has_order(history), "v{number}:\n{}", told(history));
    }
    checked::at_rest(&share).await;
}

#[test]
fn a_history_that_no_single_controller_gives_is_found_out() {
    let begin = Instant::now();
    let at = |ms: u64| begin + std::time::Duration::from_millis(ms);
    let event = |call, from, to, answer| Event { call, began: at(from), ended: at(to), answer };
    let created = event(Call::Create(1), 0, 10, Ok(Some(1)));
    let deleted = event(Call::Delete, 5, 15, Ok(None));
    assert!(has_order(&[created, deleted, event(Call::Expand(2), 20, 30, Err(Code::NotFound))]));
    assert!(has_order(&[created, deleted, event(Call::Expand(2), 20, 30, Ok(Some(2)))]));
    let late = event(Call::Delete, 11, 15, Ok(None));
    assert!(!has_order(&[created, late, event(Call::Expand(2), 20, 30, Ok(Some(2)))]));
    assert!(!has_order(&[created, event(Call::Create(2), 11, 12, Ok(Some(2)))]));
    let taken = event(Call::Snapshot, 11, 14, Ok(Some(1)));
    assert!(has_order(&[created, late, taken, event(Call::Restore, 16, 20, Ok(Some(1)))]));
    assert!(!has_order(&[created, late, event(Call::Snapshot, 16, 20, Ok(Some(1)))]));
}
