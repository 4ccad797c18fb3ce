//! Two controllers on one export.

use super::*;
use crate::export::fs::{LockMode, OpenMode, SetAttr, Time};

/// Checks that two clients of one export see each other's changes at once, even if they have looked before. Works in a
/// directory of its own and removes it.
///
/// The server has to see two clients. Two mounts in one network namespace with one host name are one client, except
/// with version 4.0 or 3 (see [`kernel`](crate::export::kernel)).
pub async fn clients<F: Fs>(one: &F, two: &F) {
    let place = Name::new(format!("conformance-{}", uuid::Uuid::new_v4())).unwrap();
    let (here, _) = one.mkdir(&one.root(), &place, 0o755).await.unwrap();
    let (there, _) = two.lookup(&two.root(), &place).await.unwrap();
    names_come_and_go(one, &here, two, &there).await;
    attributes_and_content_change(one, &here, two, &there).await;
    what_the_other_removed_is_stale(one, &here, two, &there).await;
    if one.locks_are_shared() {
        a_lock_keeps_the_other_out(one, &here, two, &there).await;
    }
    clear(one, &here).await;
    becomes(Ok(()), async || one.rmdir(&one.root(), &place).await).await;
}

async fn names_come_and_go<F: Fs>(one: &F, here: &F::Handle, two: &F, there: &F::Handle) {
    assert_eq!(answer(two.lookup(there, &name("a")).await), Err(Status::NoEnt));
    assert_eq!(list(two, there).await, []);
    mkdir(one, here, "a").await;
    assert_eq!(answer(two.mkdir(there, &name("a"), 0o700).await), Err(Status::Exist));
    assert_eq!(answer(two.create(there, &name("a"), 0o700).await), Err(Status::Exist));
    let (_, a) = two.lookup(there, &name("a")).await.unwrap();
    assert_eq!(names(two, there).await, ["a"]);
    one.rename(here, &name("a"), here, &name("b")).await.unwrap();
    assert_eq!(answer(two.lookup(there, &name("a")).await), Err(Status::NoEnt));
    assert_eq!(two.lookup(there, &name("b")).await.unwrap().1.fileid, a.fileid);
    assert_eq!(names(two, there).await, ["b"]);
    two.mkdir(there, &name("a"), 0o700).await.unwrap();
    assert_eq!(names(one, here).await, ["a", "b"]);
    for text in ["a", "b"] {
        one.rmdir(here, &name(text)).await.unwrap();
        assert_eq!(answer(two.lookup(there, &name(text)).await), Err(Status::NoEnt));
        assert_eq!(two.rmdir(there, &name(text)).await, Err(Status::NoEnt));
    }
    assert_eq!(list(two, there).await, []);
}

async fn attributes_and_content_change<F: Fs>(one: &F, here: &F::Handle, two: &F, there: &F::Handle) {
    let content = async |fs: &F, dir: &F::Handle| {
        let (file, attr) = fs.open(dir, &name("f"), OpenMode::Read).await.unwrap();
        let content = fs.read(&file, 0, 100).await.unwrap();
        assert_eq!(attr.size, content.len() as u64);
        String::from_utf8(content).unwrap()
    };
    file(one, here, "f", "one").await;
    assert_eq!(content(two, there).await, "one");
    let (file_there, _) = two.lookup(there, &name("f")).await.unwrap();
    let (writable, _) = one.open(here, &name("f"), OpenMode::ReadWrite).await.unwrap();
    one.write(&writable, 0, b"uno, due".to_vec()).await.unwrap();
    one.commit(&writable).await.unwrap();
    drop(writable);
    assert_eq!(content(two, there).await, "uno, due");
    one.setattr(&one.lookup(here, &name("f")).await.unwrap().0, SetAttr { mode: Some(0o604), ..SetAttr::default() })
        .await
        .unwrap();
    // The change is not visible at once: attributes that a client receives while it returns a delegation may be older
    // than attributes that it requested meanwhile.
    becomes((0o604, 8), async || two.getattr(&file_there).await.map(|attr| (attr.mode, attr.size)).unwrap()).await;
    // The server has even the times of a file that is open for writing, not only the client that set them.
    let (open, _) = one.create(here, &name("times"), 0o644).await.unwrap();
    one.write(&open, 0, b"content".to_vec()).await.unwrap();
    one.commit(&open).await.unwrap();
    let (atime, mtime) = (Time { seconds: 1, nanoseconds: 2_000 }, Time { seconds: 3, nanoseconds: 4_000 });
    one.setattr(&open, SetAttr { atime: Some(atime), mtime: Some(mtime), ..SetAttr::default() }).await.unwrap();
    let (_, attr) = two.lookup(there, &name("times")).await.unwrap();
    assert_eq!((attr.atime, attr.mtime), (atime, mtime));
    drop((file_there, open));
    file(one, here, "new", "replaced").await;
    one.rename(here, &name("new"), here, &name("f")).await.unwrap();
    assert_eq!(content(two, there).await, "replaced");
    one.unlink(here, &name("f")).await.unwrap();
    assert_eq!(answer(two.open(there, &name("f"), OpenMode::Read).await), Err(Status::NoEnt));
}

async fn what_the_other_removed_is_stale<F: Fs>(one: &F, here: &F::Handle, two: &F, there: &F::Handle) {
    mkdir(one, here, "d").await;
    file(one, here, "f", "content").await;
    let (d, _) = two.lookup(there, &name("d")).await.unwrap();
    let (f, _) = two.lookup(there, &name("f")).await.unwrap();
    one.rmdir(here, &name("d")).await.unwrap();
    one.unlink(here, &name("f")).await.unwrap();
    assert_eq!(answer(two.getattr(&d).await), Err(Status::Stale));
    assert_eq!(answer(two.mkdir(&d, &name("inner"), 0o755).await), Err(Status::Stale));
    assert_eq!(answer(two.create(&d, &name("inner"), 0o755).await), Err(Status::Stale));
    assert_eq!(answer(two.readdir(&d, 0).await), Err(Status::Stale));
    assert_eq!(answer(two.lookup(&d, &name("inner")).await), Err(Status::Stale));
    becomes(Err(Status::Stale), async || answer(two.getattr(&f).await)).await;
}

async fn a_lock_keeps_the_other_out<F: Fs>(one: &F, here: &F::Handle, two: &F, there: &F::Handle) {
    let (ours, _) = one.create(here, &name("locks"), 0o600).await.unwrap();
    let (theirs, _) = two.open(there, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    assert_eq!(one.try_lock(&ours, 9, LockMode::Exclusive).await, Ok(true));
    assert_eq!(two.try_lock(&theirs, 9, LockMode::Exclusive).await, Ok(false));
    assert_eq!(two.try_lock(&theirs, 10, LockMode::Exclusive).await, Ok(true));
    one.unlock(&ours, 9).await.unwrap();
    assert_eq!(two.try_lock(&theirs, 9, LockMode::Exclusive).await, Ok(true));
    assert_eq!(one.try_lock(&ours, 9, LockMode::Exclusive).await, Ok(false));
    two.unlock(&theirs, 9).await.unwrap();
    assert_eq!(one.try_lock(&ours, 9, LockMode::Shared).await, Ok(true));
    assert_eq!(two.try_lock(&theirs, 9, LockMode::Exclusive).await, Ok(false));
    assert_eq!(two.try_lock(&theirs, 9, LockMode::Shared).await, Ok(true));
    assert_eq!(one.try_lock(&ours, 9, LockMode::Exclusive).await, Ok(false));
    drop(theirs);
    becomes(Ok(true), async || one.try_lock(&ours, 9, LockMode::Exclusive).await).await;
}
