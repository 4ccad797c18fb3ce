//! Deletion of volumes. The driver moves the directory to the trash, keeps it or archives it. Directories are also
//! hostile, shared, nested or missing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tonic::Status;

use crate::support::requests;
use crate::support::{Code, Driver, Lab, Place, Share, Tree, checked, csi};

async fn make(driver: &Driver, share: &Share, name: &str, key: &str, value: &str) -> csi::Volume {
    let volume = driver.create(requests::create_with(share, name, key, value)).await.unwrap();
    let directory = match key {
        "subDir" => share.path.join(value),
        _ => share.path.join(name),
    };
    fs::write(directory.join("file"), name).unwrap();
    volume
}

#[tokio::test]
async fn a_retained_volume_stays_where_it_is() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = make(&driver, &share, "v", "onDelete", "retain").await;
    assert!(volume.volume_id.ends_with("##retain"), "{}", volume.volume_id);
    let before = Tree::of(&share.path.join("v"));
    driver.delete(&volume.volume_id).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    before.assert_unchanged("deleting a retained volume");
    // The name is free again, and the new volume uses the directory as it is.
    make(&driver, &share, "v", "onDelete", "delete").await;
    assert_eq!(fs::read_to_string(share.path.join("v/file")).unwrap(), "v");
}

async fn decide(driver: &Driver, volume: &csi::Volume, on_delete: &str) -> Result<(), Status> {
    let request = csi::ControllerModifyVolumeRequest {
        volume_id: volume.volume_id.clone(),
        mutable_parameters: requests::map([("onDelete", on_delete)]),
        ..Default::default()
    };
    driver.controller().controller_modify_volume(request).await.map(drop)
}

#[tokio::test]
async fn the_last_decision_to_keep_a_directory_counts_for_repeated_deletions_also_after_a_restart() {
    let lab = Lab::enter().await;
    for place in [Place::Xfs, Place::Ganesha] {
        let share = lab.share(place);
        let mut driver = Driver::start().await;
        let plain = driver.create(requests::create(&share, "v")).await.unwrap();
        let nested = make(&driver, &share, "w", "subDir", "team/w").await;
        fs::write(share.path.join("v/file"), "v").unwrap();
        for volume in [&plain, &nested] {
            assert!(volume.volume_id.ends_with('#'), "the ID has no policy: {}", volume.volume_id);
            decide(&driver, volume, "retain").await.unwrap();
        }
        for _ in 0..2 {
            for volume in [&plain, &nested] {
                driver.delete(&volume.volume_id).await.unwrap();
                driver.delete(&volume.volume_id).await.unwrap();
                let late = decide(&driver, volume, "delete").await.unwrap_err();
                assert_eq!(late.code(), Code::NotFound, "{late}");
                assert!(late.message().contains("was kept"), "{late}");
            }
            driver.kill();
            driver.start_again().await;
        }
        assert_eq!(fs::read_to_string(share.path.join("v/file")).unwrap(), "v");
        assert_eq!(fs::read_to_string(share.path.join("team/w/file")).unwrap(), "w");
        let printed = String::from_utf8(checked::check(&share, &[]).stdout).unwrap();
        for line in ["volume v was deleted, and its directory v was kept", "and its directory team/w was kept"] {
            assert!(printed.contains(line), "{printed}");
        }
        // The new volume uses the directory and requests its deletion.
        let again = driver.create(requests::create_with(&share, "v", "onDelete", "delete")).await.unwrap();
        driver.delete(&again.volume_id).await.unwrap();
        assert!(!share.path.join("v").exists());
        driver.delete(&plain.volume_id).await.unwrap();
        assert_eq!(share.names(), ["team"]);
    }
}

#[tokio::test]
async fn a_directory_that_an_administrator_had_filled_before_goes_only_where_that_is_said_in_so_many_words() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    fs::create_dir(share.path.join("media")).unwrap();
    fs::write(share.path.join("media/film"), "precious").unwrap();
    let one = make(&driver, &share, "one", "subDir", "media").await;
    let two = make(&driver, &share, "two", "subDir", "media").await;
    for volume in [&one, &two, &one, &two] {
        driver.delete(&volume.volume_id).await.unwrap();
        assert_eq!(fs::read_to_string(share.path.join("media/film")).unwrap(), "precious");
    }
    assert!(driver.log().contains("the directory of a deleted volume is kept"), "{}", driver.log());
    let printed = String::from_utf8(checked::check(&share, &[]).stdout).unwrap();
    assert!(printed.contains("its directory media was kept"), "{printed}");
    let three = make(&driver, &share, "three", "subDir", "media").await;
    decide(&driver, &three, "delete").await.unwrap();
    driver.delete(&three.volume_id).await.unwrap();
    assert!(share.names().is_empty());
    checked::at_rest(&share).await;
}

#[tokio::test]
async fn an_archived_volume_is_renamed_and_never_over_another_archive() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    for _ in 0..3 {
        let volume = make(&driver, &share, "v", "onDelete", "archive").await;
        driver.delete(&volume.volume_id).await.unwrap();
        // The directory is gone and an archive exists, so an earlier call has archived it.
        driver.delete(&volume.volume_id).await.unwrap();
    }
    let names = share.names();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(&"archived-v".to_owned()), "{names:?}");
    for name in names {
        assert!(name.starts_with("archived-v"), "{name}");
        assert_eq!(fs::read_to_string(share.path.join(name).join("file")).unwrap(), "v");
    }
}

