//! What callers learn about a server, when the server is checked, and when it is dead.

use rstest::rstest;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::testing::fake_server::{Behaviour, Server as Fake};

fn server(name: &str) -> Server {
    Server::parse("server", name).unwrap()
}

async fn check(reachability: &Arc<Reachability>, fake: &Fake) -> Result<IpAddr> {
    reachability.check(&server("127.0.0.1"), fake.address.port()).await
}

/// A port that nothing listens on.
async fn closed_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[rstest]
#[case::that_has_version_4(Behaviour::alive())]
#[case::that_has_version_3_alone(Behaviour::Words(vec![1, 0, 0, 0, 2, 3, 3]))]
#[case::that_wants_other_credentials(Behaviour::Words(vec![1, 1, 1, 5]))]
#[case::that_is_slow(Behaviour::Slow(Duration::from_millis(300)))]
#[tokio::test]
async fn a_server_answers(#[case] behaviour: Behaviour) {
    let fake = Fake::start(behaviour).await;
    assert_eq!(check(&Reachability::new(), &fake).await.unwrap(), fake.address.ip());
}

#[rstest]
#[case::silent(Behaviour::Silent, "no answer")]
#[case::closing(Behaviour::Closing, "")]
#[case::another_program(Behaviour::Words(vec![1, 0, 0, 0, 1]), "does not have this program")]
#[case::garbage(Behaviour::Bytes(vec![0xff; 100]), "not from an RPC server")]
#[tokio::test]
async fn a_server_that_is_gone_is_reported_within_the_time_out(#[case] behaviour: Behaviour, #[case] why: &str) {
    let fake = Fake::start(behaviour).await;
    let started = Instant::now();
    let Err(Error::Unreachable { server, port, reason }) = check(&Reachability::new(), &fake).await else {
        panic!("reachable");
    };
    assert!(started.elapsed() < CHECK_TIMEOUT + Duration::from_millis(500));
    assert_eq!((server.as_str(), port), ("127.0.0.1", fake.address.port()));
    assert!(reason.contains(why), "{reason}");
}

#[tokio::test]
async fn an_address_is_checked_once_for_all_its_names() {
    let fake = Fake::start(Behaviour::alive()).await;
    let (reachability, port) = (Reachability::new(), fake.address.port());
    for name in ["localhost", "127.0.0.1", "LOCALHOST", "localhost"] {
        assert_eq!(reachability.check(&server(name), port).await, Ok(fake.address.ip()), "{name}");
    }
    assert_eq!(fake.calls(), 1);
    assert!(reachability.addresses(&server("localhost"), port).await.contains(&fake.address.ip()));
}

#[tokio::test]
async fn a_refusing_server_is_reported_at_once() {
    let started = Instant::now();
    let error = Reachability::new().check(&server("127.0.0.1"), closed_port().await).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_reported() {
    let error = Reachability::new().check(&server("no-such-host.invalid"), 2049).await.unwrap_err();
    assert!(error.to_string().contains("cannot be resolved"), "{error}");
}

#[tokio::test]
async fn many_callers_share_one_check() {
    let fake = Fake::start(Behaviour::Slow(Duration::from_millis(100))).await;
    let reachability = Reachability::new();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (reachability, port) = (Arc::clone(&reachability), fake.address.port());
        callers.spawn(async move { reachability.check(&server("127.0.0.1"), port).await });
    }
    assert!(callers.join_all().await.iter().all(Result::is_ok));
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn a_check_outlives_its_caller() {
    let fake = Fake::start(Behaviour::Slow(Duration::from_millis(200))).await;
    let reachability = Reachability::new();
    timeout(Duration::from_millis(50), check(&reachability, &fake)).await.unwrap_err();
    check(&reachability, &fake).await.unwrap();
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn an_answer_is_reused_for_a_second_either_way() {
    let fake = Fake::start(Behaviour::Closing).await;
    let reachability = Reachability::new();
    check(&reachability, &fake).await.unwrap_err();
    fake.become_(Behaviour::alive());
    check(&reachability, &fake).await.unwrap_err();
    tokio::time::sleep(FRESH).await;
    check(&reachability, &fake).await.unwrap();
    fake.become_(Behaviour::Closing);
    check(&reachability, &fake).await.unwrap();
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_is_dead_after_several_misses_over_tens_of_seconds_until_one_answer() {
    let fake = Fake::start(Behaviour::Closing).await;
    let reachability = Reachability::new();
    let is_dead = || reachability.is_dead(&server("127.0.0.1"), fake.address.port());
    check(&reachability, &fake).await.unwrap_err();
    tokio::time::sleep(DEAD.1 * 2).await;
    check(&reachability, &fake).await.unwrap_err();
    assert!(!is_dead(), "two misses, however far apart");
    while !is_dead() {
        tokio::time::sleep(FRESH).await;
        check(&reachability, &fake).await.unwrap_err();
    }
    tokio::time::resume();
    fake.become_(Behaviour::alive());
    tokio::time::sleep(FRESH).await;
    check(&reachability, &fake).await.unwrap();
    assert!(!is_dead());
}

#[tokio::test]
async fn the_state_of_a_server_says_since_when() {
    let fake = Fake::start(Behaviour::alive()).await;
    let reachability = Reachability::new();
    assert_eq!(reachability.states(), []);
    check(&reachability, &fake).await.unwrap();
    let [first] = &reachability.states()[..] else { panic!("one server") };
    assert_eq!(first.result, Ok(fake.address.ip()));

    tokio::time::sleep(FRESH).await;
    check(&reachability, &fake).await.unwrap();
    let [second] = &reachability.states()[..] else { panic!("one server") };
    assert_eq!(fake.calls(), 2, "it was checked again");
    assert_eq!(second.since, first.since);

    fake.become_(Behaviour::Closing);
    tokio::time::sleep(FRESH).await;
    check(&reachability, &fake).await.unwrap_err();
    let [third] = &reachability.states()[..] else { panic!("one server") };
    assert!(third.result.is_err() && third.since > first.since, "{third:?}");
}

#[tokio::test]
async fn a_server_in_use_is_checked_whether_or_not_anybody_calls_until_it_is_no_longer_used() {
    let fake = Fake::start(Behaviour::alive()).await;
    let reachability = Reachability::new();
    let beating = Arc::clone(&reachability);
    tokio::spawn(async move { beating.keep_checking().await });
    check(&reachability, &fake).await.unwrap();
    // An answer comes in real time, and a miss in the test's.
    tokio::time::pause();
    let state = || reachability.states().first().cloned();
    let until = async |wanted: &dyn Fn(&Option<ServerState>) -> bool| {
        while !wanted(&state()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        state()
    };
    let answered = until(&|state| state.is_some()).await.unwrap();
    assert!(answered.result.is_ok() && answered.round_trip.is_some(), "{answered:?}");
    fake.become_(Behaviour::Closing);
    let missed = until(&|state| state.as_ref().is_some_and(|state| state.result.is_err())).await.unwrap();
    assert_eq!(missed.round_trip, answered.round_trip, "of the last check that was answered");
    let begun = Instant::now();
    until(&Option::is_none).await;
    assert!(begun.elapsed() <= IDLE, "nobody used it");
    let checked = fake.calls();
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(fake.calls(), checked);
}
