//! Copies that a server refuses, because the export is full or because the server squashes root.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::Duration;

use rstest::rstest;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::support::requests::{self, from, of_snapshot, of_volume, snapshot};
use crate::support::{Code, Driver, Lab, Place, Share, Tree, checked, csi, wait};

/// The space that is left free on a nearly full export.
const LEFT: u64 = 2 << 20;

/// Uses nearly all free space.
fn fill(share: &Share) {
    let ballast = File::create(share.path.join("ballast")).unwrap();
    // Data that is not written yet reserves more space than it needs.
    rustix::fs::syncfs(&ballast).unwrap();
    let free = || statvfs(&share.path).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    let mut size = 0;
    while let more = free().saturating_sub(LEFT)
        && more >= 64 << 10
    {
        fallocate(&ballast, FallocateFlags::empty(), size, more).unwrap();
        size += more;
    }
    ballast.sync_all().unwrap();
}

/// XFS clones the content, and is full when it has no space for inodes. tmpfs cannot clone.
#[rstest]
#[case(Place::SmallXfs)]
#[case(Place::Small)]
#[tokio::test]
async fn an_export_that_is_full_in_the_middle_of_a_copy_keeps_nothing_of_it(#[case] place: Place) {
    // No other test may run, because it would find the export full.
    let lab = Lab::alone().await;
    let share = lab.share(place);
    let driver = Driver::start().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    let other = driver.create(requests::create(&share, "other")).await.unwrap();
    let files = if place == Place::Small { 400 } else { 8000 };
    for n in 0..files {
        fs::write(share.path.join(format!("v/{n}")), vec![b'x'; 12 << 10]).unwrap();
    }
    fs::write(share.path.join("other/file"), "theirs").unwrap();
    fill(&share);
    let before = [Tree::of(&share.path.join("v")), Tree::of(&share.path.join("other"))];
    let staging = share.path.join(".csi-nfs/staging");
    let begun = wait::until_async("a copy in staging", Duration::from_secs(60), async || {
        fs::read_dir(&staging).is_ok_and(|mut entries| entries.next().is_some())
    });
    let clone = driver.create(from(&share, "c", of_volume(&v.volume_id)));
    let (refused, ()) = futures_util::future::join(clone, begun).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let taken = driver.take_whole(snapshot(&v.volume_id, "s")).await.unwrap_err();
    assert_eq!(taken.code(), Code::ResourceExhausted, "{taken}");
    checked::at_rest(&share).await;
    assert_eq!(share.left_in("snapshots"), Vec::<String>::new());
    assert_eq!(share.names(), ["ballast", "other", "v"]);
    for tree in before {
        tree.assert_unchanged("a copy to a full export");
    }
    driver.publish(&other, &driver.target("pod")).await.unwrap();
    assert_eq!(fs::read(driver.target("pod").join("file")).unwrap(), b"theirs");

    // With enough space, the copy succeeds.
    fs::remove_file(share.path.join("ballast")).unwrap();
    for n in 100..files {
        fs::remove_file(share.path.join(format!("v/{n}"))).unwrap();
    }
    driver.create(from(&share, "c", of_volume(&v.volume_id))).await.unwrap();
    assert_eq!(fs::read_dir(share.path.join("c")).unwrap().count(), 100);
    fs::remove_dir_all(&share.path).unwrap();
}

fn assert_denied(status: &tonic::Status, share: &Share) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    for part in [share.share.as_str(), "no_root_squash", "/etc/exports"] {
        assert!(status.message().contains(part), "{part} is not in: {status}");
    }
}

#[tokio::test]
async fn where_root_is_squashed_what_nobody_may_do_works_and_the_rest_says_what_would_help() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Squashed);
    let driver = Driver::start().await;
    let v = driver.create(requests::create_with(&share, "v", "mountPermissions", "0770")).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&v, &target).await.unwrap();
    // The server squashes the root of a pod, too.
    fs::create_dir(target.join("sub")).unwrap();
    fs::write(target.join("sub/file"), "content").unwrap();
    fs::hard_link(target.join("sub/file"), target.join("linked")).unwrap();
    fs::set_permissions(target.join("sub/file"), Permissions::from_mode(0o640)).unwrap();
    let s = driver.take_whole(snapshot(&v.volume_id, "s")).await.unwrap();
    driver.create(from(&share, "r", of_snapshot(&s.snapshot_id))).await.unwrap();
    let c = driver.create(from(&share, "c", of_volume(&v.volume_id))).await.unwrap();
    for copy in ["r", "c"] {
        let copy = share.path.join(copy);
        assert_eq!(fs::read(copy.join("linked")).unwrap(), b"content");
        assert_eq!(fs::metadata(copy.join("sub/file")).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o770);
    }
    driver.delete(&c.volume_id).await.unwrap();
    driver.drop_snapshot(&s.snapshot_id).await.unwrap();

    // The driver cannot change the owner of a volume or of a file in a copy, and cannot copy files that only another
    // user may read.
    let owned = driver.create(requests::create_with(&share, "o", "uid", "1000")).await.unwrap_err();
    assert_denied(&owned, &share);
    for mode in [0o644, 0o600] {
        let file = share.path.join("v/theirs");
        fs::write(&file, "theirs").unwrap();
        chown(&file, Some(1000), Some(1000)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let cloned = driver.create(from(&share, "d", of_volume(&v.volume_id))).await.unwrap_err();
        assert_denied(&cloned, &share);
        assert!(cloned.message().contains("`theirs`"), "{cloned}");
        let taken = driver.take_whole(snapshot(&v.volume_id, "t")).await.unwrap_err();
        assert_denied(&taken, &share);
    }
    checked::at_rest(&share).await;
    assert_eq!(share.left_in("snapshots"), Vec::<String>::new());
    assert_eq!(share.names(), ["r", "v"]);
    let listed = driver.controller().list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().entries, []);
}
