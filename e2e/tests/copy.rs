//! The copy engine on real servers: trees with everything in them, compared entry by entry.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use csi_nfs::export::conformance::{Compared, assert_same_tree, nasty_tree};
use csi_nfs::export::copy::{Options, Progress, Totals, copy_tree};
use csi_nfs::export::fs::{Fs as _, Name};
use csi_nfs::export::kernel::{KernelFs, KernelHandle};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::support::client::client;
use crate::support::{Lab, Place, Share};

/// Entries of the tree, about.
const ENTRIES: usize = 1_000;

/// A directory of that name below the root.
async fn directory(fs: &KernelFs, name: &str) -> KernelHandle {
    fs.mkdir(&fs.root(), &Name::new(name).unwrap(), 0o700).await.unwrap().0
}

async fn copy(source: &KernelFs, from: &KernelHandle, target: &KernelFs, to: &KernelHandle) -> Totals {
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    copy_tree(source, from, target, to, &Options::default(), &progress, &cancel).await.unwrap()
}

/// 2 GiB with a little data at both ends and in the middle.
fn plant_sparse(share: &Share, path: &str) {
    let file = File::create(share.path.join(path)).unwrap();
    file.set_len(2 << 30).unwrap();
    for offset in [0, 1 << 30, (2 << 30) - 70_000] {
        file.write_all_at(&[b'x'; 70_000], offset).unwrap();
    }
    file.sync_all().unwrap();
}

/// Copying reads, and a server may note that.
const COMPARED: Compared = Compared { atimes: false, holes: true };

#[rstest]
#[case(Place::Xfs, "vers=4.2", ENTRIES)]
#[case(Place::Tmpfs, "vers=4.2", ENTRIES / 2)]
#[case(Place::Xfs, "vers=4.1", ENTRIES / 5)]
#[case(Place::Xfs, "vers=3", ENTRIES / 5)]
#[tokio::test]
async fn a_copy_is_the_same(#[case] place: Place, #[case] version: &str, #[case] entries: usize) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    let fs = client(&share, version).await;
    let (from, to) = (directory(&fs, "from").await, directory(&fs, "to").await);
    nasty_tree(&fs, &from, entries).await;
    // Where holes cannot be asked for, all of it would have to be read.
    if version == "vers=4.2" {
        plant_sparse(&share, "from/sparse");
    }
    let totals = copy(&fs, &from, &fs, &to).await;
    assert!(totals.entries > entries as u64, "{totals:?}");
    assert_eq!(totals.vanished, 0);
    let holes = version == "vers=4.2";
    assert_same_tree(&fs, &from, &fs, &to, Compared { holes, ..COMPARED }).await;
}

#[tokio::test]
async fn a_copy_on_another_export_is_the_same() {
    let lab = Lab::enter().await;
    let (source, target) = (lab.share(Place::Tmpfs), lab.share(Place::Xfs));
    let (here, there) = (client(&source, "vers=4.2").await, client(&target, "vers=4.2").await);
    let (from, to) = (directory(&here, "from").await, directory(&there, "to").await);
    nasty_tree(&here, &from, ENTRIES / 5).await;
    plant_sparse(&source, "from/sparse");
    copy(&here, &from, &there, &to).await;
    assert_same_tree(&here, &from, &there, &to, COMPARED).await;
}