#[tokio::test]
async fn an_archive_is_replaced_where_a_flag_says_so() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--remove-archived-volume-path", "--default-ondelete-policy=archive"]).await;
    for content in ["first", "second"] {
        let volume = driver.create(requests::create(&share, "v")).await.unwrap();
        fs::write(share.path.join("v/file"), content).unwrap();
        driver.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(share.names(), ["archived-v"]);
    assert_eq!(fs::read_to_string(share.path.join("archived-v/file")).unwrap(), "second");
}

#[tokio::test]
async fn empty_parents_of_a_nested_directory_go_with_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let one = make(&driver, &share, "one", "subDir", "team/app/one").await;
    let two = make(&driver, &share, "two", "subDir", "team/two").await;
    driver.delete(&one.volume_id).await.unwrap();
    assert!(!share.path.join("team/app").exists() && share.path.join("team/two/file").exists());
    driver.delete(&two.volume_id).await.unwrap();
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn a_directory_that_volumes_share_goes_with_the_last_of_them() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    let one = make(&driver, &share, "one", "subDir", "common").await;
    let two = make(&driver, &share, "two", "subDir", "common").await;
    assert_ne!(one.volume_id, two.volume_id);
    driver.delete(&one.volume_id).await.unwrap();
    driver.delete(&one.volume_id).await.unwrap();
    assert!(share.path.join("common/file").exists());
    driver.kill();
    driver.start_again().await;
    driver.delete(&one.volume_id).await.unwrap();
    assert!(share.path.join("common/file").exists());
    driver.delete(&two.volume_id).await.unwrap();
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn a_volume_inside_another_ones_directory_is_refused() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    make(&driver, &share, "outer", "subDir", "team/outer").await;
    make(&driver, &share, "plain", "onDelete", "delete").await;
    for inside in ["team/outer/inner", "team/outer/a/b", "plain/inner", "team"] {
        let status = driver.create(requests::create_with(&share, "inner", "subDir", inside)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{inside}: {status}");
    }
    assert!(!share.path.join("team/outer/inner").exists());
    // An ID that no driver returned deletes neither a directory in a volume nor a parent of one.
    let before = Tree::of(&share.path.join("team"));
    for made_up in ["team/outer/file", "team"] {
        let _ = driver.delete(&format!("127.0.0.1#{}#{made_up}##", &share.share[1..])).await;
    }
    before.assert_unchanged("deleting by a made-up ID");
}

#[tokio::test]
async fn a_hostile_tree_goes_and_nothing_that_it_points_to() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let outside = share.path.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let root = share.path.join("v");
    plant_hostile_tree(&root, &outside);
    let before = Tree::of(&outside);
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(share.names(), ["outside"]);
    share.trash_is_empty().await;
    before.assert_unchanged("deleting links to the directory");
}

/// Creates everything in `root` with which a tenant can harm a process that walks its files.
fn plant_hostile_tree(root: &Path, outside: &Path) {
    symlink(outside, root.join("link")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink("/", root.join("slash")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    mknodat(CWD, root.join("zero"), FileType::CharacterDevice, Mode::from(0o666), makedev(1, 5)).unwrap();
    for name in [&b"\xff\xfe"[..], b"new\nline", b" ", b"-rf", b"\\", &[b'n'; 255]] {
        fs::create_dir(root.join(OsStr::from_bytes(name))).unwrap();
        fs::write(root.join(OsStr::from_bytes(name)).join("file"), "x").unwrap();
    }
    fs::create_dir(root.join("locked")).unwrap();
    fs::write(root.join("locked/file"), "x").unwrap();
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    // The tree is deeper than PATH_MAX, so it is built level by level, from the inside out.
    let mut deep = root.join("deep");
    fs::create_dir(&deep).unwrap();
    for _ in 0..6 {
        let part: std::path::PathBuf = std::iter::repeat_n("d", 500).collect();
        let next = root.join("next");
        fs::create_dir(&next).unwrap();
        fs::create_dir_all(next.join(&part)).unwrap();
        fs::rename(&deep, next.join(&part).join("deep")).unwrap();
        deep = root.join("deep");
        fs::rename(&next, &deep).unwrap();
    }
    for n in 0..2000 {
        fs::write(root.join(format!("many-{n}")), "").unwrap();
    }
}

#[tokio::test]
async fn the_trash_of_a_killed_driver_is_cleared_by_the_next() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let export = format!("--export={}:{}", share.server, share.share);
    let mut driver = Driver::with(&[&export]).await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..3000 {
        fs::write(share.path.join(format!("v/{n}")), "").unwrap();
    }
    driver.delete(&volume.volume_id).await.unwrap();
    driver.kill();
    let left = fs::read_dir(share.path.join(".csi-nfs/trash")).unwrap().count();
    assert!(share.names().is_empty());
    assert!(left > 0, "the driver removed 3,000 files before it was killed, so nothing was tested");
    driver.start_again().await;
    checked::at_rest(&share).await;
}

#[tokio::test]
async fn what_is_not_there_is_deleted_and_nothing_is_made_for_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    fs::create_dir(share.path.join("bystander")).unwrap();
    let before = Tree::of(&share.path);
    for id in ["v##", "a/b##", "v#uuid#archive", "a/b#uuid#retain"] {
        driver.delete(&format!("127.0.0.1#{}#{id}", &share.share[1..])).await.unwrap();
    }
    before.assert_unchanged("deleting a missing directory");
}

#[tokio::test]
async fn a_policy_that_was_changed_later_holds() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = make(&driver, &share, "v", "onDelete", "delete").await;
    let request = csi::ControllerModifyVolumeRequest {
        volume_id: volume.volume_id.clone(),
        mutable_parameters: requests::map([("onDelete", "archive")]),
        ..Default::default()
    };
    driver.controller().controller_modify_volume(request).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(share.names(), ["archived-v"]);
}
