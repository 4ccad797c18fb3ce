//! How long callers wait, and what happens to calls for which no one waits any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::*;
use crate::mount::reachability::PATIENCE;
use crate::nfs::source::Share;
use crate::testing::fake_server::{Behaviour, Server as Fake};

/// Within this time a caller learns that a server is gone.
const ALLOWED: Duration = Duration::from_secs(5);

fn gates() -> Arc<Gates> {
    Gates::new(Reachability::new())
}

fn gate(gates: &Gates, fake: &Fake) -> Gate {
    gates.get(fake.address.ip(), fake.address.port())
}

/// Calls that block, as on a server that does not answer, until this is dropped.
struct Stuck {
    _release: Vec<mpsc::Sender<()>>,
    callers: JoinSet<Result<(), Stalled>>,
    running: Arc<AtomicUsize>,
}

fn stuck(gate: &Gate, calls: usize) -> Stuck {
    let mut stuck = Stuck { _release: Vec::new(), callers: JoinSet::new(), running: Arc::default() };
    for _ in 0..calls {
        let (release, wait) = mpsc::channel::<()>();
        stuck._release.push(release);
        let (gate, running) = (gate.clone(), Arc::clone(&stuck.running));
        stuck.callers.spawn(async move {
            gate.run(move || {
                running.fetch_add(1, Ordering::SeqCst);
                let _: Result<(), mpsc::RecvError> = wait.recv();
            })
            .await
        });
    }
    stuck
}

#[tokio::test]
async fn a_call_returns_its_result() {
    let fake = Fake::start(Behaviour::alive()).await;
    assert_eq!(gate(&gates(), &fake).run(|| 7).await, Ok(7));
    assert_eq!(fake.calls(), 0, "no check while calls are quick");
}

#[tokio::test]
async fn a_call_waits_for_a_slow_server() {
    let fake = Fake::start(Behaviour::alive()).await;
    let call = || std::thread::sleep(PATIENCE * 3);
    assert_eq!(gate(&gates(), &fake).run(call).await, Ok(()));
    assert!(fake.calls() >= 2);
}

#[tokio::test]
async fn calls_to_a_dead_server_end_in_time_and_keep_a_bounded_number_of_threads() {
    let (dead, alive) = (Fake::start(Behaviour::Silent).await, Fake::start(Behaviour::alive()).await);
    let gates = gates();
    let (to_dead, to_alive) = (gate(&gates, &dead), gate(&gates, &alive));
    let started = Instant::now();
    let mut stuck = stuck(&to_dead, 200);
    // Calls to another server stay quick.
    for _ in 0..100 {
        let call = Instant::now();
        to_alive.run(|| ()).await.unwrap();
        assert!(call.elapsed() < Duration::from_millis(500));
    }
    while let Some(result) = stuck.callers.join_next().await {
        let stalled = result.unwrap().unwrap_err();
        assert!(stalled.reason.contains("no answer"), "{stalled}");
        assert_eq!(Status::from(stalled), Status::TimedOut);
    }
    assert!(started.elapsed() < ALLOWED, "{:?}", started.elapsed());
    assert_eq!(stuck.running.load(Ordering::SeqCst), THREADS);
    assert_eq!(gates.forced_waits(), 200);
}

#[tokio::test]
async fn an_export_that_does_not_answer_stops_its_own_calls_and_no_others() {
    let fake = Fake::start(Behaviour::alive()).await;
    let of = |share: &str| {
        let source = Source::share(Server::parse("", "nfs").unwrap(), Share::parse("", share).unwrap());
        gate(&gates(), &fake).of_export(&source)
    };
    let frozen = of("/frozen");
    let neighbour = Gate(frozen.0.clone(), of("/neighbour").1);
    let started = Instant::now();
    let mut hanging = stuck(&frozen, 40);
    let in_the_kernel = THREADS - 2;
    for told in 0..40 - in_the_kernel {
        assert_eq!(neighbour.run(|| 7).await, Ok(7));
        let stalled = hanging.callers.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(stalled.to_string().contains("answers, but not for nfs:/frozen"), "{told}: {stalled}");
        assert_eq!(Status::from(stalled), Status::Stuck);
    }
    let late = frozen.run(|| 7).await.unwrap_err();
    assert_eq!(late.export.as_deref(), Some("nfs:/frozen"));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(hanging.running.load(Ordering::SeqCst), in_the_kernel);
    // The calls that hang keep two threads.
    while neighbour.0.threads.free() < THREADS - 2 {
        tokio::task::yield_now().await;
    }
    hanging._release.clear();
    while let Some(call) = hanging.callers.join_next().await {
        assert_eq!(call.unwrap(), Ok(()));
    }
    assert_eq!(frozen.run(|| 7).await, Ok(7));
}

