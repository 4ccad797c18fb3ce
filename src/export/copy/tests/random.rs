//! Random trees, copied in every way.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::export::fs::{Kind, SetAttr, Time};
use crate::testing::memory::MemoryServer;

/// How to make an object. A number selects one of the objects that exist already.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) what: What,
    parent: usize,
    name: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
}

/// What an object is.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Directory,
    /// The offsets and lengths of the data, and the size of the file.
    File(Vec<(u64, usize)>, u64),
    Symlink(Vec<u8>),
    Special(Kind),
    /// Another name of an object.
    Link(usize),
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => Just(What::Directory),
        4 => (vec((0..120_000u64, 0..20_000usize), 0..4), 0..150_000u64)
            .prop_map(|(data, size)| What::File(data, size)),
        1 => vec(1..=255u8, 1..30).prop_map(What::Symlink),
        1 => prop_oneof![Just(Kind::Fifo), Just(Kind::Socket), Just(Kind::CharDevice)].prop_map(What::Special),
        2 => any::<usize>().prop_map(What::Link),
    ]
}

pub(crate) fn object() -> impl Strategy<Value = Object> {
    let owner = (prop_oneof![Just(0), 0..5000u32], prop_oneof![Just(0), 0..5000u32]);
    let mtime = (-1_000_000_000..4_000_000_000i64, 0..1_000_000_000u32);
    (what(), any::<usize>(), vec(any::<u8>(), 1..6), 0..=0o7777u32, owner, mtime)
        .prop_map(|(what, parent, name, mode, owner, mtime)| Object { what, parent, name, mode, owner, mtime })
}

/// Makes the objects. Leaves out those whose names are invalid or taken.
pub(crate) async fn build<F: Fs>(fs: &F, root: &F::Handle, objects: &[Object]) {
    let (mut dirs, mut others, mut made) = (vec![root.clone()], Vec::new(), Vec::new());
    for Object { what, parent, name, mode, owner, mtime } in objects {
        let Ok(name) = Name::new(name) else { continue };
        let dir = dirs[parent % dirs.len()].clone();
        let created = match what {
            What::Directory => fs.mkdir(&dir, &name, 0o700).await,
            What::File(data, size) => {
                let created = fs.create(&dir, &name, 0o600).await;
                if let Ok((file, _)) = &created {
                    for (offset, length) in data {
                        fs.write(file, *offset, vec![(offset % 255 + 1) as u8; *length]).await.unwrap();
                    }
                    fs.setattr(file, SetAttr { size: Some(*size), ..SetAttr::default() }).await.unwrap();
                    fs.commit(file).await.unwrap();
                }
                created
            }
            What::Symlink(target) => fs.symlink(&dir, &name, target).await,
            What::Special(kind) => fs.mknod(&dir, &name, *kind, 0o600, (1, 3)).await,
            What::Link(number) => {
                if let Some(object) = others.get(number % others.len().max(1)) {
                    let _ = fs.link(object, &dir, &name).await;
                }
                continue;
            }
        };
        let Ok((object, attr)) = created else { continue };
        if attr.kind == Kind::Directory {
            dirs.push(object.clone())
        } else {
            others.push(object.clone())
        }
        let time = Some(Time { seconds: mtime.0, nanoseconds: mtime.1 });
        let mode = (attr.kind != Kind::Symlink).then_some(*mode);
        made.push((
            object,
            SetAttr { size: None, mode, uid: Some(owner.0), gid: Some(owner.1), atime: time, mtime: time },
        ));
    }
    for (object, set) in made {
        fs.setattr(&object, set).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_tree_is_copied_exactly(
        objects in vec(object(), 0..60),
        in_flight in 1..20usize,
        (clone, copies, seek, across) in any::<(bool, bool, bool, bool)>(),
        links in prop_oneof![Just(2u64), Just(3), Just(u64::MAX)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (server, other) = (MemoryServer::new(), MemoryServer::new());
            for server in [&server, &other] {
                server.set_clone_supported(clone);
                server.set_copy_supported(copies);
                server.set_seek_supported(seek);
                server.set_most_links(links);
            }
            let fs = server.client();
            let (from, to) = two(&fs).await;
            build(&fs, &from, &objects).await;
            let elsewhere = other.client();
            let (target, to) = if across { (&elsewhere, elsewhere.root()) } else { (&fs, to) };
            let (how, cancel) = (Options { in_flight }, CancellationToken::new());
            let totals = copy_tree(&fs, &from, target, &to, &how, &Progress::default(), &cancel).await.unwrap();
            assert_same_tree(&fs, &from, target, &to, EXACT).await;
            let whole = server.tree().below("from").0.len() as u64 + 1;
            assert_eq!((totals.entries, totals.vanished), (whole, 0));
        });
    }
}
