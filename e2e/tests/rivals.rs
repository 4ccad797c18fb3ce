//! Two controllers on one export, called for the same and for different volumes at once: every answer is one that a single
//! controller could have given.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use futures_util::StreamExt as _;

use crate::support::requests::{self, MIB};
use crate::support::{Code, Driver, Lab, Place, checked, random};

/// Calls in all, and in flight.
const CALLS: usize = 1000;
const IN_FLIGHT: usize = 32;
/// Volumes that they are about. (With fewer, more calls meet.)
const VOLUMES: u32 = 40;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    /// With so many MiB.
    Create(i64),
    Expand(i64),
    Delete,
}

/// A call that was answered: with the volume's size in MiB where it tells one.
#[derive(Debug, Clone, Copy)]
struct Event {
    call: Call,
    began: Instant,
    ended: Instant,
    answer: Result<Option<i64>, Code>,
}

/// What a single controller answers about a volume of this size, if there is one, and the size afterwards.
fn alone(size: Option<i64>, call: Call) -> (Result<Option<i64>, Code>, Option<i64>) {
    match (call, size) {
        (Call::Create(asked), None) => (Ok(Some(asked)), Some(asked)),
        (Call::Create(asked), Some(has)) if asked <= has => (Ok(Some(has)), size),
        (Call::Create(_), Some(_)) => (Err(Code::AlreadyExists), size),
        (Call::Expand(_), None) => (Err(Code::NotFound), None),
        (Call::Expand(asked), Some(has)) => (Ok(Some(asked.max(has))), Some(asked.max(has))),
        (Call::Delete, _) => (Ok(None), None),
    }
}

/// Whether there is an order of the calls, none before one that had ended when it began, in which a single controller gives
/// these answers. (Wing and Gong, "Testing and verifying concurrent objects", 1993.)
fn has_order(events: &[Event]) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(vec![false; events.len()], None)];
    while let Some((done, size)) = open.pop() {
        if done.iter().all(|done| *done) {
            return true;
        }
        if !seen.insert((done.clone(), size)) {
            continue;
        }
        let first_end = events.iter().zip(&done).filter(|(_, done)| !**done).map(|(event, _)| event.ended).min();
        for (index, event) in events.iter().enumerate() {
            if done[index] || first_end.is_some_and(|end| event.began > end) {
                continue;
            }
            let (answer, after) = alone(size, event.call);
            if answer == event.answer {
                let mut done = done.clone();
                done[index] = true;
                open.push((done, after));
            }
        }
    }
    false
}

#[tokio::test]
async fn two_controllers_give_only_answers_that_one_could_have_given() {
    let lab = Lab::enter().await;
    let mut random = random::seeded();
    let share = lab.share(Place::Xfs);
    let drivers = [Driver::with(&["--mode=controller"]).await, Driver::with(&["--mode=controller"]).await];
    let name = |volume: u32| format!("v{volume}");
    // Half of them are in one directory.
    let nested = |volume: u32| volume.is_multiple_of(2);
    let id = |volume: u32| {
        let (server, base, name) = (&share.server, &share.share[1..], name(volume));
        if nested(volume) {
            format!("{server}#{base}#team/{name}#{name}#")
        } else {
            format!("{server}#{base}#{name}##")
        }
    };
    let calls: Vec<(u32, usize, Call)> = (0..CALLS)
        .map(|_| {
            let call = match random.u32(..6) {
                0..3 => Call::Create(random.i64(1..4)),
                3 => Call::Expand(random.i64(1..6)),
                _ => Call::Delete,
            };
            (random.u32(..VOLUMES), random.usize(..2), call)
        })
        .collect();
    let ask = async |(volume, driver, call): (u32, usize, Call)| {
        let driver = &drivers[driver];
        let began = Instant::now();
        let answer = match call {
            Call::Create(mib) => {
                let mut request = requests::create(&share, &name(volume));
                request.capacity_range = requests::bytes(mib * MIB);
                if nested(volume) {
                    request.parameters.insert("subDir".into(), format!("team/{}", name(volume)));
                }
                driver.create(request).await.map(|volume| Some(volume.capacity_bytes / MIB))
            }
            Call::Expand(mib) => driver.expand(&id(volume), mib * MIB).await.map(|bytes| Some(bytes / MIB)),
            Call::Delete => driver.delete(&id(volume)).await.map(|()| None),
        };
        let answer = answer.map_err(|status| status.code());
        (volume, Event { call, began, ended: Instant::now(), answer })
    };
    let answered: Vec<_> = futures_util::stream::iter(calls).map(ask).buffer_unordered(IN_FLIGHT).collect().await;
    let mut histories: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
    for (volume, event) in answered {
        histories.entry(volume).or_default().push(event);
    }
    for (volume, history) in &histories {
        assert!(has_order(history), "{}: {history:#?}", name(*volume));
    }
    share.trash_is_empty().await;
    checked::agrees(&share);
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
}