#[tokio::test]
async fn threads_that_hang_count_when_the_gate_is_fetched_again() {
    let fake = Fake::start(Behaviour::Closing).await;
    let gates = gates();
    let mut stuck = stuck(&gate(&gates, &fake), THREADS);
    while stuck.callers.join_next().await.is_some() {}
    assert_eq!(gate(&gates, &fake).0.threads.free(), 0);
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let fake = Fake::start(Behaviour::Closing).await;
    let gate = gate(&gates(), &fake);
    let mut dead = stuck(&gate, THREADS);
    while dead.callers.join_next().await.is_some() {}
    fake.become_(Behaviour::alive());
    drop(dead);
    assert_eq!(gate.run(|| 7).await, Ok(7));
}

/// Reports when it is dropped, and on which thread.
struct Witness(Option<oneshot::Sender<std::thread::ThreadId>>);

impl Drop for Witness {
    fn drop(&mut self) {
        let tell = self.0.take().unwrap();
        let _: Result<(), std::thread::ThreadId> = tell.send(std::thread::current().id());
    }
}

#[tokio::test]
async fn the_result_of_a_call_is_dropped_if_its_caller_is_gone() {
    let fake = Fake::start(Behaviour::alive()).await;
    let gate = gate(&gates(), &fake);
    let (tell, dropped) = oneshot::channel();
    let (release, wait) = mpsc::channel::<()>();
    let witness = Witness(Some(tell));
    let call = gate.run(move || {
        let _: Result<(), mpsc::RecvError> = wait.recv();
        witness
    });
    assert!(timeout(Duration::from_millis(50), call).await.is_err());
    assert_eq!(gate.0.threads.free(), THREADS - 1);
    drop(release);
    dropped.await.unwrap();
    assert_eq!(gate.run(|| 7).await, Ok(7));
}

#[tokio::test]
async fn a_held_value_is_dropped_on_a_thread_of_the_gate() {
    let fake = Fake::start(Behaviour::alive()).await;
    let (tell, dropped) = oneshot::channel();
    drop(gate(&gates(), &fake).hold(Witness(Some(tell))));
    assert_ne!(dropped.await.unwrap(), std::thread::current().id());
}

#[tokio::test]
async fn the_end_waits_for_calls_whose_callers_are_gone_and_for_what_these_return() {
    let fake = Fake::start(Behaviour::alive()).await;
    let gates = gates();
    let gate = gate(&gates, &fake);
    let (tell_begun, begun) = oneshot::channel();
    let (release, wait) = mpsc::channel::<()>();
    let (tell, mut dropped) = oneshot::channel();
    let value = gate.clone();
    let call = gate.run(move || {
        tell_begun.send(()).unwrap();
        wait.recv().unwrap();
        value.hold(Witness(Some(tell)))
    });
    tokio::select! { _ = call => panic!("it waits"), begun = begun => begun.unwrap() }
    let mut ended = std::pin::pin!(gates.ended(ALLOWED));
    assert!(timeout(Duration::from_millis(50), &mut ended).await.is_err());
    release.send(()).unwrap();
    assert!(timeout(ALLOWED, ended).await.is_ok());
    assert!(dropped.try_recv().is_ok());
}

#[tokio::test]
#[should_panic(expected = "in the call")]
async fn a_panic_in_a_call_continues_in_its_caller() {
    let fake = Fake::start(Behaviour::alive()).await;
    let _: Result<(), Stalled> = gate(&gates(), &fake).run(|| panic!("in the call")).await;
}

#[tokio::test]
async fn a_server_has_one_gate_and_an_idle_gate_is_forgotten() {
    let (one, other) = (Fake::start(Behaviour::alive()).await, Fake::start(Behaviour::alive()).await);
    let gates = gates();
    let first = gate(&gates, &one);
    assert!(Arc::ptr_eq(&first.0, &gate(&gates, &one).0));
    drop(first);
    let _second = gate(&gates, &other);
    assert_eq!(gates.gates.len(), 1);
}
