//! Tenants that write while their tree is copied.

use std::future::Future;
use std::pin::Pin;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::export::fs::{Kind, OpenMode, SetAttr};
use crate::testing::memory::{MemoryFs, MemoryServer, Node, race};

/// Files that the tenant changes, and bytes in each.
const FILES: usize = 6;
const BYTES: usize = 10_000;

/// What a tenant does to a file.
#[derive(Debug, Clone, Copy)]
enum Act {
    Remove,
    Grow,
    Shrink,
    /// Another file replaces the file in one step.
    Replace,
    /// A symbolic link to a file outside the tenant's tree replaces the file.
    Symlink,
    Fifo,
    /// The file is moved to another directory.
    Move,
    Directory,
}

fn act() -> impl Strategy<Value = (Act, usize)> {
    let act = prop_oneof![
        Just(Act::Remove),
        Just(Act::Grow),
        Just(Act::Shrink),
        Just(Act::Replace),
        Just(Act::Symlink),
        Just(Act::Fifo),
        Just(Act::Move),
        Just(Act::Directory),
    ];
    (act, 0..FILES)
}

/// The content of a file. Each byte shows which version of the file it is from.
fn content(mark: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| mark | (at % 63) as u8).collect()
}

const FIRST: u8 = 0x40;
const SECOND: u8 = 0x80;

/// Does to a file what the tenant does. Fails if another act prevents it.
async fn perform(fs: &MemoryFs, dir: &crate::testing::memory::MemoryHandle, act: Act, number: usize) -> FsResult<()> {
    let (file, new) = (name(format!("f{number}")), name("new"));
    match act {
        Act::Remove => fs.unlink(dir, &file).await,
        Act::Grow => {
            let (open, attr) = fs.open(dir, &file, OpenMode::ReadWrite).await?;
            let mark = fs.read(&open, 0, 1).await?.first().copied().unwrap_or(FIRST) & !63;
            let all = content(mark, attr.size as usize + 3000);
            fs.write(&open, attr.size, all[attr.size as usize..].to_vec()).await
        }
        Act::Shrink => {
            let (open, attr) = fs.open(dir, &file, OpenMode::ReadWrite).await?;
            fs.setattr(&open, SetAttr { size: Some(attr.size / 2), ..SetAttr::default() }).await
        }
        Act::Replace => {
            fs.write_file(dir, &new, 0o600, content(SECOND, BYTES)).await?;
            fs.rename(dir, &new, dir, &file).await
        }
        Act::Symlink => {
            fs.symlink(dir, &new, b"../../secret").await?;
            fs.rename(dir, &new, dir, &file).await
        }
        Act::Fifo => {
            fs.mknod(dir, &new, Kind::Fifo, 0o600, (0, 0)).await?;
            fs.rename(dir, &new, dir, &file).await
        }
        Act::Move => {
            let (other, _) = fs.mkdir(dir, &name("other"), 0o700).await?;
            fs.rename(dir, &file, &other, &file).await
        }
        Act::Directory => {
            fs.unlink(dir, &file).await?;
            fs.mkdir(dir, &file, 0o700).await.map(drop)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn only_what_changes_meanwhile_may_differ(
        acts in vec(act(), 1..12),
        seed in any::<u64>(),
        in_flight in 1..4usize,
        (clone, copies) in any::<(bool, bool)>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let server = MemoryServer::new();
            server.set_clone_supported(clone);
            server.set_copy_supported(copies);
            server.plant("secret", Node::file(0o600, "secret")).unwrap();
            server.plant("to", Node::directory(0o700)).unwrap();
            for number in 0..FILES {
                server.plant(format!("from/a/f{number}"), Node::file(0o600, content(FIRST, BYTES))).unwrap();
                server.plant(format!("from/still/f{number}"), Node::file(0o640, content(FIRST, 10))).unwrap();
            }
            let (fs, tenant) = (server.client(), server.client());
            let look = async |text| fs.lookup(&fs.root(), &name(text)).await.unwrap().0;
            let (from, to) = (look("from").await, look("to").await);
            let (dir, _) = tenant.lookup(&from, &name("a")).await.unwrap();
            fs.interleave(true);
            tenant.interleave(true);
            let copy = async {
                let (how, cancel) = (Options { in_flight }, CancellationToken::new());
                Some(copy_tree(&fs, &from, &fs, &to, &how, &Progress::default(), &cancel).await)
            };
            let write = async {
                for (act, number) in &acts {
                    let _ = perform(&tenant, &dir, *act, *number).await;
                }
                None
            };
            type Racer<'a> = Pin<Box<dyn Future<Output = Option<Result<Totals, CopyError>>> + Send + 'a>>;
            let racers: Vec<Racer<'_>> = vec![Box::pin(copy), Box::pin(write)];
            let result = race(seed, racers).await.swap_remove(0).unwrap();
            judge(&server, result, &acts);
        });
    }
}

