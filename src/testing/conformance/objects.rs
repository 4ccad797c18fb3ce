//! Objects that the driver creates only when it copies a tree: links, FIFOs, sockets, devices.

use super::*;
use crate::export::fs::{OpenMode, SYMLINK_MAX, SetAttr, Time};

pub(super) async fn every_kind_of_object_is_made<F: Fs>(fs: &F, dir: &F::Handle) {
    let kinds = [
        ("fifo", Kind::Fifo, (0, 0)),
        ("socket", Kind::Socket, (0, 0)),
        ("character", Kind::CharDevice, (1, 3)),
        // XFS supports no larger number.
        ("block", Kind::BlockDevice, (259, 262_143)),
    ];
    for (text, kind, device) in kinds {
        let (object, made) = fs.mknod(dir, &name(text), kind, 0o640, device).await.unwrap();
        assert_eq!((made.kind, made.mode, made.device, made.links), (kind, 0o640, device, 1), "{text}");
        assert_eq!(fs.lookup(dir, &name(text)).await.unwrap().1, made, "{text}");
        assert_eq!(fs.getattr(&object).await.unwrap(), made, "{text}");
        assert_eq!(answer(fs.mknod(dir, &name(text), kind, 0o640, device).await), Err(Status::Exist), "{text}");
        assert_eq!(answer(fs.open(dir, &name(text), OpenMode::Read).await), Err(Status::WrongType), "{text}");
    }
    for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
        assert_eq!(answer(fs.mknod(dir, &name("other"), kind, 0o640, (0, 0)).await), Err(Status::Inval), "{kind:?}");
    }
    assert_eq!(answer(fs.mknod(dir, &name("other"), Kind::Fifo, 0o1777, (0, 0)).await), Err(Status::Inval));
}

pub(super) async fn a_symbolic_link_keeps_its_targets_bytes<F: Fs>(fs: &F, dir: &F::Handle) {
    let longest = [b'x'; 1000]; // XFS supports up to 1024.
    let targets: [&[u8]; 5] = [b"a", b"/etc/passwd", b"../..//\xff\n", b" ", &longest];
    for (number, target) in targets.into_iter().enumerate() {
        let text = name(number.to_string());
        let (link, made) = fs.symlink(dir, &text, target).await.unwrap();
        assert_eq!((made.kind, made.size), (Kind::Symlink, target.len() as u64));
        assert_eq!(fs.readlink(&link).await.unwrap(), target);
        assert_eq!(fs.readlink(&fs.lookup(dir, &text).await.unwrap().0).await.unwrap(), target);
        assert_eq!(answer(fs.symlink(dir, &text, target).await), Err(Status::Exist));
        // The attributes are set on the link itself.
        fs.setattr(&link, SetAttr { uid: Some(1000), gid: Some(2000), ..Default::default() }).await.unwrap();
        let attr = fs.getattr(&link).await.unwrap();
        assert_eq!((attr.uid, attr.gid), (1000, 2000));
    }
    let too_long = vec![b'x'; SYMLINK_MAX + 1];
    assert_eq!(answer(fs.symlink(dir, &name("no"), b"").await), Err(Status::Inval));
    assert_eq!(answer(fs.symlink(dir, &name("no"), b"a\0b").await), Err(Status::Inval));
    assert_eq!(answer(fs.symlink(dir, &name("no"), &too_long).await), Err(Status::NameTooLong));
    assert_eq!(answer(fs.readlink(dir).await), Err(Status::Inval));
    file(fs, dir, "f", "content").await;
    assert_eq!(answer(fs.readlink(&fs.lookup(dir, &name("f")).await.unwrap().0).await), Err(Status::Inval));
}

/// Checks that the server stores the times of a symbolic link. NFS-Ganesha accepts them and does not store them.
/// Creates the link in the root and removes it.
pub async fn link_times<F: Fs>(fs: &F) {
    let (root, text) = (fs.root(), name("link with times"));
    let (link, _) = fs.symlink(&root, &text, b"nowhere").await.unwrap();
    let time = Time { seconds: 7, nanoseconds: 8_000 };
    fs.setattr(&link, SetAttr { mtime: Some(time), atime: Some(time), ..Default::default() }).await.unwrap();
    assert_eq!(fs.getattr(&link).await.unwrap().mtime, time);
    drop(link);
    fs.unlink(&root, &text).await.unwrap();
}

pub(super) async fn an_object_has_as_many_names_as_it_was_given<F: Fs>(fs: &F, dir: &F::Handle) {
    let other = mkdir(fs, dir, "other").await;
    file(fs, dir, "file", "content").await;
    fs.symlink(dir, &name("symlink"), b"nowhere").await.unwrap();
    fs.mknod(dir, &name("fifo"), Kind::Fifo, 0o644, (0, 0)).await.unwrap();
    for text in ["file", "symlink", "fifo"] {
        let (object, attr) = fs.lookup(dir, &name(text)).await.unwrap();
        fs.link(&object, &other, &name(text)).await.unwrap();
        let (_, linked) = fs.lookup(&other, &name(text)).await.unwrap();
        assert_eq!((linked.fileid, linked.kind, linked.links), (attr.fileid, attr.kind, 2), "{text}");
        assert_eq!(fs.link(&object, &other, &name(text)).await, Err(Status::Exist), "{text}");
        // A client may rename the object instead of removing it while the object is held.
        drop(object);
        fs.unlink(dir, &name(text)).await.unwrap();
        // A client may return cached attributes of a file that it had open.
        becomes(1, async || fs.lookup(&other, &name(text)).await.unwrap().1.links).await;
        fs.unlink(&other, &name(text)).await.unwrap();
        assert_eq!(answer(fs.lookup(&other, &name(text)).await), Err(Status::NoEnt), "{text}");
    }
    let made = fs.create(dir, &name("open"), 0o600).await.unwrap().0;
    fs.link(&made, &other, &name("open")).await.unwrap();
    assert_eq!(fs.getattr(&made).await.unwrap().links, 2);
    assert_eq!(fs.link(&other, dir, &name("directory")).await, Err(Status::IsDir));
    assert_eq!(fs.link(&made, &made, &name("in-a-file")).await, Err(Status::NotDir));
}

pub(super) async fn a_directory_knows_the_one_it_is_in<F: Fs>(fs: &F, dir: &F::Handle) {
    let here = fs.getattr(dir).await.unwrap().fileid;
    let (one, two) = (mkdir(fs, dir, "one").await, mkdir(fs, dir, "two").await);
    let inner = mkdir(fs, &one, "inner").await;
    assert_eq!(fs.parent(&one).await.unwrap().1.fileid, here);
    fs.rename(&one, &name("inner"), &two, &name("moved")).await.unwrap();
    let (parent, attr) = fs.parent(&inner).await.unwrap();
    assert_eq!(attr.fileid, fs.getattr(&two).await.unwrap().fileid);
    assert_eq!(names(fs, &parent).await, ["moved"]);
    fs.rmdir(&two, &name("moved")).await.unwrap();
    assert_eq!(answer(fs.parent(&inner).await), Err(Status::Stale));
    let root = fs.getattr(&fs.root()).await.unwrap().fileid;
    assert_eq!(fs.parent(&fs.root()).await.unwrap().1.fileid, root, "nothing is above the export");
    file(fs, dir, "f", "").await;
    assert_eq!(answer(fs.parent(&fs.lookup(dir, &name("f")).await.unwrap().0).await), Err(Status::NotDir));
}
