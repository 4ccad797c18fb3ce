//! Random operations on the export in memory and on a local directory. Both must return the same results and end with
//! the same tree.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::export::fs::{self, Attr, LockMode, OpenMode, SetAttr};
use crate::export::kernel::KernelFs;
use crate::testing::local_directory;
use crate::testing::memory::{MemoryFs, MemoryServer, Node, Tree};

/// An operation. An [`Index`] chooses one of the existing handles.
#[derive(Debug, Clone)]
enum Operation {
    Lookup(Index, Name),
    Mkdir(Index, Name, u32),
    Create(Index, Name, u32),
    OpenOrCreate(Index, Name, u32),
    Symlink(Index, Name, Vec<u8>),
    Mknod(Index, Name, Kind),
    Link(Index, Index, Name),
    Readlink(Index),
    Parent(Index),
    Seek(Index, u64, fs::Seek),
    Copy(Index, Index, u64, u64),
    SetXattr(Index, &'static [u8], Vec<u8>),
    Xattrs(Index),
    Open(Index, Name, OpenMode),
    Rename(Index, Name, Index, Name),
    Unlink(Index, Name),
    Rmdir(Index, Name),
    Readdir(Index),
    Getattr(Index),
    Setattr(Index, SetAttr),
    Read(Index, u64, usize),
    Write(Index, u64, Vec<u8>),
    Commit(Index),
    TryLock(Index, u64, bool),
    Unlock(Index, u64),
}

/// The result of an operation, as far as both implementations must agree.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Attr(Attr),
    Entries(Vec<(Name, Option<Kind>)>),
    Data(Vec<u8>),
    Granted(bool),
    Offset(Option<u64>),
    Xattrs(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

/// The attributes that do not depend on the file system. Times, file IDs, used space, and the sizes and link counts of
/// directories do.
fn common(attr: Attr) -> Answer {
    let (atime, mtime) = Default::default();
    let (size, links) = if attr.kind == Kind::Directory { (0, 0) } else { (attr.size, attr.links) };
    Answer::Attr(Attr { size, links, used: 0, fileid: 0, atime, mtime, ..attr })
}

async fn perform<F: Fs>(fs: &F, handles: &mut Vec<F::Handle>, operation: &Operation) -> FsResult<Answer> {
    let handle = |index: &Index| index.get(handles).clone();
    let (handle, answer) = match operation {
        Operation::Lookup(dir, name) => fs.lookup(&handle(dir), name).await.map(|(h, attr)| (Some(h), common(attr))),
        Operation::Open(dir, name, mode) => {
            fs.open(&handle(dir), name, *mode).await.map(|(h, attr)| (Some(h), common(attr)))
        }
        Operation::Mkdir(dir, name, mode) => {
            fs.mkdir(&handle(dir), name, *mode).await.map(|(h, attr)| (Some(h), common(attr)))
        }
        Operation::Create(dir, name, mode) => {
            fs.create(&handle(dir), name, *mode).await.map(|(h, attr)| (Some(h), common(attr)))
        }
        Operation::OpenOrCreate(dir, name, mode) => {
            fs.open_or_create(&handle(dir), name, *mode).await.map(|(h, attr)| (Some(h), common(attr)))
        }
        Operation::Symlink(dir, name, target) => {
            fs.symlink(&handle(dir), name, target).await.map(|(h, attr)| (Some(h), common(attr)))
        }
        Operation::Mknod(dir, name, kind) => {
            fs.mknod(&handle(dir), name, *kind, 0o640, (1, 3)).await.map(|(h, attr)| (Some(h), common(attr)))
        }
        Operation::Parent(dir) => fs.parent(&handle(dir)).await.map(|(h, attr)| (Some(h), common(attr))),
        Operation::Link(object, dir, name) => {
            fs.link(&handle(object), &handle(dir), name).await.map(|()| (None, Answer::Done))
        }
        Operation::Readlink(link) => fs.readlink(&handle(link)).await.map(|target| (None, Answer::Data(target))),
        Operation::Seek(file, offset, what) => {
            fs.seek(&handle(file), *offset, *what).await.map(|found| (None, Answer::Offset(found)))
        }
        Operation::Copy(source, target, offset, length) => {
            let copied = fs.copy(&handle(source), &handle(target), *offset, *length).await;
            copied.map(|copied| (None, Answer::Offset(Some(copied))))
        }
        Operation::SetXattr(object, name, value) => {
            fs.set_xattr(&handle(object), name, value).await.map(|()| (None, Answer::Done))
        }
        Operation::Xattrs(object) => {
            let object = handle(object);
            let mut found = Vec::new();
            for name in fs.list_xattrs(&object).await? {
                let value = fs.get_xattr(&object, &name).await?;
                found.push((name, value));
            }
            found.sort();
            Ok((None, Answer::Xattrs(found)))
        }
        Operation::Rename(from_dir, from, to_dir, to) => {
            fs.rename(&handle(from_dir), from, &handle(to_dir), to).await.map(|()| (None, Answer::Done))
        }
        Operation::Unlink(dir, name) => fs.unlink(&handle(dir), name).await.map(|()| (None, Answer::Done)),
        Operation::Rmdir(dir, name) => fs.rmdir(&handle(dir), name).await.map(|()| (None, Answer::Done)),
        Operation::Readdir(dir) => fs.readdir(&handle(dir), 0).await.map(|page| {
            let mut entries: Vec<_> = page.entries.into_iter().map(|entry| (entry.name, entry.kind)).collect();
            entries.sort_by(|one, two| one.0.cmp(&two.0));
            (None, Answer::Entries(entries))
        }),
        Operation::Getattr(object) => fs.getattr(&handle(object)).await.map(|attr| (None, common(attr))),
        Operation::Setattr(object, set) => fs.setattr(&handle(object), *set).await.map(|()| (None, Answer::Done)),
        Operation::Read(file, offset, length) => {
            fs.read(&handle(file), *offset, *length).await.map(|data| (None, Answer::Data(data)))
        }
        Operation::Write(file, offset, data) => {
            fs.write(&handle(file), *offset, data.clone()).await.map(|()| (None, Answer::Done))
        }
        Operation::Commit(file) => fs.commit(&handle(file)).await.map(|()| (None, Answer::Done)),
        Operation::TryLock(file, key, shared) => {
            let mode = if *shared { LockMode::Shared } else { LockMode::Exclusive };
            fs.try_lock(&handle(file), *key, mode).await.map(|granted| (None, Answer::Granted(granted)))
        }
        Operation::Unlock(file, key) => fs.unlock(&handle(file), *key).await.map(|()| (None, Answer::Done)),
    }?;
    handles.extend(handle);
    Ok(answer)
}

/// Whether the answers differ only because a removed file is still held. The server in memory drops a file without a
/// name. The local kernel keeps the file while a handle exists, so the operation works, or fails with NotDir.
fn removed_but_held(operation: &Operation, in_memory: &FsResult<Answer>, on_disk: &FsResult<Answer>) -> bool {
    use Operation::*;
    let by_handle = matches!(
        operation,
        Setattr(..)
            | Read(..)
            | Write(..)
            | Commit(..)
            | TryLock(..)
            | Unlock(..)
            | Readlink(..)
            | Seek(..)
            | Copy(..)
            | SetXattr(..)
            | Xattrs(..)
    );
    let by_both = matches!(operation, Link(..)) && on_disk.is_err();
    *in_memory == Err(Status::Stale) && (by_handle || by_both || *on_disk == Err(Status::NotDir))
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let name = || prop::sample::select(vec![name("a"), name("b"), name("c")]);
    let index = any::<Index>;
    let mode = || prop::sample::select(vec![0o777, 0o750, 0o600, 0]);
    let open = prop::sample::select(vec![OpenMode::Read, OpenMode::ReadWrite]);
    let id = || prop::option::of(0..3_u32);
    let size = prop::option::weighted(0.2, prop::sample::select(vec![0, 3, 4096, 9_000, 40_000]));
    let set = (size, prop::option::of(0..=0o7777_u32), id(), id()).prop_map(|(size, mode, uid, gid)| SetAttr {
        size,
        mode,
        uid,
        gid,
        ..SetAttr::default()
    });
    let offset = || prop::sample::select(vec![0, 3, 4095, 10_000, i64::MAX as u64 + 1, u64::MAX]);
    let kind = prop::sample::select(vec![Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::Directory]);
    let seek = prop::sample::select(vec![fs::Seek::Data, fs::Seek::Hole]);
    let target = prop::sample::select(vec![b"a".to_vec(), b"/\xff".to_vec(), b"".to_vec(), vec![b'x'; 5000]]);
    let xattr = prop::sample::select(vec![&b"user.a"[..], b"user.b"]);
    prop_oneof![
        1 => (index(), name(), mode()).prop_map(|(d, n, m)| OpenOrCreate(d, n, m)),
        1 => (index(), name(), target).prop_map(|(d, n, t)| Symlink(d, n, t)),
        1 => (index(), name(), kind).prop_map(|(d, n, k)| Mknod(d, n, k)),
        2 => (index(), index(), name()).prop_map(|(o, d, n)| Link(o, d, n)),
        1 => index().prop_map(Readlink),
        1 => index().prop_map(Parent),
        1 => (index(), offset(), seek).prop_map(|(f, o, s)| Seek(f, o, s)),
        1 => (index(), index(), offset(), 1..9000_u64).prop_map(|(s, t, o, l)| Copy(s, t, o, l)),
        1 => (index(), xattr, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(o, x, v)| SetXattr(o, x, v)),
        1 => index().prop_map(Xattrs),
        2 => (index(), name()).prop_map(|(d, n)| Lookup(d, n)),
        5 => (index(), name(), mode()).prop_map(|(d, n, m)| Mkdir(d, n, m)),
        3 => (index(), name(), mode()).prop_map(|(d, n, m)| Create(d, n, m)),
        2 => (index(), name(), open).prop_map(|(d, n, m)| Open(d, n, m)),
        6 => (index(), name(), index(), name()).prop_map(|(d, n, e, m)| Rename(d, n, e, m)),
        1 => (index(), name()).prop_map(|(d, n)| Unlink(d, n)),
        1 => (index(), name()).prop_map(|(d, n)| Rmdir(d, n)),
        1 => index().prop_map(Readdir),
        1 => index().prop_map(Getattr),
        2 => (index(), set).prop_map(|(o, s)| Setattr(o, s)),
        1 => (index(), offset(), 0..9000_usize).prop_map(|(f, o, l)| Read(f, o, l)),
        2 => (index(), offset(), prop::collection::vec(any::<u8>(), 1..6000)).prop_map(|(f, o, d)| Write(f, o, d)),
        1 => index().prop_map(Commit),
        1 => (index(), 0..3_u64, any::<bool>()).prop_map(|(f, k, shared)| TryLock(f, k, shared)),
        1 => (index(), 0..3_u64).prop_map(|(f, k)| Unlock(f, k)),
    ]
}

/// The content of a local directory, as root sees it.
fn tree(place: &Path) -> Tree {
    let (mut tree, mut pending) = (BTreeMap::new(), vec![place.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let mode = metadata.mode() & 0o7777;
            let kind = metadata.file_type();
            let node = if kind.is_dir() {
                pending.push(path.clone());
                Node::directory(mode)
            } else if kind.is_symlink() {
                Node::symlink(std::fs::read_link(&path).unwrap().as_os_str().as_bytes())
            } else if kind.is_fifo() {
                Node::special(Kind::Fifo, mode)
            } else if kind.is_socket() {
                Node::special(Kind::Socket, mode)
            } else if kind.is_char_device() {
                Node::special(Kind::CharDevice, mode)
            } else {
                Node::file(mode, std::fs::read(&path).unwrap())
            };
            let name = path.strip_prefix(place).unwrap().as_os_str().as_bytes().to_vec();
            tree.insert(name, node.owned_by(metadata.uid(), metadata.gid()));
        }
    }
    Tree(tree)
}

async fn compare(operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let server = MemoryServer::new();
    let memory: MemoryFs = server.client();
    let (place, kernel): (_, KernelFs) = local_directory::local();
    let (mut in_memory, mut on_disk) = (vec![memory.root()], vec![kernel.root()]);
    let mode = SetAttr { mode: Some(0o755), ..SetAttr::default() };
    kernel.setattr(&kernel.root(), mode).await.unwrap();
    for operation in operations {
        let answer = perform(&memory, &mut in_memory, &operation).await;
        if matches!(operation, Operation::Copy(..)) && answer == Err(Status::Stale) {
            continue; // The local kernel would copy from the removed file, which it still keeps.
        }
        let local = perform(&kernel, &mut on_disk, &operation).await;
        if !removed_but_held(&operation, &answer, &local) {
            prop_assert_eq!(answer, local, "memory on the left, kernel on the right: {:?}", operation);
        }
    }
    prop_assert_eq!(server.tree(), tree(place.path()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn memory_and_kernel_answer_alike(operations in prop::collection::vec(operation(), 0..80)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(compare(operations))?;
    }
}