fn judge(server: &MemoryServer, result: Result<Totals, CopyError>, acts: &[(Act, usize)]) {
    if let Err(error) = result {
        let CopyError::Failed { path, status, .. } = &error else { panic!("{error}") };
        let directory = acts.iter().any(|(act, _)| matches!(act, Act::Directory));
        assert!(path.starts_with("a/f"), "{error}");
        assert!(directory && *status == Status::IsDir || *status == Status::Stale, "{error}");
        return;
    }
    let (source, copied) = (server.tree().below("from"), server.tree().below("to"));
    assert_eq!(source.below("still"), copied.below("still"));
    for number in (0..FILES).filter(|number| acts.iter().all(|(_, changed)| changed != number)) {
        let path = format!("a/f{number}");
        assert_eq!(source.get(&path), copied.get(&path), "{path} was never touched");
    }
    for (path, node) in &copied.below("a").0 {
        let path = path.escape_ascii();
        match node.kind {
            Kind::File => {
                let mark = node.content.first().copied().unwrap_or(FIRST) & !63;
                assert!(mark == FIRST || mark == SECOND, "{path} is from elsewhere");
                assert!(node.content == content(mark, node.content.len()), "{path} is mixed up");
            }
            Kind::Symlink => assert_eq!(node.content, b"../../secret", "{path}"),
            Kind::Fifo | Kind::Directory => {}
            kind => panic!("{path} is a {kind:?}"),
        }
    }
}

#[tokio::test]
async fn a_tree_that_is_put_into_the_trash_meanwhile_is_copied_whole_or_not_at_all() {
    let (mut whole, mut ended) = (0, 0);
    for seed in 0..200 {
        let server = MemoryServer::new();
        for directory in ["to", "trash"] {
            server.plant(directory, Node::directory(0o700)).unwrap();
        }
        for number in 0..4 {
            server.plant(format!("from/f{number}"), Node::file(0o600, "content")).unwrap();
        }
        let before = server.tree().below("from");
        let (fs, other) = (server.client(), server.client());
        let look = async |text| fs.lookup(&fs.root(), &name(text)).await.unwrap().0;
        let (from, to, trash) = (look("from").await, look("to").await, look("trash").await);
        fs.interleave(true);
        other.interleave(true);
        let copy = async { copy(&fs, &from, &fs, &to).await.is_ok() };
        let delete = async {
            // Wait until the copy has looked up the parent of its tree.
            while !fs.history().iter().any(|operation| operation.starts_with("parent")) {
                tokio::task::yield_now().await;
            }
            other.rename(&other.root(), &name("from"), &trash, &name("from")).await.unwrap();
            for number in 0..4 {
                other.unlink(&from, &name(format!("f{number}"))).await.unwrap();
            }
            true
        };
        let racers: Vec<Pin<Box<dyn Future<Output = bool> + Send>>> = vec![Box::pin(copy), Box::pin(delete)];
        if race(seed, racers).await[0] {
            assert_eq!(server.tree().below("to"), before, "seed {seed}");
            whole += 1;
        } else {
            ended += 1;
        }
    }
    assert!(whole > 0 && ended > 0, "{whole} {ended}");
}
