//! Attributes of objects.

use super::*;
use crate::export::fs::{Attr, SetAttr, Time};

const NONE: SetAttr = SetAttr { size: None, mode: None, uid: None, gid: None, atime: None, mtime: None };

pub(super) async fn a_new_object_has_the_mode_it_was_made_with<F: Fs>(fs: &F, dir: &F::Handle) {
    let parent = fs.getattr(dir).await.unwrap();
    for mode in [0o777, 0o755, 0o700, 0o022, 0] {
        let (made, new_dir) = fs.mkdir(dir, &name(format!("d{mode:o}")), mode).await.unwrap();
        let (file, new_file) = fs.create(dir, &name(format!("f{mode:o}")), mode).await.unwrap();
        let attrs = (fs.getattr(&made).await.unwrap(), fs.getattr(&file).await.unwrap());
        assert_eq!((new_dir, new_file), attrs, "the attributes that the creation returned");
        assert_eq!(list(fs, &made).await, []);
        let (made, file) = attrs;
        assert_eq!((made.kind, made.mode, file.kind, file.mode), (Kind::Directory, mode, Kind::File, mode));
        assert_eq!((file.size, file.used, file.links), (0, 0, 1));
        assert_eq!((made.uid, made.gid, file.uid, file.gid), (parent.uid, parent.gid, parent.uid, parent.gid));
        let (_, found) = fs.lookup(dir, &name(format!("f{mode:o}"))).await.unwrap();
        assert_eq!(found, file);
    }
}

pub(super) async fn attributes_are_what_was_set<F: Fs>(fs: &F, dir: &F::Handle) {
    let (atime, mtime) =
        (Time { seconds: 1, nanoseconds: 2_000 }, Time { seconds: 2_000_000_000, nanoseconds: 999_999_000 });
    file(fs, dir, "closed", "").await;
    let objects = [
        mkdir(fs, dir, "d").await,
        fs.create(dir, &name("open"), 0o644).await.unwrap().0,
        fs.lookup(dir, &name("closed")).await.unwrap().0,
    ];
    for object in &objects {
        let before = fs.getattr(object).await.unwrap();
        let expect = async |set: SetAttr, expected: Attr| {
            fs.setattr(object, set).await.unwrap();
            assert_eq!(fs.getattr(object).await.unwrap(), expected, "{object:?} {set:?}");
            expected
        };
        let same = expect(NONE, before).await;
        let owned = expect(SetAttr { uid: Some(1000), ..NONE }, Attr { uid: 1000, ..same }).await;
        let owned = expect(SetAttr { gid: Some(2000), ..NONE }, Attr { gid: 2000, ..owned }).await;
        let strict = expect(SetAttr { mode: Some(0), ..NONE }, Attr { mode: 0, ..owned }).await;
        let timed = expect(SetAttr { mtime: Some(mtime), ..NONE }, Attr { mtime, ..strict }).await;
        let timed = expect(SetAttr { atime: Some(atime), ..NONE }, Attr { atime, ..timed }).await;
        let all =
            SetAttr { mode: Some(0o7777), uid: Some(0), gid: Some(3), atime: Some(mtime), mtime: Some(atime), ..NONE };
        expect(all, Attr { mode: 0o7777, uid: 0, gid: 3, atime: mtime, mtime: atime, ..timed }).await;
    }
}

pub(super) async fn the_mode_outlives_a_new_owner<F: Fs>(fs: &F, dir: &F::Handle) {
    let made = mkdir(fs, dir, "d").await;
    let (file, _) = fs.create(dir, &name("f"), 0o755).await.unwrap();
    let mode = |mode| SetAttr { mode: Some(mode), ..NONE };
    let owner = SetAttr { uid: Some(1000), gid: Some(1000), ..NONE };
    for (object, with_owner, after_owner) in [(&made, 0o2770, 0o2770), (&file, 0o6755, 0o755)] {
        fs.setattr(object, mode(with_owner)).await.unwrap();
        fs.setattr(object, owner).await.unwrap();
        assert_eq!(fs.getattr(object).await.unwrap().mode, after_owner, "chown(2) clears setuid and setgid of a file");
        fs.setattr(object, SetAttr { mode: Some(with_owner), ..owner }).await.unwrap();
        assert_eq!(fs.getattr(object).await.unwrap().mode, with_owner, "set in one call, the owner comes first");
    }
    let (inner, _) = fs.mkdir(&made, &name("inner"), 0o755).await.unwrap();
    let inner = fs.getattr(&inner).await.unwrap();
    assert_eq!((inner.mode, inner.gid), (0o2755, 1000), "a new directory inherits setgid and the group");
}

pub(super) async fn what_no_object_can_have_is_refused<F: Fs>(fs: &F, dir: &F::Handle) {
    let before = fs.getattr(dir).await.unwrap();
    let now = Time { seconds: 0, nanoseconds: (1 << 30) - 1 };
    for set in [
        SetAttr { mode: Some(0o10000), uid: Some(1), ..NONE },
        SetAttr { uid: Some(u32::MAX), ..NONE },
        SetAttr { gid: Some(u32::MAX), uid: Some(1), ..NONE },
        SetAttr { atime: Some(now), uid: Some(1), ..NONE },
        SetAttr { mtime: Some(Time { seconds: 0, nanoseconds: 1_000_000_000 }), ..NONE },
    ] {
        assert_eq!(fs.setattr(dir, set).await, Err(Status::Inval), "{set:?}");
    }
    assert_eq!(answer(fs.mkdir(dir, &name("d"), 0o1777).await), Err(Status::Inval));
    assert_eq!(answer(fs.create(dir, &name("f"), 0o4755).await), Err(Status::Inval));
    assert_eq!(fs.getattr(dir).await.unwrap(), before);
}

pub(super) async fn a_change_in_a_directory_is_seen_in_its_time<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, two) = (mkdir(fs, dir, "one").await, mkdir(fs, dir, "two").await);
    let old = Time { seconds: 1000, nanoseconds: 0 };
    let changed = async |object: &F::Handle| {
        let changed = fs.getattr(object).await.unwrap().mtime != old;
        fs.setattr(object, SetAttr { mtime: Some(old), ..NONE }).await.unwrap();
        changed
    };
    changed(&one).await;
    changed(&two).await;
    let made = mkdir(fs, &one, "d").await;
    assert!(changed(&one).await, "mkdir");
    let (file, _) = fs.create(&one, &name("f"), 0o644).await.unwrap();
    assert!(changed(&one).await, "create");
    changed(&file).await;
    fs.write(&file, 0, b"x".to_vec()).await.unwrap();
    fs.commit(&file).await.unwrap();
    assert!(changed(&file).await, "write");
    fs.rename(&one, &name("d"), &two, &name("d")).await.unwrap();
    assert_eq!((changed(&one).await, changed(&two).await), (true, true), "rename");
    fs.setattr(&made, SetAttr { mode: Some(0o700), ..NONE }).await.unwrap();
    assert!(!changed(&two).await, "a change inside a directory does not change the time of its parent");
    fs.rmdir(&two, &name("d")).await.unwrap();
    assert!(changed(&two).await, "rmdir");
    drop(file);
    fs.unlink(&one, &name("f")).await.unwrap();
    becomes(true, async || fs.getattr(&one).await.unwrap().mtime != old).await;
}
