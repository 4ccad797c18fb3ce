//! The agent as a third actor in the scenarios of volumes and snapshots. It runs while controllers die, it dies after
//! their calls, and it races with two controllers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::agent::reconciler::Reconciler;
use crate::agent::watch::Change;
use crate::testing::agent_crashes::{MemoryProjects, Table, agent, assert_agreement};
use crate::testing::crash_harness::{Call, connect, races, reach, settle};
use crate::testing::memory::{Crash, MemoryServer, race};
use crate::testing::{snapshot_crashes, volume_crashes};

/// Runs `work` while an agent checks all volumes again and again.
async fn with_agent<T>(server: &MemoryServer, table: &Table, work: impl Future<Output = T>) -> T {
    let looking = async {
        loop {
            let _ = agent(server, table, None).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { done = work => done, () = looking => unreachable!("the agent never stops") }
}

/// Asserts that the next agent repairs everything.
async fn assert_repaired(server: &MemoryServer, table: &Table, what: &str) {
    assert_eq!(agent(server, table, None).await.1, Ok(true), "{what}");
    assert_agreement(server, table, what).await;
}

/// Lets a controller die at each operation of each call while an agent runs, with and without a loss of power. The
/// agent also runs during the retry. Returns the number of points that it tried.
async fn controllers_die<C: Call>(scenarios: Vec<(Vec<C>, C)>) -> usize {
    let mut points = 0;
    for (before, call) in scenarios {
        for n in 0.. {
            let (server, table) = (C::prepared(&before).await, Table::default());
            agent(&server, &table, None).await.1.unwrap();
            let export = connect(&server);
            export.fs().crash_at(n, if n % 2 == 0 { Crash::BeforeEffect } else { Crash::AfterEffect });
            let at = format!("{before:?} {call:?} dies at {n}");
            let _ = with_agent(&server, &table, call.run(&export)).await;
            let done = export.fs().operations() <= n;
            if n % 3 > 0 {
                // The agent may have been in the middle of a pass.
                let _ = agent(&server, &table, Some(n)).await;
                server.power_loss(n % 3 == 1);
            }
            let export = connect(&server);
            with_agent(&server, &table, call.run(&export)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            settle(&export).await;
            assert_repaired(&server, &table, &at).await;
            assert_eq!(call.faults(&export).await, [], "{at}");
            if done {
                break;
            }
            points += 1;
        }
    }
    points
}

/// Lets the agent die at each operation of its pass after each call. Returns the number of points that it tried.
async fn agents_die<C: Call>(scenarios: Vec<(Vec<C>, C)>) -> usize {
    let mut points = 0;
    for (before, call) in scenarios {
        for n in 0.. {
            let (server, table) = (C::prepared(&before).await, Table::default());
            agent(&server, &table, None).await.1.unwrap();
            let export = connect(&server);
            // Without an agent, a call that waits for a limit fails after it has changed the record.
            let _ = call.run(&export).await;
            let (fs, _) = agent(&server, &table, Some(n)).await;
            server.power_loss(n % 2 == 0);
            settle(&connect(&server)).await;
            assert_repaired(&server, &table, &format!("{before:?} {call:?}, the agent dies at {n}")).await;
            if fs.operations() <= n {
                break;
            }
            points += 1;
        }
    }
    points
}

/// Lets two controllers and the agent race, in orders that depend on a seed.
async fn all_race<C: Call>(scenarios: Vec<(Vec<C>, [Vec<C>; 2])>, rounds: u64) {
    let each = races(rounds) / scenarios.len() as u64;
    for (before, controllers) in scenarios {
        for seed in 0..each {
            let (server, table) = (C::prepared(&before).await, Table::default());
            agent(&server, &table, None).await.1.unwrap();
            let exports = [connect(&server), connect(&server)];
            let at_work = AtomicUsize::new(exports.len());
            let mut racers: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::new();
            for (export, calls) in exports.iter().zip(&controllers) {
                export.fs().interleave_by(seed);
                let at_work = &at_work;
                racers.push(Box::pin(async move {
                    for call in calls {
                        let _ = call.insist(export).await;
                    }
                    at_work.fetch_sub(1, Ordering::Relaxed);
                }));
            }
            racers.push(Box::pin(async {
                let open = async || {
                    let export = reach(&server);
                    let fs = export.fs().clone();
                    fs.interleave(true);
                    let projects = MemoryProjects { fs, table: table.clone() };
                    Reconciler::open(export, projects, 100..=200, Arc::default()).await.unwrap()
                };
                let mut reconciler: Option<Reconciler<_, MemoryProjects>> = None;
                // Doubled, because a controller may wait for seconds, in which the agent has nothing to do.
                let mut pause = Duration::from_millis(1);
                while at_work.load(Ordering::Relaxed) > 0 {
                    match &mut reconciler {
                        Some(reconciler) => {
                            reconciler.records_changed(&Change::Unknown);
                            reconciler.run_until_idle().await;
                        }
                        None => reconciler = open().await,
                    }
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(Duration::from_millis(500));
                }
            }));
            race(seed, racers).await;
            settle(&connect(&server)).await;
            assert_repaired(&server, &table, &format!("seed {seed} of {before:?}, {controllers:?}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn controllers_that_die_beside_an_agent_leave_what_their_retries_and_it_bring_into_agreement() {
    let points = controllers_die(volume_crashes::scenarios()).await;
    assert!(points > 100, "only {points} points were tried");
    let points = controllers_die(snapshot_crashes::scenarios()).await;
    assert!(points > 300, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_after_any_call_is_repaired_by_the_next() {
    let points = agents_die(volume_crashes::scenarios()).await;
    assert!(points > 300, "only {points} points were tried");
    let points = agents_die(snapshot_crashes::scenarios()).await;
    assert!(points > 300, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn two_controllers_and_an_agent_end_in_agreement_whatever_their_order() {
    all_race(volume_crashes::concurrent_controllers(), 1_500).await;
    all_race(snapshot_crashes::concurrent_controllers(), 1_000).await;
}
