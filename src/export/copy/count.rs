//! Counts what is in a tree while it is copied, so that somebody who waits learns of how much the copy is.
//!
//! It is one operation at a time beside [`Options::in_flight`](super::Options::in_flight), reads names only, and fails
//! nothing: without a count, the copy tells what it has done.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::export::fs::{Cookie, Fs, FsResult, Kind, Name, Status};
use crate::export::progress::Progress;

/// A copy that is done sooner is not counted.
const AFTER: Duration = Duration::from_secs(2);
/// After this long, the count is given up if the copy is further than it.
const HEAD_START: Duration = Duration::from_secs(30);
/// A tree that is deeper is not counted: each level costs a descriptor, and the names of a page.
const LEVELS: usize = 64;

/// A directory that is being counted.
struct Level<F: Fs> {
    dir: F::Handle,
    /// Where the listing continues; `None` at its end.
    next: Option<Cookie>,
    /// The entries of the last page that may be directories.
    below: Vec<Name>,
}

impl<F: Fs> Level<F> {
    fn new(dir: F::Handle) -> Self {
        Self { dir, next: Some(0), below: Vec::new() }
    }
}

/// Counts the tree below `root`, and tells `progress`. It does not end: the caller ends it with the copy.
pub(super) async fn ahead<F: Fs>(fs: &F, root: &F::Handle, progress: &Progress) -> std::convert::Infallible {
    sleep(AFTER).await;
    let begun = Instant::now();
    let is_ahead = |counted: u64| begun.elapsed() < HEAD_START || counted > progress.totals().entries;
    match count(fs, root, is_ahead).await {
        Ok(Some(entries)) => progress.expect(entries),
        Ok(None) => tracing::debug!("the tree is not counted: it is too deep, or copying it is faster"),
        Err(error) => tracing::debug!(%error, "the tree is not counted"),
    }
    std::future::pending().await
}

/// The number of entries in a tree, its root included; `None` if it is too deep, or as soon as `is_ahead` says that the
/// number is of no use.
async fn count<F: Fs>(fs: &F, root: &F::Handle, is_ahead: impl Fn(u64) -> bool) -> FsResult<Option<u64>> {
    let mut counted = 1;
    let mut levels: Vec<Level<F>> = vec![Level::new(root.clone())];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.below.pop() {
            match fs.lookup(&level.dir, &name).await {
                Ok((_, attr)) if attr.kind != Kind::Directory => {}
                Ok(_) if levels.len() >= LEVELS => return Ok(None),
                Ok((dir, _)) => levels.push(Level::new(dir)),
                Err(Status::NoEnt | Status::Stale) => {}
                Err(status) => return Err(status),
            }
            continue;
        }
        let Some(from) = level.next else {
            levels.pop();
            continue;
        };
        match fs.readdir(&level.dir, from).await {
            Ok(page) => {
                counted += page.entries.len() as u64;
                level.next = page.next;
                let may_be_dir =
                    page.entries.into_iter().filter(|entry| matches!(entry.kind, None | Some(Kind::Directory)));
                level.below = may_be_dir.map(|entry| entry.name).collect();
            }
            // It was removed meanwhile.
            Err(Status::Stale) => level.next = None,
            Err(status) => return Err(status),
        }
        if !is_ahead(counted) {
            return Ok(None);
        }
    }
    Ok(Some(counted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::{MemoryServer, Node};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[tokio::test]
    async fn every_entry_of_a_tree_counts_once_and_so_does_its_root() {
        let server = MemoryServer::new();
        let fs = server.client();
        let dir = fs.mkdir(&fs.root(), &name("tree"), 0o755).await.unwrap().0;
        assert_eq!(count(&fs, &dir, |_| true).await, Ok(Some(1)));
        for path in ["tree/a", "tree/a/b", "tree/a/c"] {
            server.plant(path, Node::directory(0o755)).unwrap();
        }
        for number in 0..100 {
            server.plant(format!("tree/a/b/{number}"), Node::file(0o600, "")).unwrap();
        }
        let (b, _) = fs.lookup(&fs.lookup(&dir, &name("a")).await.unwrap().0, &name("b")).await.unwrap();
        fs.link(&fs.lookup(&b, &name("1")).await.unwrap().0, &dir, &name("linked")).await.unwrap();
        fs.symlink(&dir, &name("link"), b"a").await.unwrap();
        let counted = count(&fs, &dir, |_| true).await.unwrap().unwrap();
        assert_eq!(counted, 106);
        let to = fs.mkdir(&fs.root(), &name("copy"), 0o755).await.unwrap().0;
        let (progress, cancel) = (Progress::default(), tokio_util::sync::CancellationToken::new());
        let how = super::super::Options::default();
        let copied = super::super::copy_tree(&fs, &dir, &fs, &to, &how, &progress, &cancel).await.unwrap();
        assert_eq!((counted, copied.vanished), (copied.entries, 0));
        assert_eq!(progress.figures().expected, Some(counted), "what is copied is known at the end");
    }

    #[tokio::test]
    async fn a_count_that_the_copy_has_overtaken_and_one_of_a_very_deep_tree_end() {
        let server = MemoryServer::new();
        let fs = server.client();
        server.plant("file", Node::file(0o600, "")).unwrap();
        assert_eq!(count(&fs, &fs.root(), |counted| counted > 2).await, Ok(None));
        assert_eq!(count(&fs, &fs.root(), |counted| counted > 1).await, Ok(Some(2)));
        for (levels, expected) in [(LEVELS - 1, Some(LEVELS as u64)), (LEVELS, None)] {
            let fs = MemoryServer::new().client();
            let mut dir = fs.root();
            for _ in 0..levels {
                dir = fs.mkdir(&dir, &name("d"), 0o755).await.unwrap().0;
            }
            assert_eq!(count(&fs, &fs.root(), |_| true).await, Ok(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_takes_long_learns_of_how_many_entries_it_is_while_it_runs() {
        let server = MemoryServer::new();
        let fs = server.client();
        let from = fs.mkdir(&fs.root(), &name("from"), 0o755).await.unwrap().0;
        for number in 0..50 {
            server.plant(format!("from/{number}"), Node::file(0o600, "content")).unwrap();
        }
        let to = fs.mkdir(&fs.root(), &name("to"), 0o755).await.unwrap().0;
        fs.delay(Duration::from_secs(1));
        let (progress, cancel) = (Progress::default(), tokio_util::sync::CancellationToken::new());
        let how = super::super::Options { in_flight: 2 };
        let copy = super::super::copy_tree(&fs, &from, &fs, &to, &how, &progress, &cancel);
        let known = async {
            while progress.figures().expected.is_none() {
                sleep(Duration::from_millis(100)).await;
            }
            progress.figures()
        };
        let figures = tokio::select! { done = copy => panic!("{done:?} before the count"), figures = known => figures };
        assert_eq!(figures.expected, Some(51));
        assert!(figures.done.entries < 51);
    }
}
