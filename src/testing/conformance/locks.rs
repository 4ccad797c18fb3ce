//! Byte-range locks.

use super::*;
use crate::export::fs::LockMode::{self, Exclusive, Shared};
use crate::export::fs::OpenMode;

pub(super) async fn a_byte_is_locked_by_one_at_a_time<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, _) = fs.create(dir, &name("locks"), 0o600).await.unwrap();
    let (two, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    for key in [0, 1, 1 << 40, u64::MAX >> 2, u64::MAX] {
        assert_eq!(fs.try_lock(&one, key, Exclusive).await, Ok(true), "{key}: free");
        assert_eq!(
            fs.try_lock(&one.clone(), key, Exclusive).await,
            Ok(true),
            "{key}: this open holds the lock already"
        );
        assert_eq!(fs.try_lock(&two, key, Exclusive).await, Ok(false), "{key}: the other open holds the lock");
        fs.unlock(&two, key).await.unwrap();
        assert_eq!(fs.try_lock(&two, key, Exclusive).await, Ok(false), "{key}: only the holder releases the lock");
        assert_eq!(fs.try_lock(&two, key / 2 + 7, Exclusive).await, Ok(true), "{key}: another byte");
        fs.unlock(&two, key / 2 + 7).await.unwrap();
        fs.unlock(&one, key).await.unwrap();
        assert_eq!(fs.try_lock(&two, key, Exclusive).await, Ok(true), "{key}: free again");
        fs.unlock(&two, key).await.unwrap();
        fs.unlock(&two, key).await.unwrap();
    }
    assert_eq!(fs.getattr(&one).await.unwrap().size, 0, "a lock is no content");
}

pub(super) async fn a_lock_ends_with_the_file_it_was_taken_through<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, _) = fs.create(dir, &name("locks"), 0o600).await.unwrap();
    let (two, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    assert_eq!(fs.try_lock(&one, 5, Exclusive).await, Ok(true));
    let clone = one.clone();
    drop(one);
    let (three, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    drop(three);
    assert_eq!(
        fs.try_lock(&two, 5, Exclusive).await,
        Ok(false),
        "the clone keeps the file open, and closing another open does not release the lock"
    );
    drop(clone);
    becomes(Ok(true), async || fs.try_lock(&two, 5, Exclusive).await).await;
}

pub(super) async fn a_shared_byte_has_many_holders_and_an_exclusive_one_has_one<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, _) = fs.create(dir, &name("locks"), 0o600).await.unwrap();
    let (two, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    let locked = async |file: &F::Handle, mode: LockMode| fs.try_lock(file, 5, mode).await.unwrap();
    assert!(locked(&one, Shared).await && locked(&two, Shared).await, "both share the byte");
    assert!(!locked(&one, Exclusive).await, "a holder that shares the byte does not get it alone");
    fs.unlock(&two, 5).await.unwrap();
    assert!(locked(&one, Exclusive).await, "the only holder gets it alone");
    assert!(!locked(&two, Shared).await);
    assert!(locked(&one, Shared).await && locked(&one, Shared).await, "and shares it again, twice");
    assert!(locked(&two, Shared).await);
    fs.unlock(&one, 5).await.unwrap();
    assert!(locked(&two, Exclusive).await, "one unlock ends a lock that was taken twice");
    fs.unlock(&two, 5).await.unwrap();
}
