//! Objects that the driver never creates but finds in tenants' trees.

use super::*;
use crate::export::fs::{OpenMode, SetAttr};

/// Checks that the implementation recognizes foreign objects and does not follow, wait for or change them.
///
/// The caller has to create these objects in `dir` first, all owned by root: a file `target` with the content `target`;
/// symbolic links `link` to `target`, `outside` to `/etc` and `dangling` to nowhere; a FIFO `fifo`, a bound socket
/// `socket`, and a character device `device` (1, 3). Afterwards only `target` is left.
pub async fn foreign<F: Fs>(fs: &F, dir: &F::Handle) {
    let objects = [
        ("link", Kind::Symlink),
        ("outside", Kind::Symlink),
        ("dangling", Kind::Symlink),
        ("fifo", Kind::Fifo),
        ("socket", Kind::Socket),
        ("device", Kind::CharDevice),
    ];
    let listed = list(fs, dir).await;
    for (text, kind) in objects {
        let (object, attr) = fs.lookup(dir, &name(text)).await.unwrap();
        assert_eq!((attr.kind, attr.links), (kind, 1), "{text}");
        let entry = listed.iter().find(|entry| entry.name == name(text)).expect(text);
        assert!(entry.kind.is_none_or(|listed| listed == kind) && entry.fileid == attr.fileid, "{entry:?}");
        let expected = if kind == Kind::Symlink { Status::Symlink } else { Status::WrongType };
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            assert_eq!(answer(fs.open(dir, &name(text), mode).await), Err(expected), "{text} {mode:?}");
        }
        assert_eq!(answer(fs.mkdir(dir, &name(text), 0o755).await), Err(Status::Exist), "{text}");
        assert_eq!(answer(fs.create(dir, &name(text), 0o644).await), Err(Status::Exist), "{text}");
        assert_eq!(answer(fs.lookup(&object, &name("passwd")).await), Err(Status::NotDir), "{text}");
        assert_eq!(answer(fs.create(&object, &name("new"), 0o644).await), Err(Status::NotDir), "{text}");
        assert_eq!(answer(fs.readdir(&object, 0).await), Err(Status::NotDir), "{text}");
        assert_eq!(fs.rmdir(dir, &name(text)).await, Err(Status::NotDir), "{text}");

        let owner = SetAttr { uid: Some(1000), gid: Some(1000), ..SetAttr::default() };
        fs.setattr(&object, owner).await.unwrap();
        assert_eq!(fs.getattr(&object).await.unwrap().uid, 1000, "{text}");
        let mode = fs.setattr(&object, SetAttr { mode: Some(0o604), ..SetAttr::default() }).await;
        assert_eq!(mode, if kind == Kind::Symlink { Err(Status::NotSupp) } else { Ok(()) }, "{text}");
        drop(object);

        fs.rename(dir, &name(text), dir, &name("moved")).await.unwrap();
        assert_eq!(fs.lookup(dir, &name("moved")).await.unwrap().1.fileid, attr.fileid, "{text}");
        file(fs, dir, "file", "content").await;
        fs.rename(dir, &name("moved"), dir, &name("file")).await.unwrap();
        assert_eq!(fs.lookup(dir, &name("file")).await.unwrap().1.kind, kind, "{text}");
        fs.unlink(dir, &name("file")).await.unwrap();
    }
    assert_eq!(names(fs, dir).await, ["target"]);
    let (target, attr) = fs.open(dir, &name("target"), OpenMode::Read).await.unwrap();
    assert_eq!((attr.uid, attr.gid), (0, 0), "links are not followed");
    assert_eq!(fs.read(&target, 0, 100).await.unwrap(), b"target");
}
