//! Kernels that lack what the driver uses first, and kernels that cannot mount NFS. `mounting`, `unmounting`,
//! `fs_group` and others run on such a kernel, too: `make e2e-older-kernel`.

use std::fs;
use std::path::Path;

use rstest::rstest;

use crate::support::kernel::Kernel;
use crate::support::{Driver, Lab, Place, csi, mounts, requests};

/// The mounts that are not at the target of a pod.
fn others(driver: &Driver) -> Vec<mounts::Mount> {
    mounts::all().into_iter().filter(|mount| !mount.point.starts_with(driver.path("pods"))).collect()
}

#[tokio::test]
async fn a_volume_is_made_published_and_deleted_without_fsopen_and_openat2() {
    let lab = Lab::alone().await;
    let before = mounts::all();
    let mut driver = Driver::on(Kernel::Older, &[]).await;
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    driver.publish(&volume, &target).await.unwrap();
    let [mount] = &mounts::at(&target)[..] else { panic!("{:?}", mounts::at(&target)) };
    assert!(mount.has("nosuid") && mount.has("nodev"), "{mount:?}");
    fs::write(target.join("file"), "x").unwrap();
    assert_eq!(fs::read_to_string(share.path.join("v/file")).unwrap(), "x");
    let seen = others(&driver);
    assert!(seen.iter().all(|mount| !mount.kind.starts_with("nfs") || before.contains(mount)), "{seen:?}");
    driver.stats(&volume.volume_id, &target).await.unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    assert!(mounts::at(&target).is_empty() && !target.exists());
    driver.delete(&volume.volume_id).await.unwrap();
    share.trash_is_empty().await;
    assert!(driver.terminate().await.success());
    assert_eq!(mounts::all(), before, "the directory for new mounts is gone");
}

#[tokio::test]
async fn a_mount_that_fails_leaves_nothing_in_the_private_directory() {
    let lab = Lab::alone().await;
    let driver = Driver::on(Kernel::Older, &[]).await;
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    // The target is a file, so the mount cannot be attached.
    fs::write(&target, "mine").unwrap();
    driver.publish(&volume, &target).await.unwrap_err();
    fs::remove_dir(share.path.join("v")).unwrap();
    driver.publish(&volume, &driver.target("other")).await.unwrap_err();
    let nfs = |mount: &mounts::Mount| mount.kind.starts_with("nfs") && mount.point.starts_with("/proc/driver");
    assert!(!mounts::all().iter().any(nfs), "{:?}", mounts::all());
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    assert_eq!(fs::read_dir("/proc/driver").unwrap().count(), 0);
}

#[tokio::test]
async fn a_source_of_any_length_is_mounted() {
    let lab = Lab::enter().await;
    let driver = Driver::on(Kernel::Older, &[]).await;
    let share = lab.share(Place::Xfs);
    let deep = format!("{0}/{0}", "d".repeat(200));
    fs::create_dir_all(share.path.join(&deep)).unwrap();
    fs::write(share.path.join(&deep).join("file"), "x").unwrap();
    let context = [("server", "127.0.0.1"), ("share", &share.share), ("subDir", &deep)];
    let volume = csi::Volume { volume_id: "long".into(), volume_context: requests::map(context), ..Default::default() };
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "x");
}

#[rstest]
#[case(Kernel::WithoutNfs, "fsopen: No such device")]
#[case(Kernel::OlderWithoutNfs, "mount: No such device")]
#[tokio::test]
async fn a_node_whose_kernel_has_no_nfs_says_so_and_does_not_register(#[case] kernel: Kernel, #[case] said: &str) {
    let _lab = Lab::enter().await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let arguments = [
        "--nodeid=n".to_owned(),
        format!("--endpoint=unix://{}", path("csi.sock")),
        format!("--registration-socket={}", path("reg.sock")),
        "--kubelet-socket-path=/var/lib/kubelet/plugins/csi-nfs.rs/csi.sock".to_owned(),
    ];
    let (status, log) = Driver::fails(kernel, &arguments, Path::new(&path("log")));
    assert_eq!(status.code(), Some(69), "{log}");
    for said in ["does not register with kubelet", said, "modprobe nfs"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "only the log");
}
