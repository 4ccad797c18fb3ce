//! How much space the trash takes, at least. Nobody counts it on the way in, and a look has no time for millions of
//! files, so it reads a bounded part of what is there.

use crate::export::Export;
use crate::export::fs::{Attr, Entry, Fs, Kind, Name, Status};

/// How many operations a look spends on it.
const OPERATIONS: usize = 1000;
/// How deep a look goes: each level keeps a directory open.
const LEVELS: usize = 32;

/// The bytes allocated for the files in the trash that a look of bounded length finds. `entries` are those of `trash`.
/// What cannot be read is left out: it may be cleared meanwhile.
pub(super) async fn allocated<F: Fs>(export: &Export<F>, trash: &F::Handle, entries: &[Entry]) -> u64 {
    let fs = export.fs();
    let mut bytes = 0;
    let mut path: Vec<(F::Handle, Vec<Name>)> =
        vec![(trash.clone(), entries.iter().map(|entry| entry.name.clone()).collect())];
    let mut left = OPERATIONS;
    while let Some((dir, names)) = path.last_mut() {
        let Some(name) = names.pop() else {
            path.pop();
            continue;
        };
        let found = fs.lookup(dir, &name).await;
        left = left.saturating_sub(1);
        match found {
            Ok((child, Attr { kind: Kind::Directory, .. })) if path.len() < LEVELS => {
                let page = fs.readdir(&child, 0).await.map(|page| page.entries).unwrap_or_default();
                left = left.saturating_sub(1);
                path.push((child, page.into_iter().map(|entry| entry.name).collect()));
            }
            Ok((_, attr)) => bytes += attr.used,
            Err(Status::NoEnt | Status::Stale) => {}
            // A server that refuses this refuses the rest.
            Err(_) => return bytes,
        }
        if left == 0 {
            return bytes;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::{MemoryServer, Node};

    #[tokio::test]
    async fn the_files_of_the_trash_are_added_up_at_a_bounded_cost() {
        let server = MemoryServer::new();
        let export = reach(&server);
        let layout = export.make_layout().await.unwrap();
        let size = async || {
            let entries = export.entries(&layout.trash).await.unwrap();
            allocated(&export, &layout.trash, &entries).await
        };
        assert_eq!(size().await, 0);
        let content = "x".repeat(5000);
        for path in [".csi-nfs/trash/file", ".csi-nfs/trash/tree/sub/file"] {
            server.plant(path, Node::file(0o600, &content)).unwrap();
        }
        let two = size().await;
        assert!(two >= 10_000, "{two}");
        (0..3000).for_each(|n| server.plant(format!(".csi-nfs/trash/tree/{n}"), Node::file(0o600, &content)).unwrap());
        let before = export.fs().operations();
        let many = size().await;
        assert!(many > two);
        assert!(export.fs().operations() - before < 2 * OPERATIONS as u64);
    }
}
