//! Callers that come together, and callers that give up.

use super::*;
use crate::export::fs::{FsResult, LockMode, OpenMode};
use crate::nfs4::codes::op;

/// Makes a directory with a record in it, under its final name at last.
async fn publish(fs: UserFs, n: u32) -> FsResult<()> {
    let root = fs.root();
    let (dir, _) = fs.mkdir(&root, &name(format!("new{n}")), 0o755).await?;
    fs.write_file(&dir, &name("record"), 0o600, n.to_string().into_bytes()).await?;
    let (file, _) = fs.open(&dir, &name("record"), OpenMode::ReadWrite).await?;
    assert_eq!(fs.try_lock(&file, 1, LockMode::Exclusive).await, Ok(true));
    fs.rename(&root, &name(format!("new{n}")), &root, &name(format!("dir{n}"))).await?;
    fs.unlock(&file, 1).await
}

#[tokio::test]
async fn many_callers_at_a_time_change_each_thing_once_whatever_happens_to_the_connection() {
    const CALLERS: u32 = 50;
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let process = process();
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    for n in 0..60 {
        server.cut(server.requests() + 5 * n, if n % 2 == 0 { Cut::Before } else { Cut::After });
    }
    let callers: Vec<_> = (0..CALLERS).map(|n| tokio::spawn(publish(fs.clone(), n))).collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Ok(()));
    }
    drop(fs);
    process.ended().await;
    let tree = export.tree();
    for n in 0..CALLERS {
        assert_eq!(tree.get(format!("dir{n}/record")).unwrap().text(), n.to_string());
    }
    assert_eq!((tree.0.len(), export.locks()), (2 * CALLERS as usize, 0));
    for change in ["mkdir", "create", "open", "rename", "try_lock", "unlock"] {
        let times = server.fs().history().iter().filter(|words| words.split(' ').next() == Some(change)).count();
        assert_eq!(times, CALLERS as usize, "{change}");
    }
}

#[tokio::test]
async fn what_a_caller_gave_up_is_carried_out_and_its_slot_is_used_again() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let root = fs.root();
    for n in 0..20 {
        let (requests, dir) = (server.requests(), name(format!("dir{n}")));
        let mut asked = Box::pin(fs.mkdir(&root, &dir, 0o755));
        assert!(futures_util::poll!(&mut asked).is_pending());
        if n % 2 == 0 {
            got(&server, requests + 1).await;
        }
        drop(asked);
    }
    until(|| export.tree().paths().len() == 20).await;
    fs.mkdir(&root, &name("last"), 0o755).await.unwrap();
}

#[tokio::test]
async fn an_unlock_does_not_overtake_the_lock_that_was_given_up() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let (file, _) = fs.create(&fs.root(), &name("locks"), 0o600).await.unwrap();
    let (answered, requests) = (CancellationToken::new(), server.requests());
    server.on(op::LOCK, 1, Fault::Wait(answered.clone()));
    let mut asked = Box::pin(fs.try_lock(&file, 3, LockMode::Exclusive));
    assert!(futures_util::poll!(&mut asked).is_pending());
    got(&server, requests + 1).await;
    drop(asked);

    let mut unlocked = std::pin::pin!(fs.unlock(&file, 3));
    assert!(futures_util::poll!(&mut unlocked).is_pending());
    // Another byte does not wait for it.
    assert_eq!(fs.try_lock(&file, 4, LockMode::Exclusive).await, Ok(true));
    assert!(futures_util::poll!(&mut unlocked).is_pending());
    answered.cancel();
    assert_eq!(unlocked.await, Ok(()));
    assert_eq!(export.locks(), 1);
}

