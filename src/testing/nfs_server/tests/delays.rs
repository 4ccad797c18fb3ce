//! A server that delays what it is asked for, or does not answer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::export::fs::{SetAttr, Status, Step, Time};
use crate::mount::thread_limits::OVERDUE;
use crate::nfs4::codes::op;
use crate::testing::nfs_server::session::SLOTS;

/// How often the server makes a directory.
fn made(server: &NfsServer) -> usize {
    server.fs().history().iter().filter(|words| words.starts_with("mkdir")).count()
}

#[rstest::rstest]
#[tokio::test]
async fn what_the_server_delays_is_repeated_until_it_is_done_once(
    #[values(Code::DELAY, Code::GRACE)] code: Code,
    #[values(op::SEQUENCE, op::PUTFH, op::CREATE)] operation: u32,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    if (code, operation) == (Code::GRACE, op::SEQUENCE) {
        return; // No server answers that.
    }
    server.on(operation, 3, Fault::Fail(code));
    let before = server.requests();
    fs.mkdir(&fs.root(), &name("dir"), 0o755).await.unwrap();
    assert_eq!((server.requests() - before, made(&server)), (4, 1));
}

#[rstest::rstest]
#[tokio::test]
async fn what_is_delayed_after_a_change_is_not_repeated(
    #[values(Code::DELAY, Code::GRACE)] code: Code,
    #[values(op::GETFH, op::WRITE, op::CLOSE)] operation: u32,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let process = process();
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    server.on(operation, 1, Fault::Fail(code));
    let record = fs.write_file(&fs.root(), &name("record"), 0o600, b"record".to_vec()).await;
    assert_eq!(record, Err(Status::TimedOut), "the caller finds out what was done");
    drop(fs);
    process.ended().await;
    let created = server.fs().history().iter().filter(|words| words.starts_with("create")).count();
    assert_eq!(created, 1);
}

#[tokio::test]
async fn a_file_that_is_delayed_on_its_way_to_its_place_is_moved_there_by_a_further_request() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    let root = fs.root();
    server.on(op::RENAME, 3, Fault::Fail(Code::DELAY));
    let (staged, record) = (name("staged"), name("record"));
    let (staged_at, to) = ((root.clone(), staged.clone()), (root.clone(), record.clone()));
    let replace = Step::Replace { staged: staged_at, to, mode: 0o600, content: b"content".to_vec() };
    assert_eq!(fs.in_order(&[replace]).await, (1, Ok(())));
    assert_eq!(fs.read_file(&root, &record, 100).await.unwrap(), b"content");
    assert_eq!(fs.lookup(&root, &staged).await.map(drop), Err(Status::NoEnt));
}

#[rstest::rstest]
#[tokio::test]
async fn steps_that_are_delayed_after_others_are_carried_out_by_further_requests(
    #[values(op::PUTFH, op::GETATTR, op::CREATE, op::OPEN, op::RENAME, op::REMOVE)] operation: u32,
    #[values(0, 1, 2, 3)] passed: usize,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    let at = |text: &str| (fs.root(), name(text));
    let steps = [
        Step::Mkdir { at: at("first"), mode: 0o700 },
        Step::Replace { staged: at("staged"), to: at("one"), mode: 0o600, content: b"one".to_vec() },
        Step::Mkdir { at: at("second"), mode: 0o700 },
        Step::Replace { staged: at("staged"), to: at("two"), mode: 0o600, content: b"two".to_vec() },
        Step::Rename { from: at("first"), to: at("third") },
        Step::Remove { at: at("second") },
    ];
    server.after(passed, operation, 2, Fault::Fail(Code::DELAY));
    assert_eq!(fs.in_order(&steps).await, (steps.len(), Ok(())));
    let listed = fs.readdir(&fs.root(), 0).await.unwrap().entries.into_iter();
    let names: BTreeSet<String> = listed.map(|entry| entry.name.to_string()).collect();
    assert!(names.iter().eq(["one", "third", "two"]), "{names:?}");
}

#[rstest::rstest]
#[tokio::test]
async fn a_client_is_made_although_the_server_delays_it(
    #[values(op::EXCHANGE_ID, op::CREATE_SESSION, op::RECLAIM_COMPLETE, op::GETFH)] operation: u32,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    server.on(operation, 2, Fault::Fail(Code::DELAY));
    let fs = client(&server).await;
    fs.mkdir(&fs.root(), &name("dir"), 0o755).await.unwrap();
}

#[tokio::test]
async fn a_successor_waits_until_the_server_is_done_with_its_predecessor() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let process = process();
    let former = connected(&process, server.address, "vers=4.2").await.unwrap();
    let (answered, before) = (CancellationToken::new(), server.requests());
    server.on(op::CREATE, 1, Fault::Wait(answered.clone()));
    let asked = tokio::spawn(async move { former.mkdir(&former.root(), &name("dir"), 0o755).await.map(drop) });
    got(&server, before + 1).await;
    let address = server.address;
    let successor = tokio::spawn(async move { connected(&process, address, "vers=4.2").await });
    // EXCHANGE_ID, and CREATE_SESSION twice.
    got(&server, before + 4).await;
    answered.cancel();
    let fs = successor.await.unwrap().unwrap();
    assert!(matches!(asked.await.unwrap(), Ok(()) | Err(Status::Stale)));
    assert_eq!(fs.mkdir(&fs.root(), &name("dir"), 0o755).await.map(drop), Err(Status::Exist));
}

