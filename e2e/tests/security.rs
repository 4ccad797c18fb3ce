//! TLS and Kerberos, from the creation of a volume to its deletion: what is seen on the wire, and what an operator is
//! told if a helper or a certificate fails. The kernel may share a connection between mounts of one server, so these
//! tests run alone.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;
use tonic::Status;

use crate::support::capture::{Capture, shows};
use crate::support::driver::program;
use crate::support::lab::Away;
use crate::support::{Code, Driver, Lab, Place, Share, checked, csi, mounts, requests, wait};

/// What a tenant writes, and the name of the file.
const CONTENT: &str = "what nobody on the way should read";
const FILE: &str = "a name that nobody on the way should read";
/// The user that has a ticket of Kerberos (see `e2e/vm/kerberos`), and one that has none.
const DAEMON: u32 = 1;
const OTHER: u32 = 2;
/// How long a call may take that cannot succeed.
const SOON: Duration = Duration::from_secs(5);

/// CreateVolume, for pods of any user, with these mount options in the class.
async fn create(driver: &Driver, share: &Share, name: &str, flags: &[&str]) -> Result<csi::Volume, Status> {
    let volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, flags)];
    let request = requests::create_with(share, name, "mountPermissions", "0777");
    driver.create(csi::CreateVolumeRequest { volume_capabilities, ..request }).await
}

async fn publish(driver: &Driver, volume: &csi::Volume, target: &Path, flags: &[&str]) -> Result<(), Status> {
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, flags);
    let request =
        csi::NodePublishVolumeRequest { volume_capability: Some(capability), ..requests::publish(volume, target) };
    driver.node().node_publish_volume(request).await.map(drop)
}

/// Writes [`CONTENT`] into a file, as a user of a pod does.
fn write(user: u32, file: &Path) -> Output {
    Command::new("sh")
        .args(["-c", r#"printf %s "$1" > "$2""#, "sh", CONTENT])
        .arg(file)
        .uid(user)
        .gid(user)
        .output()
        .unwrap()
}

#[rstest]
#[case::plain(Place::Xfs, "sec=sys", true)]
#[case::tls(Place::Xfs, "xprtsec=tls", false)]
#[case::mtls(Place::MutualTls, "xprtsec=mtls", false)]
#[case::krb5(Place::Kerberos, "sec=krb5", true)]
#[case::krb5i(Place::Kerberos, "sec=krb5i", true)]
#[case::krb5p(Place::Kerberos, "sec=krb5p", false)]
#[tokio::test]
async fn a_volume_is_made_written_snapshotted_and_deleted(
    #[case] place: Place,
    #[case] security: &str,
    #[case] readable_on_the_wire: bool,
) {
    let lab = Lab::alone().await;
    let share = lab.share(place);
    let driver = Driver::start().await;
    let flags = ["vers=4.2", security];
    let capture = Capture::start();

    let volume = create(&driver, &share, "v", &flags).await.unwrap();
    let target = driver.target("pod");
    publish(&driver, &volume, &target, &flags).await.unwrap();
    assert!(mounts::at(&target)[0].has(security), "{:?}", mounts::at(&target));
    let written = write(DAEMON, &target.join(FILE));
    assert!(written.status.success(), "{written:?}");
    if place == Place::Kerberos {
        let refused = write(OTHER, &target.join("without a ticket"));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    }
    assert_eq!(std::fs::read_to_string(share.path.join("v").join(FILE)).unwrap(), CONTENT);

    let snapshot = driver.take_whole(requests::snapshot(&volume.volume_id, "s")).await.unwrap();
    let copy = share.path.join(".csi-nfs/snapshots/s.tree").join(FILE);
    assert_eq!(std::fs::read_to_string(copy).unwrap(), CONTENT);
    driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    share.trash_is_empty().await;
    assert!(share.names().is_empty());
    checked::agrees_by(&share, &[&format!("--mount-options={}", flags.join(","))]);

    let packets = capture.end();
    assert_eq!(shows(&packets, CONTENT.as_bytes()), readable_on_the_wire);
    assert_eq!(shows(&packets, FILE.as_bytes()), readable_on_the_wire);
}

/// What is wrong with the security of the node or the server.
type Fault = fn(&Lab) -> Away;

#[rstest]
#[case::tlshd_stopped(|lab: &Lab| lab.without_tlshd(), Place::Xfs, "xprtsec=tls", "tlshd")]
#[case::server_expired(|lab: &Lab| lab.with_certificates("good", "expired"), Place::Xfs, "xprtsec=tls", "certificate")]
#[case::server_foreign(|lab: &Lab| lab.with_certificates("good", "foreign"), Place::Xfs, "xprtsec=tls", "certificate")]
#[case::client_expired(
    |lab: &Lab| lab.with_certificates("expired", "good"), Place::MutualTls, "xprtsec=mtls", "certificate"
)]
#[case::client_foreign(
    |lab: &Lab| lab.with_certificates("foreign", "good"), Place::MutualTls, "xprtsec=mtls", "certificate"
)]
#[case::gssd_stopped(|lab: &Lab| lab.without_gssd(), Place::Kerberos, "sec=krb5p", "rpc.gssd")]
#[tokio::test]
async fn a_helper_or_a_certificate_that_fails_is_named_and_harms_no_other_volume(
    #[case] fault: Fault,
    #[case] place: Place,
    #[case] security: &str,
    #[case] named: &str,
) {
    let lab = Lab::alone().await;
    let (share, other) = (lab.share(place), lab.share(Place::Ganesha));
    let mut driver = Driver::start().await;
    let flags = [security];
    let volume = create(&driver, &share, "v", &flags).await.unwrap();
    let healthy = create(&driver, &other, "healthy", &[]).await.unwrap();
    let (target, beside) = (driver.target("pod"), driver.target("beside"));
    publish(&driver, &healthy, &beside, &[]).await.unwrap();
    // A new process has no connections that were made before.
    driver.terminate().await;
    driver.start_again().await;

    let away = fault(&lab);
    for refused in [
        wait::within("CreateVolume", SOON, create(&driver, &share, "w", &flags)).await.map(drop),
        wait::within("NodePublishVolume", SOON, publish(&driver, &volume, &target, &flags)).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused.code(), Code::FailedPrecondition | Code::PermissionDenied)
                && refused.message().contains(named),
            "{refused}"
        );
    }
    assert!(write(0, &beside.join(FILE)).status.success());
    wait::within("CreateVolume beside", SOON, create(&driver, &other, "also", &[])).await.unwrap();
    drop(away);
    publish(&driver, &volume, &target, &flags).await.unwrap();
    assert!(write(DAEMON, &target.join(FILE)).status.success());
    create(&driver, &share, "w", &flags).await.unwrap();
}

