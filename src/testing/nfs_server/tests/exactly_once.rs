//! Every operation is carried out exactly once, whatever happens to the connection.

use super::*;
use crate::export::fs::{FsResult, LockMode, OpenMode, SetAttr, Step};
use crate::testing::memory::Tree;

/// Everything that the driver does on an export. Returns what each operation answered.
async fn work(fs: &UserFs) -> FsResult<Vec<String>> {
    let (root, mut answers) = (fs.root(), Vec::new());
    let (dir, _) = fs.mkdir(&root, &name("dir"), 0o750).await?;
    answers.push(format!("{:?}", fs.mkdir(&root, &name("dir"), 0o750).await.map(drop)));
    fs.write_file(&dir, &name("record"), 0o600, b"content".to_vec()).await?;
    answers.push(format!("{:?}", fs.write_file(&dir, &name("record"), 0o600, b"other".to_vec()).await));
    fs.rename(&dir, &name("record"), &root, &name("moved")).await?;
    answers.push(format!("{:?}", fs.read_file(&root, &name("moved"), 100).await?));
    let (staged, to) = ((dir.clone(), name("new")), (root.clone(), name("moved")));
    let steps = [
        Step::Mkdir { at: (dir.clone(), name("first")), mode: 0o700 },
        Step::Replace { staged, to, mode: 0o600, content: b"replaced".to_vec() },
        Step::Rename { from: (dir.clone(), name("first")), to: (root.clone(), name("second")) },
        Step::Remove { at: (root.clone(), name("second")) },
        Step::Mkdir { at: (root.clone(), name("moved")), mode: 0o700 },
    ];
    answers.push(format!("{:?}", fs.in_order(&steps).await));
    answers.push(format!("{:?}", fs.read_file(&root, &name("moved"), 100).await?));
    fs.setattr(&dir, SetAttr { mode: Some(0o2770), uid: Some(7), ..SetAttr::default() }).await?;
    fs.symlink(&dir, &name("link"), b"target").await?;
    fs.set_xattr(&dir, b"user.key", b"value").await?;
    answers.push(format!("{:?}", fs.get_xattr(&dir, b"user.key").await?));

    let (file, _) = fs.create(&dir, &name("locks"), 0o600).await?;
    fs.write(&file, 3, vec![b'x'; 100_000]).await?;
    fs.commit(&file).await?;
    fs.link(&file, &root, &name("linked")).await?;
    let (other, _) = fs.open(&dir, &name("locks"), OpenMode::ReadWrite).await?;
    answers.push(format!("{:?}", fs.try_lock(&file, 5, LockMode::Exclusive).await?));
    answers.push(format!("{:?}", fs.try_lock(&other, 5, LockMode::Exclusive).await?));
    fs.unlock(&file, 5).await?;
    answers.push(format!("{:?}", fs.try_lock(&other, 5, LockMode::Exclusive).await?));
    answers.push(format!("{:?}", fs.read(&other, 0, 10).await?));

    let cloned = fs.clone_entries(&root, &dir, &["moved", "second", "linked"].map(name)).await;
    answers.push(format!(
        "{:?}",
        cloned.into_iter().map(|one| Ok(one?.map(|attr| attr.size))).collect::<FsResult<Vec<_>>>()?
    ));

    fs.mkdir(&root, &name("empty"), 0o700).await?;
    let listed = fs.readdir(&root, 0).await?.entries;
    answers.push(format!("{:?}", listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>()));
    fs.rmdir(&root, &name("empty")).await?;
    answers.push(format!("{:?}", fs.rmdir(&root, &name("empty")).await));
    fs.unlink(&dir, &name("link")).await?;
    answers.push(format!("{:?}", fs.lookup(&dir, &name("link")).await.map(drop)));
    Ok(answers)
}

/// What came of the work.
#[derive(Debug, PartialEq)]
struct Outcome {
    answers: FsResult<Vec<String>>,
    tree: Tree,
    /// The changes that the server has made, in their order.
    changes: Vec<String>,
    locks: usize,
}

/// Does the work after `prepare`, which gets the number of the next request. Returns the number of requests, too.
async fn outcome(prepare: impl FnOnce(&NfsServer, u64)) -> (Outcome, u64) {
    const READS: [&str; 8] = ["getattr", "list_xattrs", "lookup", "read", "readdir", "get_xattr", "statfs", "parent"];
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let process = process();
    let fs = connected(&process, server.address, "vers=4.2").await.unwrap();
    let first = server.requests();
    prepare(&server, first);
    let answers = time::timeout(SOON, work(&fs)).await.unwrap();
    drop(fs);
    // It closes the files.
    process.ended().await;
    let words = server.fs().history().into_iter().filter_map(|words| Some(words.split(' ').next()?.to_owned()));
    let changes = words.filter(|word| !READS.contains(&word.as_str())).collect();
    (Outcome { answers, tree: export.tree(), changes, locks: export.locks() }, server.requests() - first)
}

#[tokio::test]
async fn a_connection_that_ends_at_any_request_changes_nothing() {
    let (expected, requests) = outcome(|_, _| {}).await;
    assert!(expected.answers.is_ok() && requests > 30, "{expected:?} {requests}");
    for request in 0..requests {
        for when in [Cut::Before, Cut::After] {
            let (outcome, _) = outcome(|server, first| server.cut(first + request, when)).await;
            assert_eq!(outcome, expected, "the connection ends {when:?} request {request}");
        }
    }
}

#[tokio::test]
async fn connections_that_end_all_the_time_change_nothing() {
    let (expected, requests) = outcome(|_, _| {}).await;
    let (outcome, repeated) = outcome(|server, first| {
        // Of four in a row, the third brings a remembered answer, and the fourth repeats what was not remembered.
        for request in 0..3 * requests {
            match request % 4 {
                0 => server.cut(first + request, Cut::Before),
                1 => server.cut(first + request, Cut::After),
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(outcome, expected);
    assert!(repeated > requests * 3 / 2, "{repeated}");
}