#[tokio::test]
async fn what_is_delayed_for_ever_is_given_up_in_the_end() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    for operation in [op::SEQUENCE, op::GETATTR] {
        let fs = client(&server).await;
        let root = fs.root();
        server.on(operation, usize::MAX, Fault::Fail(Code::DELAY));
        let before = server.requests();
        let mut asked = std::pin::pin!(fs.getattr(&root));
        assert!(futures_util::poll!(&mut asked).is_pending());
        got(&server, before + 2).await;
        pass(LONGEST).await;
        // The lease, which is shorter here, may have ended before.
        let told = asked.await;
        assert!(matches!(told, Err(Status::Stuck | Status::Stale)), "{told:?}");
        server.behave();
    }
}

#[tokio::test]
async fn an_export_whose_slots_all_wait_for_answers_is_stuck_for_further_callers_alone() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let answered = CancellationToken::new();
    let mut waiting = Vec::new();
    for n in 1..=SLOTS as usize {
        // The server hangs in the next directory that it makes, and still does everything else.
        fs.getattr(&fs.root()).await.unwrap();
        server.on(op::CREATE, 1, Fault::Wait(answered.clone()));
        let (fs, before) = (fs.clone(), server.requests());
        let dir = name(format!("dir{n}"));
        waiting.push(tokio::spawn(async move { fs.mkdir(&fs.root(), &dir, 0o755).await.map(drop) }));
        got(&server, before + 1).await;
    }
    // Now each slot is in use: another request is not sent.
    let before = server.requests();
    let other = fs.clone();
    waiting.push(tokio::spawn(async move { other.getattr(&other.root()).await.map(drop) }));
    // The tasks have begun to wait.
    tokio::task::yield_now().await;
    pass(OVERDUE).await;
    // The one without a slot is told at once, and takes its request back.
    assert_eq!(waiting.pop().unwrap().await.unwrap(), Err(Status::Stuck));
    assert!(!waiting.iter().any(tokio::task::JoinHandle::is_finished));
    assert_eq!((server.requests(), made(&server)), (before, 0));

    answered.cancel();
    for asked in waiting {
        assert_eq!(asked.await.unwrap(), Ok(()));
    }
    fs.getattr(&fs.root()).await.unwrap();
    assert_eq!(export.tree().paths(), ["dir1", "dir2", "dir3", "dir4"]);
}

#[tokio::test]
async fn a_request_that_is_still_carried_out_when_the_connection_ends_is_not_carried_out_again() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    let (answered, before) = (CancellationToken::new(), server.requests());
    server.on(op::CREATE, 1, Fault::Wait(answered.clone()));
    // Another request ends the connection meanwhile.
    server.cut(before + 1, Cut::Before);
    let (one, root) = (fs.clone(), fs.root());
    let asked = tokio::spawn(async move { one.mkdir(&one.root(), &name("dir"), 0o755).await.map(drop) });
    got(&server, before + 1).await;
    fs.getattr(&root).await.unwrap();
    got(&server, before + 5).await;
    answered.cancel();
    assert_eq!(asked.await.unwrap(), Ok(()));
    assert_eq!(made(&server), 1);
}

#[tokio::test]
async fn a_server_that_ends_each_connection_is_not_asked_without_a_pause() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    let (before, root) = (server.requests(), fs.root());
    for request in 0..10_000 {
        server.cut(before + request, Cut::Before);
    }
    let mut asked = std::pin::pin!(fs.getattr(&root));
    let begin = time::Instant::now();
    let some = time::timeout(Duration::from_millis(500), &mut asked).await;
    assert!(some.is_err() && server.requests() - before < 10, "{some:?} {}", server.requests() - before);
    assert!(begin.elapsed() < SOON);
}

#[rstest::rstest]
#[case::before_the_file_is_made(op::OPEN, 1, Some(7))]
#[case::at_the_content(op::CLONE, 1, None)]
#[case::at_the_attributes(op::SETATTR, 2, Some(7))]
#[case::at_the_end(op::CLOSE, 1, Some(7))]
#[tokio::test]
async fn a_file_whose_clone_is_delayed_is_whole_or_left_to_others_and_the_next_is_cloned(
    #[case] operation: u32,
    #[case] times: usize,
    #[case] expected: Option<u64>,
) {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let process = process();
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    let (root, names) = (fs.root(), ["first", "next"].map(name));
    let (to, _) = fs.mkdir(&root, &name("to"), 0o700).await.unwrap();
    let mtime = Some(Time { seconds: 7, nanoseconds: 0 });
    for name in &names {
        fs.write_file(&root, name, 0o640, b"content".to_vec()).await.unwrap();
        let (file, _) = fs.lookup(&root, name).await.unwrap();
        fs.setattr(&file, SetAttr { uid: Some(7), mtime, ..SetAttr::default() }).await.unwrap();
    }
    server.on(operation, times, Fault::Fail(Code::DELAY));
    let cloned = fs.clone_entries(&root, &to, &names).await;
    let sizes: Vec<_> = cloned.into_iter().map(|one| one.unwrap().map(|attr| attr.size)).collect();
    assert_eq!(sizes, [expected, Some(7)]);
    for (name, expected) in names.iter().zip(sizes) {
        let (_, made) = fs.lookup(&to, name).await.unwrap();
        match expected {
            Some(size) => assert_eq!((made.size, made.uid, made.mode, Some(made.mtime)), (size, 7, 0o640, mtime)),
            None => assert_eq!(made.size, 0),
        }
    }
    drop(fs);
    process.ended().await;
    assert_eq!(server.opens(), 0);
}
