//! Random operations on the export in memory and on a local directory: both have to answer the same, and look the same.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::export::fs::{Attr, OpenMode, SetAttr};
use crate::export::kernel::{self, KernelFs};
use crate::export::memory::{MemoryFs, MemoryServer, Node, Tree};

/// An operation; an [`Index`] chooses one of the handles that there are.
#[derive(Debug, Clone)]
enum Operation {
    Lookup(Index, Name),
    Mkdir(Index, Name, u32),
    Create(Index, Name, u32),
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
    TryLock(Index, u64),
    Unlock(Index, u64),
}

/// What an operation answered, as far as two implementations have it in common.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Attr(Attr),
    Entries(Vec<(Name, Option<Kind>)>),
    Data(Vec<u8>),
    Granted(bool),
}

/// Times, numbers, and the sizes and links of directories differ from one file system to the next.
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
        Operation::Mkdir(dir, name, mode) => fs.mkdir(&handle(dir), name, *mode).await.map(|h| (Some(h), Answer::Done)),
        Operation::Create(dir, name, mode) => {
            fs.create(&handle(dir), name, *mode).await.map(|h| (Some(h), Answer::Done))
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
        Operation::TryLock(file, key) => {
            fs.try_lock(&handle(file), *key).await.map(|granted| (None, Answer::Granted(granted)))
        }
        Operation::Unlock(file, key) => fs.unlock(&handle(file), *key).await.map(|()| (None, Answer::Done)),
    }?;
    handles.extend(handle);
    Ok(answer)
}

/// A server knows nothing of a file without a name. This machine keeps it for those who hold it, so here it lives on, or is
/// still seen to be no directory.
fn removed_but_held(operation: &Operation, in_memory: &FsResult<Answer>, on_disk: &FsResult<Answer>) -> bool {
    use Operation::*;
    let by_handle = matches!(operation, Setattr(..) | Read(..) | Write(..) | Commit(..) | TryLock(..) | Unlock(..));
    *in_memory == Err(Status::Stale) && (by_handle || *on_disk == Err(Status::NotDir))
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let name = || prop::sample::select(vec![name("a"), name("b"), name("c")]);
    let index = any::<Index>;
    let mode = || prop::sample::select(vec![0o777, 0o750, 0o600, 0]);
    let open = prop::sample::select(vec![OpenMode::Read, OpenMode::ReadWrite]);
    let id = || prop::option::of(0..3_u32);
    let set = (prop::option::of(0..=0o7777_u32), id(), id()).prop_map(|(mode, uid, gid)| SetAttr {
        mode,
        uid,
        gid,
        ..SetAttr::default()
    });
    let offset = || prop::sample::select(vec![0, 3, 4095, 10_000, i64::MAX as u64 + 1, u64::MAX]);
    prop_oneof![
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
        1 => (index(), 0..3_u64).prop_map(|(f, k)| TryLock(f, k)),
        1 => (index(), 0..3_u64).prop_map(|(f, k)| Unlock(f, k)),
    ]
}

/// A local directory's content, as root sees it.
fn tree(place: &Path) -> Tree {
    let (mut tree, mut pending) = (BTreeMap::new(), vec![place.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let node = if metadata.is_dir() {
                pending.push(path.clone());
                Node::directory(metadata.mode() & 0o7777)
            } else {
                Node::file(metadata.mode() & 0o7777, std::fs::read(&path).unwrap())
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
    let (place, kernel): (_, KernelFs) = kernel::local();
    let (mut in_memory, mut on_disk) = (vec![memory.root()], vec![kernel.root()]);
    let mode = SetAttr { mode: Some(0o755), ..SetAttr::default() };
    kernel.setattr(&kernel.root(), mode).await.unwrap();
    for operation in operations {
        let local = perform(&kernel, &mut on_disk, &operation).await;
        let answer = perform(&memory, &mut in_memory, &operation).await;
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
