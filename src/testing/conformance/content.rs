//! Operations that a server performs on content by itself (SEEK, CLONE, COPY, truncation), and extended attributes.

use super::*;
use crate::export::fs::{Attr, OpenMode, Seek, SetAttr, Time};

const BLOCK: u64 = 64 << 10;

/// Creates a file with data, a hole, data, and a hole up to the end. Each part is one block long, except that the last
/// hole is half a block long.
async fn sparse<F: Fs>(fs: &F, dir: &F::Handle, text: &str) -> F::Handle {
    let (file, _) = fs.create(dir, &name(text), 0o644).await.unwrap();
    fs.write(&file, 0, vec![b'a'; BLOCK as usize]).await.unwrap();
    fs.write(&file, 2 * BLOCK, vec![b'b'; BLOCK as usize]).await.unwrap();
    fs.setattr(&file, SetAttr { size: Some(3 * BLOCK + BLOCK / 2), ..SetAttr::default() }).await.unwrap();
    fs.commit(&file).await.unwrap();
    file
}

pub(super) async fn a_size_is_set_by_who_may_write<F: Fs>(fs: &F, dir: &F::Handle) {
    let size = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    let (file, _) = fs.create(dir, &name("f"), 0o644).await.unwrap();
    fs.write(&file, 0, b"content".to_vec()).await.unwrap();
    fs.setattr(&file, size(3)).await.unwrap();
    assert_eq!(fs.read(&file, 0, 100).await.unwrap(), b"con");
    fs.setattr(&file, size(6)).await.unwrap();
    assert_eq!(fs.read(&file, 0, 100).await.unwrap(), b"con\0\0\0", "truncated content does not come back");
    fs.setattr(&file, size(1 << 40)).await.unwrap();
    let attr = fs.getattr(&file).await.unwrap();
    assert_eq!(attr.size, 1 << 40);
    assert!(attr.used < 1 << 20, "the file grows by a hole: {attr:?}");
    assert_eq!(fs.setattr(&file, size(u64::MAX)).await, Err(Status::FBig));
    let (read, _) = fs.open(dir, &name("f"), OpenMode::Read).await.unwrap();
    let (closed, _) = fs.lookup(dir, &name("f")).await.unwrap();
    for handle in [&read, &closed, dir] {
        assert_eq!(fs.setattr(handle, size(1)).await, Err(Status::Inval));
    }
    let all = SetAttr { size: Some(0), mode: Some(0o6755), uid: Some(1), gid: Some(2), ..SetAttr::default() };
    fs.setattr(&file, all).await.unwrap();
    let attr = fs.getattr(&file).await.unwrap();
    assert_eq!((attr.size, attr.mode, attr.uid, attr.gid), (0, 0o6755, 1, 2), "the mode is set after size and owner");
}

pub(super) async fn holes_are_told_or_all_is_data<F: Fs>(fs: &F, dir: &F::Handle) {
    let file = sparse(fs, dir, "f").await;
    let end = 3 * BLOCK + BLOCK / 2;
    let holes = fs.seek(&file, 0, Seek::Hole).await.unwrap().unwrap() < end;
    if holes {
        let (data, hole) = (Seek::Data, Seek::Hole);
        for (offset, what, expected) in [
            (0, data, Some(0)),
            (7, data, Some(7)),
            (0, hole, Some(BLOCK)),
            (BLOCK, data, Some(2 * BLOCK)),
            (BLOCK + 5, hole, Some(BLOCK + 5)),
            (2 * BLOCK + 1, hole, Some(3 * BLOCK)),
            (3 * BLOCK, data, None),
            (end - 1, hole, Some(end - 1)),
        ] {
            assert_eq!(fs.seek(&file, offset, what).await, Ok(expected), "{offset} {what:?}");
        }
    } else {
        assert_eq!(fs.seek(&file, BLOCK + 5, Seek::Data).await, Ok(Some(BLOCK + 5)));
        assert_eq!(fs.seek(&file, BLOCK + 5, Seek::Hole).await, Ok(Some(end)));
    }
    for (offset, what) in [(end, Seek::Data), (end, Seek::Hole), (u64::MAX, Seek::Hole)] {
        assert_eq!(fs.seek(&file, offset, what).await, Ok(None), "{offset} {what:?}");
    }
    let (closed, _) = fs.lookup(dir, &name("f")).await.unwrap();
    assert_eq!(fs.seek(&closed, 0, Seek::Data).await, Err(Status::Inval));
}

pub(super) async fn a_clone_or_a_copy_is_the_same_or_nothing<F: Fs>(fs: &F, dir: &F::Handle) {
    sparse(fs, dir, "source").await;
    let (source, attr) = fs.open(dir, &name("source"), OpenMode::Read).await.unwrap();
    let expected = fs.read(&source, 0, usize::MAX).await.unwrap();
    let unsupported = |status| assert!(matches!(status, Status::NotSupp | Status::XDev), "{status}");

    let (clone, _) = fs.create(dir, &name("clone"), 0o644).await.unwrap();
    match fs.clone_file(&source, &clone).await {
        Ok(size) => {
            assert_eq!(size, attr.size);
            assert!(fs.read(&clone, 0, usize::MAX).await.unwrap() == expected, "cloned");
            let used = fs.getattr(&clone).await.unwrap().used;
            assert!(used <= attr.used, "holes stay holes: {used}");
        }
        Err(status) => {
            unsupported(status);
            assert_eq!(fs.getattr(&clone).await.unwrap().size, 0);
        }
    }
    let (copy, _) = fs.create(dir, &name("copy"), 0o644).await.unwrap();
    match fs.copy(&source, &copy, BLOCK + 1, BLOCK).await {
        Ok(copied) => {
            assert!(copied > 0 && copied <= BLOCK, "{copied}");
            fs.commit(&copy).await.unwrap();
            let (from, to) = (BLOCK as usize + 1, (BLOCK + 1 + copied) as usize);
            let read = fs.read(&copy, 0, usize::MAX).await.unwrap();
            assert!(read[from..] == expected[from..to] && read[..from].iter().all(|byte| *byte == 0));
            assert_eq!(fs.copy(&source, &copy, attr.size, 10).await, Ok(0), "nothing is copied after the end");
        }
        Err(status) => unsupported(status),
    }
    for (from, to) in [(&source, &source), (&source, dir), (dir, &copy)] {
        assert_eq!(answer(fs.clone_file(from, to).await), Err(Status::Inval));
        assert_eq!(answer(fs.copy(from, to, 0, 1).await), Err(Status::Inval));
    }
}

