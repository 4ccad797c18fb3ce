//! Trees with everything in them.

use super::*;
use crate::testing::conformance::nasty_tree;
use crate::testing::local_directory;
use crate::testing::memory::MemoryServer;

#[tokio::test]
async fn a_nasty_tree_in_memory() {
    for (clone, copies, seek) in [(true, true, true), (false, true, true), (false, false, true), (false, false, false)]
    {
        let server = MemoryServer::new();
        server.set_copy_supported(copies);
        server.set_clone_supported(clone);
        server.set_seek_supported(seek);
        let fs = server.client();
        let (from, to) = two(&fs).await;
        nasty_tree(&fs, &from, 500).await;
        let totals = copy(&fs, &from, &fs, &to).await.unwrap();
        assert_same_tree(&fs, &from, &fs, &to, EXACT).await;
        assert_eq!(totals.vanished, 0);
    }
}

#[tokio::test]
async fn a_nasty_tree_on_a_local_directory() {
    let (_place, fs) = local_directory::local();
    let (from, to) = two(&fs).await;
    nasty_tree(&fs, &from, 2000).await;
    copy(&fs, &from, &fs, &to).await.unwrap();
    assert_same_tree(&fs, &from, &fs, &to, Compared { atimes: false, ..EXACT }).await;
}
