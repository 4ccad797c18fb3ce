//! Snapshots, restores and clones of difficult trees with many entries. The tests compare the copies entry by entry on
//! the server's own file system.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use csi_nfs::e2e::{Fs as _, KernelFs, KernelHandle, Name, Status};
use csi_nfs::testing::conformance::{Compared, assert_same_tree, nasty_tree};
use rstest::rstest;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, listxattr, openat, removexattr, setxattr,
    utimensat,
};

use crate::support::client::client;
use crate::support::requests::{self, from, of_snapshot, of_volume, snapshot};
use crate::support::tree::plant_sparse;
use crate::support::{Code, Driver, Lab, Place, checked, csi};

/// The approximate number of ordinary entries of the tree. `make e2e ENTRIES=20000` increases it.
fn entries(few: usize) -> usize {
    std::env::var("CSI_NFS_E2E_ENTRIES").map_or(few, |entries| entries.parse().unwrap())
}

/// CreateVolume. Repeats the call while the copy takes longer than a call.
async fn create(driver: &Driver, request: csi::CreateVolumeRequest) {
    while let Err(status) = driver.create(request.clone()).await {
        assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
    }
}

async fn directory(fs: &KernelFs, path: &str) -> KernelHandle {
    let mut dir = fs.root();
    for name in path.split('/') {
        dir = fs.lookup(&dir, &Name::new(name).unwrap()).await.unwrap().0;
    }
    dir
}

/// Whether NFS-Ganesha mistakes a directory with this mode for a referral: the directory is sticky, and nobody may
/// search it. NFS-Ganesha returns an error for such a directory.
fn marks_a_referral(mode: u32) -> bool {
    mode & 0o1111 == 0o1000
}

/// Removes the directories that NFS-Ganesha mistakes for referrals. Returns their number.
fn remove_referrals(dir: &Path) -> usize {
    let dirs = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let marked: Vec<_> =
        dirs.filter(|dir| fs::metadata(dir).is_ok_and(|m| m.is_dir() && marks_a_referral(m.mode()))).collect();
    marked.iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
    marked.len()
}

/// Removes the extended attributes of a directory and of the file in it. Returns their number.
fn remove_xattrs(dir: &Path) -> usize {
    let mut removed = 0;
    for path in [dir.to_owned(), dir.join("file")] {
        let mut names = vec![0; 1024];
        let length = listxattr(&path, &mut names).unwrap();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
            removexattr(&path, name).unwrap();
            removed += 1;
        }
    }
    removed
}

/// Sets access times that reading does not change (`relatime` in mount(8)), so that they can be compared.
fn access_in_time_to_come(root: &Path) {
    let omitted = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let mut dirs = vec![rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()];
    let mut number = 0;
    // The walk uses descriptors, because paths are longer than PATH_MAX.
    while let Some(dir) = dirs.pop() {
        for entry in Dir::read_from(&dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            if name == c".." {
                continue;
            }
            number += 1;
            let access = Timespec { tv_sec: 2_000_000_000 + number, tv_nsec: number % 1_000_000_000 };
            let times = Timestamps { last_access: access, last_modification: omitted };
            utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            if entry.file_type() == FileType::Directory && name != c"." {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                dirs.push(openat(&dir, name, flags, Mode::empty()).unwrap());
            }
        }
    }
}

#[rstest]
#[case(Place::Xfs, 3_000)]
#[case(Place::Tmpfs, 3_000)]
#[case(Place::Ganesha, 1_000)]
#[tokio::test]
async fn a_snapshot_a_restore_and_a_clone_of_a_hard_tree_equal_it(#[case] place: Place, #[case] few: usize) {
    let entries = entries(few);
    let lab = Lab::enter_for(Duration::from_secs(240 + entries as u64 / 20)).await;
    let share = lab.share(place);
    // The directory exists before a client looks it up, because Ganesha caches that it is missing.
    fs::create_dir(share.path.join("v")).unwrap();
    rustix::process::umask(Mode::empty());
    let server = KernelFs::on_this_machine(share.path.clone()).await.unwrap();
    // All operations run on one thread, because switching threads takes longer than a call on a local file system.
    let plant = move |fs: KernelFs| async move { nasty_tree(&fs, &directory(&fs, "v").await, entries).await };
    server.in_one_go(plant).await.unwrap();
    plant_sparse(&share.path.join("v/sparse"));
    if place == Place::Ganesha {
        assert!(remove_referrals(&share.path.join("v/modes")) > 0);
        // Ganesha does not pass extended attributes to clients.
        assert!(remove_xattrs(&share.path.join("v/xattrs")) > 0);
    }
    access_in_time_to_come(&share.path.join("v"));

    let driver = Driver::start().await;
    let volume = driver.create(requests::create_with(&share, "pvc-v", "subDir", "v")).await.unwrap();
    let taken = driver.take_whole(snapshot(&volume.volume_id, "s")).await.unwrap();
    create(&driver, from(&share, "r", of_snapshot(&taken.snapshot_id))).await;
    create(&driver, from(&share, "c", of_volume(&volume.volume_id))).await;
    for copy in [".csi-nfs/snapshots/s.tree", "r", "c"] {
        let compared = Compared { atimes: place != Place::Ganesha, holes: true, link_times: place != Place::Ganesha };
        let compare = move |fs: KernelFs| async move {
            let (whole, copied) = (directory(&fs, "v").await, directory(&fs, copy).await);
            assert_same_tree(&fs, &whole, &fs, &copied, compared).await;
        };
        server.in_one_go(compare).await.unwrap();
    }
}

/// If the server returns an error for an entry, the copy fails. It does not omit the entry.
#[tokio::test]
async fn what_ganesha_hides_is_not_copied_and_what_it_takes_for_a_referral_ends_the_copy() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Ganesha);
    for mode in [0o0, 0o644, 0o1755, 0o2644] {
        fs::create_dir_all(share.path.join(format!("v/{mode:o}/inner"))).unwrap();
        fs::set_permissions(share.path.join(format!("v/{mode:o}")), Permissions::from_mode(mode)).unwrap();
    }
    setxattr(share.path.join("v"), "user.one", b"1", XattrFlags::empty()).unwrap();
    fs::create_dir_all(share.path.join("w/closed")).unwrap();
    fs::set_permissions(share.path.join("w/closed"), Permissions::from_mode(0o1644)).unwrap();
    let driver = Driver::start().await;
    let made = async |name| driver.create(requests::create_with(&share, name, "subDir", name)).await.unwrap().volume_id;
    let (v, w) = (made("v").await, made("w").await);
    let client = client(&share, "vers=4.2").await;
    let listed = client.list_xattrs(&directory(&client, "v").await).await;
    assert!(listed == Ok(Vec::new()) || listed == Err(Status::NotSupp), "{listed:?}");
    driver.create(from(&share, "c", of_volume(&v))).await.unwrap();
    let status = driver.create(from(&share, "d", of_volume(&w))).await.unwrap_err();
    assert!(status.code() == Code::Internal && status.message().contains("`closed`"), "{status}");
    assert_eq!(share.names(), ["c", "v", "w"]);
    checked::at_rest(&share).await;
}