pub(super) async fn entries_are_cloned_with_all_that_they_have_or_are_left_to_others<F: Fs>(fs: &F, dir: &F::Handle) {
    let to = mkdir(fs, dir, "to").await;
    for number in 0..9 {
        file(fs, dir, &format!("{number}"), &"content".repeat(number)).await;
    }
    sparse(fs, dir, "sparse").await;
    fs.symlink(dir, &name("link"), b"content").await.unwrap();
    file(fs, dir, "first", "two names").await;
    fs.link(&fs.lookup(dir, &name("first")).await.unwrap().0, dir, &name("second")).await.unwrap();
    file(fs, dir, "taken", "another").await;
    file(fs, &to, "taken", "taken").await;
    let plain = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "sparse"];
    for (number, text) in plain.into_iter().enumerate() {
        let (object, _) = fs.lookup(dir, &name(text)).await.unwrap();
        let time = |seconds| Some(Time { seconds, nanoseconds: 123_456_000 });
        let mode = Some([0o640, 0o4755, 0o600][number % 3]);
        let set = SetAttr { mode, atime: time(7), mtime: time(9), ..SetAttr::default() };
        fs.setattr(&object, set).await.unwrap();
    }
    // Others are on the way, first and last.
    let names =
        ["link", "0", "1", "2", "to", "3", "first", "4", "5", "taken", "6", "7", "missing", "8", "sparse", "second"];
    let names = names.map(name);
    let cloned = fs.clone_entries(dir, &to, &names).await;
    let mut rest = cloned.into_iter();
    for name in &names {
        let (seen, made) = (rest.next().unwrap_or(Ok(None)).unwrap(), fs.lookup(&to, name).await);
        let is_plain = plain.iter().any(|text| text.as_bytes() == name.as_bytes());
        match (seen, made) {
            (Some(seen), Ok((_, made))) if is_plain => {
                let attr = fs.lookup(dir, name).await.unwrap().1;
                let of = |attr: Attr| (attr.kind, attr.size, attr.mode, attr.uid, attr.gid, attr.mtime);
                assert_eq!((of(made), of(seen)), (of(attr), of(attr)), "{name}");
                assert!(made.atime == seen.atime && made.used <= attr.used && made.links == 1, "{name}: {made:?}");
                let contents = (fs.read_file(dir, name, usize::MAX).await, fs.read_file(&to, name, usize::MAX).await);
                assert!(contents.0.is_ok() && contents.0 == contents.1, "{name}");
            }
            (None, Ok((_, made))) if is_plain => assert_eq!(made.size, 0, "{name}"),
            (None, Ok(_)) => assert_eq!(fs.read_file(&to, name, 100).await.unwrap(), b"taken", "{name}"),
            (None, Err(status)) => assert_eq!(status, Status::NoEnt, "{name}"),
            (seen, made) => panic!("{name}: {seen:?}, {made:?}"),
        }
    }
}

pub(super) async fn extended_attributes_are_kept_where_there_are_any<F: Fs>(fs: &F, dir: &F::Handle) {
    file(fs, dir, "f", "content").await;
    let (link, _) = fs.symlink(dir, &name("link"), b"f").await.unwrap();
    assert_eq!(
        answer(fs.list_xattrs(&link).await),
        Err(Status::Inval),
        "only files and directories have extended attributes"
    );
    let objects = [
        mkdir(fs, dir, "d").await,
        fs.lookup(dir, &name("f")).await.unwrap().0,
        fs.open(dir, &name("f"), OpenMode::Read).await.unwrap().0,
    ];
    let users = async |object: &F::Handle| {
        let mut names = fs.list_xattrs(object).await.unwrap();
        names.retain(|name| name.starts_with(b"user."));
        names.sort();
        names
    };
    let large = vec![b'v'; 3000];
    for object in &objects {
        match fs.set_xattr(object, b"user.one", b"1").await {
            Err(Status::NotSupp) => continue,
            set => set.unwrap(),
        }
        fs.set_xattr(object, b"user.two", b"").await.unwrap();
        assert_eq!(users(object).await, [b"user.one", b"user.two"]);
        fs.set_xattr(object, b"user.one", &large).await.unwrap();
        assert_eq!(fs.get_xattr(object, b"user.one").await.unwrap().unwrap(), large);
        assert_eq!(fs.get_xattr(object, b"user.two").await.unwrap().unwrap(), b"");
        assert_eq!(fs.get_xattr(object, b"user.none").await.unwrap(), None);
    }
}