#[tokio::test]
async fn the_end_of_a_process_does_not_wait_for_a_server_that_hangs() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let process = process();
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    let (file, _) = fs.create(&fs.root(), &name("file"), 0o600).await.unwrap();
    let (answered, requests) = (CancellationToken::new(), server.requests());
    server.on(op::CLOSE, 1, Fault::Wait(answered.clone()));
    drop((file, fs));
    got(&server, requests + 1).await;
    let mut ended = std::pin::pin!(process.ended());
    assert!(futures_util::poll!(&mut ended).is_pending());
    pass(ENDING).await;
    time::timeout(ENDING, ended).await.expect("it waits for the server");
}

#[tokio::test]
async fn a_file_with_locks_is_closed_after_its_last_caller_has_gone() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let (file, _) = fs.create(&fs.root(), &name("locks"), 0o600).await.unwrap();
    for byte in 0..20 {
        assert_eq!(fs.try_lock(&file, byte, LockMode::Shared).await, Ok(true));
    }
    let (answered, requests) = (CancellationToken::new(), server.requests());
    server.on(op::LOCK, 1, Fault::Wait(answered.clone()));
    let mut asked = Box::pin(fs.try_lock(&file, 21, LockMode::Exclusive));
    assert!(futures_util::poll!(&mut asked).is_pending());
    got(&server, requests + 1).await;
    drop(asked);
    drop(file);
    assert_eq!((export.locks(), server.opens()), (20, 1));
    answered.cancel();
    until(|| (export.locks(), server.opens()) == (0, 0)).await;
}

#[rstest::rstest]
#[tokio::test]
async fn a_file_is_closed_that_was_opened_in_vain(
    #[values(op::GETATTR, op::WRITE, op::CLOSE)] operation: u32,
    #[values(Code(5), Code::DELAY)] code: Code,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    let root = fs.root();
    if operation == op::GETATTR {
        // The first one in the request is about the directory.
        fs.create(&root, &name("file"), 0o600).await.unwrap();
        server.after(1, operation, 1, Fault::Fail(code));
        assert!(fs.open(&root, &name("file"), OpenMode::Read).await.is_err());
    } else {
        server.on(operation, 1, Fault::Fail(code));
        assert!(fs.write_file(&root, &name("file"), 0o600, b"content".to_vec()).await.is_err());
    }
    until(|| server.opens() == 0).await;
}

#[rstest::rstest]
#[tokio::test]
async fn a_connection_that_ends_while_a_client_is_made_is_made_anew(
    #[values(0, 1, 2, 3)] request: u64,
    #[values(Cut::Before, Cut::After)] when: Cut,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    server.cut(request, when);
    let fs = client(&server).await;
    fs.mkdir(&fs.root(), &name("dir"), 0o755).await.unwrap();
}

#[tokio::test]
async fn a_server_that_ends_every_connection_makes_no_client() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    for request in 0..100 {
        server.cut(request, Cut::Before);
    }
    let told = connected(&process(), server.address, "vers=4.2").await.err().unwrap();
    assert!(told.to_string().contains("the server ended the connection"), "{told}");
    assert_eq!(server.requests(), 2);
}

#[rstest::rstest]
#[tokio::test]
async fn a_server_that_makes_no_client_costs_a_caller_its_patience(
    #[values(op::EXCHANGE_ID, op::CREATE_SESSION, op::RECLAIM_COMPLETE, op::GETFH)] operation: u32,
) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    server.on(operation, usize::MAX, Fault::Wait(CancellationToken::new()));
    let process = process();
    let requests = if operation == op::EXCHANGE_ID { 1 } else { 2 };
    let mut connecting = std::pin::pin!(connected(&process, server.address, "vers=4.2"));
    while server.requests() < requests {
        assert!(futures_util::poll!(&mut connecting).is_pending());
        tokio::task::yield_now().await;
    }
    let mut waited = 0;
    let made = loop {
        // Whoever waits has begun to wait.
        match time::timeout(std::time::Duration::from_millis(50), &mut connecting).await {
            Ok(made) => break made,
            Err(_) => pass(CONNECTING).await,
        }
        waited += 1;
    };
    assert!(made.is_err() && waited <= 2, "{waited}");
}
