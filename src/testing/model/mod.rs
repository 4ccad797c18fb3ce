//! The reference model: random histories of all that can be asked of controllers, judged by a plain map of what must exist.
//!
//! A history (`history.rs`, made by `random.rs`) is played to two controllers as they ship, on one export in memory
//! (`world.rs`). After each step the answers and the export, data included, are held against the states that the model
//! (`reference/`) allows (`judge.rs`).
//!
//! `CSI_NFS_HISTORIES` says how many histories are played; `CSI_NFS_HISTORY=SEED` plays one alone.

mod files;
mod found;
mod history;
mod judge;
mod random;
mod reference;
mod rpc;
mod world;

use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;

use history::Step;

/// How many histories are played where nobody says how many.
const HISTORIES: u64 = 1000;

fn play(steps: &[Step]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(judge::play(steps))
}

/// The shortest history that still goes wrong which leaving out steps, and faults, one at a time leads to; and how it does.
fn shrunk(mut steps: Vec<Step>, mut wrong: String) -> (Vec<Step>, String) {
    loop {
        let shorter = (0..steps.len()).flat_map(|n| {
            let mut without = steps.clone();
            let mut plain = steps.clone();
            let calls = match without.remove(n) {
                Step::Call { at, call, fault: Some(_) } => vec![(at, call)],
                Step::Both { calls: [first, second], .. } => vec![(0, first), (1, second)],
                _ => Vec::new(),
            };
            plain.splice(n..=n, calls.iter().map(|(at, call)| Step::Call { at: *at, call: call.clone(), fault: None }));
            if calls.is_empty() { vec![without] } else { vec![without, plain] }
        });
        let Some((found, how)) =
            shorter.collect::<Vec<_>>().into_iter().find_map(|steps| play(&steps).err().map(|wrong| (steps, wrong)))
        else {
            return (steps, wrong);
        };
        (steps, wrong) = (found, how);
    }
}

/// Plays histories until one goes wrong, on all processors: what is left of it, in words.
fn first_wrong(mut seeds: Range<u64>) -> Option<String> {
    let seeds = Mutex::new(&mut seeds);
    let wrong = Mutex::new(None);
    let work = || {
        while wrong.lock().unwrap().is_none() {
            let Some(seed) = seeds.lock().unwrap().next() else { break };
            let steps = random::history(seed);
            if let Err(how) = play(&steps) {
                wrong.lock().unwrap().get_or_insert((seed, steps, how));
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..processors).for_each(|_| drop(scope.spawn(work))));
    let (seed, steps, how) = wrong.into_inner().unwrap()?;
    let (steps, how) = shrunk(steps, how);
    let listed: Vec<String> = steps.iter().enumerate().map(|(n, step)| format!("{n}: {step:?}")).collect();
    Some(format!("CSI_NFS_HISTORY={seed} goes wrong; what is left of it:\n{}\n{how}", listed.join("\n")))
}

#[test]
fn every_history_leaves_what_must_exist_and_nothing_else() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = match number("CSI_NFS_HISTORY") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CSI_NFS_HISTORIES").unwrap_or(HISTORIES),
    };
    if let Some(wrong) = first_wrong(seeds) {
        panic!("{wrong}");
    }
}
