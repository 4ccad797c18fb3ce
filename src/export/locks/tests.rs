//! Who gets a lock, and when; and what is told of a wait.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::ANSWER_BY;
use crate::export::fs::LockMode::{Exclusive, Shared};
use crate::export::fs::Status;
use crate::testing::crash_harness::connect;
use crate::testing::log::Log;
use crate::testing::memory::MemoryServer;

const SOON: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn a_lock_that_the_server_does_not_take_back_at_once_holds_nobody_up_for_ever() {
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    for status in [Status::Io, Status::TimedOut] {
        let guard = one.lock(&["v"]).await.unwrap();
        one.fs().fail_at(one.fs().operations(), status);
        drop(guard);
        let waited = tokio::time::timeout(super::GIVING_BACK, two.lock(&["v"])).await;
        drop(waited.expect("the lock was not released").unwrap());
        tokio::time::sleep(super::GIVING_BACK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_task_that_shares_a_part_releases_it_for_another_controller() {
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    let first = one.lock_parts(&[("team", Shared), ("team/a", Exclusive)]).await.unwrap();
    let second = timeout(SOON, one.lock_parts(&[("team", Shared), ("team/b", Exclusive)])).await.unwrap().unwrap();
    let third = timeout(SOON, two.lock_parts(&[("team", Shared), ("team/c", Exclusive)])).await.unwrap().unwrap();
    assert!(timeout(SOON, two.lock_parts(&[("team/a", Shared)])).await.is_err(), "the leaf is held");
    drop(first);
    assert!(timeout(SOON, two.lock(&["team"])).await.is_err(), "the second task still shares the part");
    assert!(one.try_lock("team").await.unwrap().is_none());
    drop(second);
    assert!(timeout(SOON, one.lock(&["team"])).await.is_err(), "the other controller still shares the part");
    drop(third);
    let alone = timeout(SOON, two.lock(&["team"])).await.unwrap().unwrap();
    assert!(timeout(SOON, one.lock_parts(&[("team", Shared)])).await.is_err());
    drop(alone);
    timeout(SOON, one.lock_parts(&[("team", Shared)])).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_wants_a_part_alone_is_not_overtaken_by_those_that_share_it() {
    let export = connect(&MemoryServer::new());
    let first = export.lock_parts(&[("team", Shared)]).await.unwrap();
    let mut alone = Box::pin(export.lock(&["team"]));
    assert!(timeout(SOON, &mut alone).await.is_err());
    assert!(timeout(SOON, export.lock_parts(&[("team", Shared)])).await.is_err(), "it waits behind the other");
    drop(first);
    drop(timeout(SOON, alone).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_named_twice_is_locked_in_the_stronger_mode() {
    let export = connect(&MemoryServer::new());
    let _alone = export.lock_parts(&[("team", Shared), ("team", Exclusive)]).await.unwrap();
    assert!(timeout(SOON, export.lock_parts(&[("team", Shared)])).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gives_up_while_it_waits_leaves_the_lock_to_those_that_share_it() {
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    let alone = two.lock(&["team"]).await.unwrap();
    assert!(timeout(SOON, one.lock_parts(&[("team", Shared)])).await.is_err());
    drop(alone);
    let first = timeout(SOON, one.lock_parts(&[("team", Shared)])).await.unwrap().unwrap();
    assert!(timeout(SOON, two.lock(&["team"])).await.is_err(), "the server knows of the lock");
    drop(first);
    timeout(SOON, two.lock(&["team"])).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_found_free_is_known_until_the_server_has_the_lock_back() {
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    let first = one.lock_parts(&[("team", Shared)]).await.unwrap();
    let second = one.lock_parts(&[("team", Shared), ("team/a", Exclusive)]).await.unwrap();
    first.found_free("team");
    first.found_free("other");
    assert!(second.is_free("team") && !second.is_free("team/a") && !second.is_free("other"));
    drop(first);
    assert!(second.is_free("team"));
    drop(second);
    let alone = timeout(SOON, two.lock(&["team"])).await.unwrap().unwrap();
    assert!(!alone.is_free("team"));
    drop(alone);
    assert!(!timeout(SOON, one.lock_parts(&[("team", Shared)])).await.unwrap().unwrap().is_free("team"));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_told_in_time_that_another_controller_holds_the_lock() {
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    let held = one.lock(&["v"]).await.unwrap();
    let until = Instant::now() + SOON;
    let told = timeout(SOON + MOMENT, ANSWER_BY.scope(Some(until), two.lock(&["v"]))).await.unwrap().err().unwrap();
    assert!(told.to_string().contains("held by another client; another controller works"), "{told}");
    drop(held);
    drop(timeout(SOON, ANSWER_BY.scope(Some(until), two.lock(&["v"]))).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_for_another_controller_is_logged_with_what_waits() {
    let (log, _logging) = Log::captured();
    let server = MemoryServer::new();
    let (one, two) = (connect(&server), connect(&server));
    let held = one.lock(&["team/a"]).await.unwrap();
    assert!(timeout(super::LONG_WAIT, two.lock(&["team/a"])).await.is_err());
    assert!(!log.text().contains("team/a"), "{}", log.text());
    assert!(timeout(2 * super::LONG_WAIT, two.lock(&["team/a"])).await.is_err());
    drop(held);
    let text = log.text();
    assert!(text.contains("another controller holds the lock") && text.contains("team/a"), "{text}");
    assert!(text.contains("nfs:/export"), "{text}");
    assert_eq!(text.matches("another controller holds").count(), 1, "{text}");
}