#[tokio::test]
async fn the_options_of_an_export_are_enough_for_every_call_of_the_controller() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::MutualTls);
    let options = format!("{}:{} vers=4.2,xprtsec=mtls", share.server, share.share);
    let mut driver = Driver::with(&[&format!("--export-mount-options={options}")]).await;
    let volume = create(&driver, &share, "v", &[]).await.unwrap();
    let snapshot = driver.take_whole(requests::snapshot(&volume.volume_id, "s")).await.unwrap();
    driver.terminate().await;
    // What an earlier process left in the trash.
    std::fs::create_dir(share.path.join(".csi-nfs/trash/left")).unwrap();
    driver.start_again().await;
    share.trash_is_empty().await;
    let listed = driver.controller().list_volumes(csi::ListVolumesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.entries[0].volume.as_ref().unwrap().volume_id, volume.volume_id);
    let listed = driver.controller().list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.entries[0].snapshot.as_ref().unwrap().snapshot_id, snapshot.snapshot_id);
    let checked = Command::new(program())
        .args(["check", &format!("--export={}:{}", share.server, share.share)])
        .env("CSI_NFS_EXPORT_MOUNT_OPTIONS", &options)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn a_server_whose_certificate_is_for_another_name_is_refused() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    // The server has this address, too, and its certificate does not have it.
    let other = share.by("10.90.0.1");
    let refused = wait::within("CreateVolume", SOON, create(&driver, &other, "v", &["xprtsec=tls"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("lacks the server's name"), "{refused}");
    create(&driver, &share, "v", &["xprtsec=tls"]).await.unwrap();
}

#[rstest]
#[case(Place::MutualTls)]
#[case(Place::Kerberos)]
#[tokio::test]
async fn an_export_that_requires_more_than_was_asked_for_says_so(#[case] place: Place) {
    let lab = Lab::alone().await;
    let share = lab.share(place);
    let driver = Driver::start().await;
    let refused = wait::within("CreateVolume", SOON, create(&driver, &share, "v", &["sec=sys"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("`sec=`") && refused.message().contains("`xprtsec=`"), "{refused}");
}
