//! What a client has on a server ends with its lease, and with the next client of its name.

use std::time::Duration;

use super::*;
use crate::export::fs::{LockMode, OpenMode, Status};
use crate::export::user::UserHandle;
use crate::testing::nfs_server::session::LEASE;

const LOCKS: &str = "locks";

/// Opens the file of the locks.
async fn open(fs: &UserFs) -> UserHandle {
    fs.open_or_create(&fs.root(), &name(LOCKS), 0o600).await.unwrap().0
}

async fn try_lock(fs: &UserFs, file: &UserHandle) -> Result<bool, Status> {
    fs.try_lock(file, 7, LockMode::Exclusive).await
}

/// Every operation of a client that is over.
async fn all_is_stale(fs: &UserFs, file: &UserHandle) {
    let root = fs.root();
    let answers = [
        fs.mkdir(&root, &name("late"), 0o755).await.map(drop),
        fs.write_file(&root, &name("late"), 0o600, b"late".to_vec()).await,
        fs.write(file, 0, b"late".to_vec()).await,
        fs.commit(file).await,
        fs.rename(&root, &name(LOCKS), &root, &name("late")).await,
        fs.unlink(&root, &name(LOCKS)).await,
        fs.try_lock(file, 7, LockMode::Exclusive).await.map(drop),
        fs.unlock(file, 7).await,
        fs.getattr(&root).await.map(drop),
        fs.open(&root, &name(LOCKS), OpenMode::Read).await.map(drop),
    ];
    assert_eq!(answers, [Err(Status::Stale); 10]);
}

/// A process that takes the lock and is killed: it says nothing any more.
async fn killed(server: &NfsServer, owner: &str) {
    let (address, owner) = (server.address, owner.to_owned());
    let other_process = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let held = runtime.block_on(async {
            let process = UserSpace::new(Reachability::new(), owner);
            let fs = connected(&process, address, "vers=4.2").await.unwrap();
            let file = open(&fs).await;
            assert_eq!(try_lock(&fs, &file).await, Ok(true));
            (fs, file)
        });
        drop(runtime);
        held
    };
    let held = tokio::task::spawn_blocking(other_process).await.unwrap();
    // No more than its destructors run, without the tasks that their requests would need.
    drop(held);
}

#[tokio::test]
async fn a_client_whose_lease_is_over_changes_nothing_more_and_another_one_gets_its_lock() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let file = open(&fs).await;
    assert_eq!(try_lock(&fs, &file).await, Ok(true));
    pass(LEASE + Duration::from_secs(1)).await;

    let other = client(&server).await;
    let theirs = open(&other).await;
    assert_eq!(try_lock(&other, &theirs).await, Ok(true));
    let before = export.tree();
    all_is_stale(&fs, &file).await;
    assert_eq!(export.tree(), before);
    assert_eq!(try_lock(&other, &theirs).await, Ok(true));
    // A new connection of the process works.
    let again = client(&server).await;
    again.mkdir(&again.root(), &name("again"), 0o755).await.unwrap();
}

#[tokio::test]
async fn a_client_keeps_its_lease_without_being_used() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let file = open(&fs).await;
    assert_eq!(try_lock(&fs, &file).await, Ok(true));
    for _ in 0..3 * LEASE.as_secs() {
        pass(Duration::from_secs(1)).await;
    }
    let other = client(&server).await;
    assert_eq!(try_lock(&other, &open(&other).await).await, Ok(false));
    fs.unlock(&file, 7).await.unwrap();
}

#[tokio::test]
async fn a_successor_of_the_same_name_gets_the_lock_of_a_killed_process_at_once() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    killed(&server, "pod").await;
    let other = client(&server).await;
    let theirs = open(&other).await;
    assert_eq!(try_lock(&other, &theirs).await, Ok(false));
    let process = UserSpace::new(Reachability::new(), "pod".to_owned());
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    assert_eq!(try_lock(&fs, &open(&fs).await).await, Ok(true));
}

#[tokio::test]
async fn a_successor_of_another_name_gets_the_lock_after_the_lease() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    killed(&server, "pod").await;
    let fs = client(&server).await;
    let file = open(&fs).await;
    for _ in 0..2 {
        assert_eq!(try_lock(&fs, &file).await, Ok(false));
        pass(LEASE / 2).await;
    }
    pass(Duration::from_secs(1)).await;
    assert_eq!(try_lock(&fs, &file).await, Ok(true));
}

#[tokio::test]
async fn a_client_whose_successor_has_come_is_stale() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let process = process();
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    let file = open(&fs).await;
    assert_eq!(try_lock(&fs, &file).await, Ok(true));
    let successor = connected(&process, server.address, "vers=4.2").await.unwrap();
    let theirs = open(&successor).await;
    assert_eq!(try_lock(&successor, &theirs).await, Ok(true));
    let before = export.tree();
    all_is_stale(&fs, &file).await;
    assert_eq!(export.tree(), before);
    assert_eq!(successor.getattr(&theirs).await.map(|attr| attr.size), Ok(0));
}

#[tokio::test]
async fn a_client_of_a_server_that_restarts_is_stale_and_a_new_one_works() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    let file = open(&fs).await;
    assert_eq!(try_lock(&fs, &file).await, Ok(true));
    let before = export.tree();
    server.restart();
    all_is_stale(&fs, &file).await;
    assert_eq!(export.tree(), before);
    let other = client(&server).await;
    assert_eq!(try_lock(&other, &open(&other).await).await, Ok(true));
}

#[tokio::test]
async fn a_client_of_a_server_that_is_gone_waits_in_vain_and_is_stale_after_the_lease() {
    let server = NfsServer::start(&MemoryServer::new()).await;
    let fs = client(&server).await;
    let file = open(&fs).await;
    assert_eq!(try_lock(&fs, &file).await, Ok(true));
    drop(server);
    let root = fs.root();
    let mut asked = std::pin::pin!(fs.getattr(&root));
    assert!(futures_util::poll!(&mut asked).is_pending());
    assert_eq!(time::timeout(Duration::from_secs(5), asked).await.expect("told in time"), Err(Status::TimedOut));
    pass(LEASE).await;
    all_is_stale(&fs, &file).await;
}
