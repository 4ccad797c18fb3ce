//! Labels of SELinux (`context=` and the like) on a kernel with SELinux and a policy: `make e2e-selinux`. It boots a
//! kernel for this, because a policy cannot be unloaded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "these are tests")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;
use rustix::mount::{MountFlags, mount};

#[path = "tests/support/mod.rs"]
mod support;

use support::kernel::Kernel;
use support::{Code, Driver, Lab, Place, csi, mounts, requests};

const FIRST: &str = "system_u:object_r:container_file_t:s0:c1,c2";
const SECOND: &str = "system_u:object_r:container_file_t:s0:c1,c3";
/// What `vm/selinux.cil` gives to the files of NFS.
const DEFAULT: &str = "system_u:object_r:nfs_t:s0";

/// Loads the policy, once.
fn load_policy() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/vm/selinux.cil");
        let compiled = Command::new("secilc").args(["-f", "/dev/null", "-o"]).arg(&policy).arg(source).status();
        assert!(compiled.unwrap().success(), "secilc");
        mount("selinuxfs", "/sys/fs/selinux", "selinuxfs", MountFlags::empty(), None).unwrap();
        fs::write("/sys/fs/selinux/load", fs::read(policy).unwrap()).unwrap();
    });
}

/// The label of a file.
fn label(file: &Path) -> String {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(file, "security.selinux", &mut value).unwrap();
    String::from_utf8_lossy(&value[..length]).trim_end_matches('\0').to_owned()
}

/// A request to publish with a label, as kubelet writes it.
fn labelled(volume: &csi::Volume, target: &Path, option: &str, label: &str) -> csi::NodePublishVolumeRequest {
    let flag = format!("{option}=\"{label}\"");
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, &["hard", &flag]);
    csi::NodePublishVolumeRequest { volume_capability: Some(capability), ..requests::publish(volume, target) }
}

#[rstest]
#[case::fsopen(Kernel::Running)]
#[case::mount(Kernel::Older)]
#[tokio::test]
async fn mounts_of_one_volume_have_the_labels_that_they_ask_for(#[case] kernel: Kernel) {
    let lab = Lab::enter().await;
    load_policy();
    let mut driver = Driver::on(kernel, &[]).await;
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    fs::write(share.path.join("v/file"), "x").unwrap();
    let (first, second, plain) = (driver.target("first"), driver.target("second"), driver.target("plain"));
    driver.publish(&volume, &plain).await.unwrap();
    let requests = [labelled(&volume, &first, "context", FIRST), labelled(&volume, &second, "context", SECOND)];
    for request in &requests {
        driver.node().node_publish_volume(request.clone()).await.unwrap();
    }
    let labels = [&plain, &first, &second].map(|target| label(&target.join("file")));
    assert_eq!(labels, [DEFAULT, FIRST, SECOND]);
    // Another pod with the label of the first shares its cache.
    let again = driver.target("again");
    driver.node().node_publish_volume(labelled(&volume, &again, "context", FIRST)).await.unwrap();
    fs::write(first.join("file"), "changed").unwrap();
    assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "changed");
    assert!(!mounts::at(&again)[0].has("nosharecache"), "{:?}", mounts::at(&again));
    // The mount table has commas in the labels.
    driver.kill();
    driver.start_again().await;
    for request in requests {
        driver.node().node_publish_volume(request).await.unwrap();
    }
    assert_eq!(mounts::at(&first).len(), 1);
    for target in [&plain, &first, &second, &again] {
        driver.unpublish(&volume.volume_id, target).await.unwrap();
    }
    driver.delete(&volume.volume_id).await.unwrap();
}

#[rstest]
#[case("fscontext")]
#[case("rootcontext")]
#[tokio::test]
async fn the_other_labels_reach_the_kernel(#[case] option: &str) {
    let lab = Lab::enter().await;
    load_policy();
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    driver.node().node_publish_volume(labelled(&volume, &target, option, FIRST)).await.unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(target.to_str().unwrap())).unwrap();
    assert!(line.contains(&format!("{option}=\"{FIRST}\"")), "{line}");
}

#[rstest]
#[case("context", "system_u:object_r:missing_t:s0", "SELinux's policy on this node does not have that context")]
// An export without `security_label` has no labels to begin with.
#[case("defcontext", FIRST, "SELinux may be off, or refuse these labels for NFS")]
#[tokio::test]
async fn a_label_that_selinux_refuses_is_refused_with_that_reason(
    #[case] option: &str,
    #[case] label: &str,
    #[case] reason: &str,
) {
    let lab = Lab::enter().await;
    load_policy();
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    let request = labelled(&volume, &target, option, label);
    let refused = driver.node().node_publish_volume(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains(reason), "{refused}");
    assert!(mounts::at(&target).is_empty());
}
