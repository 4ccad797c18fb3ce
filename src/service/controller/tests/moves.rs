//! Servers whose names get another address, which is another server.

use std::net::IpAddr;

use super::*;
use crate::export::fs::Status as FsStatus;

impl Lab {
    fn move_to(&self, address: IpAddr) {
        *self.servers.address.lock().unwrap() = address;
    }

    async fn export(&self) -> Arc<Export<MemoryFs>> {
        let (share, options) = share_a();
        self.controller.exports.pool().get(&share, &options).await.unwrap()
    }
}

fn share_a() -> (Source, MountOptions) {
    (export_of("a"), MountOptions::default())
}

#[tokio::test]
async fn a_server_that_moves_is_followed_and_the_old_connection_ends() {
    let lab = Lab::new("");
    lab.create("a", "before", &[]).await.unwrap();
    let old = Arc::downgrade(&lab.export().await);
    lab.move_to(ELSEWHERE);
    lab.create("a", "after", &[]).await.unwrap();
    let has = |server: &MemoryServer| ["before", "after"].map(|name| server.tree().get(name).is_some());
    assert_eq!(has(lab.server("a")), [true, false]);
    assert_eq!(has(&lab.servers.elsewhere[&share_a().0]), [false, true]);
    assert_eq!(lab.servers.connections.load(Ordering::Relaxed), 2);
    // The trash task of the old export must notice that it is no longer needed.
    while old.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lock_at_the_old_address_does_not_count_at_the_new_address() {
    let lab = Lab::new("");
    let old = lab.export().await;
    let held = old.lock(&["v"]).await.unwrap();
    let waiting = {
        let old = old.clone();
        tokio::spawn(async move { old.lock(&["v"]).await.map(drop) })
    };
    lab.move_to(ELSEWHERE);
    let new = lab.export().await;
    assert!(new.lock(&["w"]).await.is_ok());
    drop(held);
    let refused = waiting.await.unwrap();
    assert!(matches!(&refused, Err(Error::Export { status: FsStatus::Stale, .. })), "{refused:?}");
    assert!(matches!(old.try_lock("x").await, Err(Error::Export { status: FsStatus::Stale, .. })));
    assert!(new.lock(&["v"]).await.is_ok());
}

#[tokio::test]
async fn a_connection_that_times_out_is_replaced_if_its_server_answers() {
    let lab = Lab::new("");
    let (_, options) = share_a();
    let (pool, export) = (lab.controller.exports.pool(), lab.export().await);
    lab.servers.gone.store(true, Ordering::Relaxed);
    assert!(!pool.failed(&export, &options, FsStatus::TimedOut).await);
    lab.servers.gone.store(false, Ordering::Relaxed);
    assert!(Arc::ptr_eq(&export, &lab.export().await), "an unreachable server keeps its connection");
    assert!(!pool.failed(&export, &options, FsStatus::TimedOut).await, "a call that timed out is not retried");
    let fresh = lab.export().await;
    assert!(!Arc::ptr_eq(&export, &fresh));
    assert!(pool.failed(&export, &options, FsStatus::Stale).await);
    assert!(Arc::ptr_eq(&fresh, &lab.export().await), "a late failure does not cost the next connection");
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_timed_out_is_not_retried_for_a_while() {
    let lab = Lab::new("");
    lab.servers.times_out.store(true, Ordering::Relaxed);
    let (share, options) = share_a();
    let attempts = || lab.servers.connections.load(Ordering::Relaxed);
    for _ in 0..3 {
        let refused = lab.controller.exports.pool().get(&share, &options).await;
        assert!(matches!(refused, Err(Error::Mount { errno: 110, .. })));
        assert_eq!(attempts(), 1, "each attempt would prolong the condition that blocks it");
    }
    lab.servers.times_out.store(false, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    lab.export().await;
    assert_eq!(attempts(), 2);
}
