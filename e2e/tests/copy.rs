//! The copy engine on real servers. The tests copy difficult trees and compare them entry by entry.

use std::fs;
use std::path::Path;

use csi_nfs::e2e::{Fs as _, KernelFs, KernelHandle, Name, Options, Progress, Totals, copy_tree};
use csi_nfs::testing::conformance::{Compared, assert_same_tree, nasty_tree};
use rstest::rstest;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use tokio_util::sync::CancellationToken;

use crate::support::client::client;
use crate::support::tree::plant_sparse;
use crate::support::{Lab, Place};

/// The approximate number of entries of the tree.
const ENTRIES: usize = 1_000;

/// Creates a directory with this name in the root.
async fn directory(fs: &KernelFs, name: &str) -> KernelHandle {
    fs.mkdir(&fs.root(), &Name::new(name).unwrap(), 0o700).await.unwrap().0
}

async fn copy(source: &KernelFs, from: &KernelHandle, target: &KernelFs, to: &KernelHandle) -> Totals {
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    copy_tree(source, from, target, to, &Options::default(), &progress, &cancel).await.unwrap()
}

/// Copying reads the source, and the server may update its access times.
const COMPARED: Compared = Compared { atimes: false, holes: true, link_times: true };

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
    // Without SEEK, the comparison would have to read the whole file.
    if version == "vers=4.2" {
        plant_sparse(&share.path.join("from/sparse"));
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
    plant_sparse(&source.path.join("from/sparse"));
    copy(&here, &from, &there, &to).await;
    assert_same_tree(&here, &from, &there, &to, COMPARED).await;
}

/// A POSIX access control list in Linux's format. Each entry has a tag, permissions, and a user or group ID.
fn posix_acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes().into_iter().chain(permissions.to_le_bytes()).chain(id.to_le_bytes()));
    }
    list
}

fn acl(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = getxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// Over version 4, the mount presents NFSv4 ACLs, which the server translates in both directions.
#[rstest]
#[case("vers=4.2")]
#[case("vers=4.1")]
#[case("vers=3")]
#[tokio::test]
async fn access_control_lists_are_copied(#[case] version: &str) {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let fs = client(&share, version).await;
    let (from, to) = (directory(&fs, "from").await, directory(&fs, "to").await);
    // The entries are for the owner, user 1234, the group, group 99, the mask, and others (acl(5)).
    let nobody = u32::MAX;
    let entries = [(1, 6, nobody), (2, 6, 1234), (4, 4, nobody), (8, 4, 99), (16, 6, nobody), (32, 0, nobody)];
    let list = posix_acl(&entries);
    fs::create_dir(share.path.join("from/dir")).unwrap();
    for path in ["from/file", "from/dir/file", "from/plain"] {
        fs::write(share.path.join(path), "content").unwrap();
    }
    let set = |path: &str, name: &str| setxattr(share.path.join(path), name, &list, XattrFlags::empty()).unwrap();
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    for (path, name) in [("from/file", ACCESS), ("from/dir", ACCESS), ("from/dir", DEFAULT), ("from/dir/file", ACCESS)]
    {
        set(path, name);
    }
    copy(&fs, &from, &fs, &to).await;
    for path in ["file", "dir", "dir/file", "plain"] {
        for name in [ACCESS, DEFAULT] {
            let [source, copied] = ["from", "to"].map(|tree| acl(&share.path.join(tree).join(path), name));
            assert_eq!(copied, source, "{name} of {path}");
        }
    }
    assert_eq!(acl(&share.path.join("to/dir"), DEFAULT).as_deref(), Some(&*list));
    assert_eq!(acl(&share.path.join("to/plain"), ACCESS), None);
}

#[rstest]
#[case("vers=4.2")]
#[case("vers=4.1")]
#[case("vers=3")]
#[tokio::test]
async fn a_copy_inherits_nothing_from_a_default_list_of_the_export(#[case] version: &str) {
    const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let fs = client(&share, version).await;
    let from = directory(&fs, "from").await;
    let nobody = u32::MAX;
    let list = posix_acl(&[(1, 7, nobody), (2, 7, 1234), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody)]);
    let own = posix_acl(&[(1, 7, nobody), (2, 5, 99), (4, 5, nobody), (16, 5, nobody), (32, 0, nobody)]);
    for dir in ["from/dir", "from/dir/below", "from/own"] {
        fs::create_dir(share.path.join(dir)).unwrap();
    }
    for path in ["from/file", "from/dir/file", "from/dir/below/file", "from/own/file"] {
        fs::write(share.path.join(path), "content").unwrap();
    }
    for name in LISTS {
        setxattr(share.path.join("from/own"), name, &own, XattrFlags::empty()).unwrap();
    }
    setxattr(&share.path, LISTS[1], &list, XattrFlags::empty()).unwrap();
    let to = directory(&fs, "to").await;
    assert!(LISTS.iter().all(|name| acl(&share.path.join("to"), name).is_some()), "the test is one of inheritance");
    copy(&fs, &from, &fs, &to).await;
    for path in ["", "file", "dir", "dir/file", "dir/below", "dir/below/file", "own", "own/file"] {
        // Linux' server does not remove a default list over version 4; files have none.
        let lists = if version == "vers=3" { &LISTS[..] } else { &LISTS[..1] };
        for name in lists {
            let [source, copied] = ["from", "to"].map(|tree| acl(&share.path.join(tree).join(path), name));
            assert_eq!(copied, source, "{name} of {path}");
        }
        let mode = |tree: &str| fs::metadata(share.path.join(tree).join(path)).unwrap().permissions();
        assert_eq!(mode("to"), mode("from"), "{path}");
    }
}
