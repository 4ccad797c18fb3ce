//! Byte-range locks.

use super::*;
use crate::export::fs::OpenMode;

pub(super) async fn a_byte_is_locked_by_one_at_a_time<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, _) = fs.create(dir, &name("locks"), 0o600).await.unwrap();
    let (two, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    for key in [0, 1, 1 << 40, u64::MAX >> 2, u64::MAX] {
        assert_eq!(fs.try_lock(&one, key).await, Ok(true), "{key}: free");
        assert_eq!(fs.try_lock(&one.clone(), key).await, Ok(true), "{key}: this open holds the lock already");
        assert_eq!(fs.try_lock(&two, key).await, Ok(false), "{key}: the other open holds the lock");
        fs.unlock(&two, key).await.unwrap();
        assert_eq!(fs.try_lock(&two, key).await, Ok(false), "{key}: only the holder releases the lock");
        assert_eq!(fs.try_lock(&two, key / 2 + 7).await, Ok(true), "{key}: another byte");
        fs.unlock(&two, key / 2 + 7).await.unwrap();
        fs.unlock(&one, key).await.unwrap();
        assert_eq!(fs.try_lock(&two, key).await, Ok(true), "{key}: free again");
        fs.unlock(&two, key).await.unwrap();
        fs.unlock(&two, key).await.unwrap();
    }
    assert_eq!(fs.getattr(&one).await.unwrap().size, 0, "a lock is no content");
}

pub(super) async fn a_lock_ends_with_the_file_it_was_taken_through<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, _) = fs.create(dir, &name("locks"), 0o600).await.unwrap();
    let (two, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    assert_eq!(fs.try_lock(&one, 5).await, Ok(true));
    let clone = one.clone();
    drop(one);
    let (three, _) = fs.open(dir, &name("locks"), OpenMode::ReadWrite).await.unwrap();
    drop(three);
    assert_eq!(
        fs.try_lock(&two, 5).await,
        Ok(false),
        "the clone keeps the file open, and closing another open does not release the lock"
    );
    drop(clone);
    becomes(Ok(true), async || fs.try_lock(&two, 5).await).await;
}
