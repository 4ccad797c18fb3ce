//! The driver's own NFS client with TLS, on a server whose tlshd shakes hands: what is seen on the wire, what is refused,
//! and certificates that are replaced while the driver runs.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;
use tempfile::TempDir;
use tonic::Status;

use crate::support::capture::{Capture, shows};
use crate::support::driver::program;
use crate::support::kernel::{Kernel, NOBODY};
use crate::support::requests::{self, from, of_snapshot};
use crate::support::{Code, Driver, Lab, Place, Share, csi, wait};

/// The name of a file of a tenant, and where a symbolic link of a tenant leads.
const FILE: &str = "a file's name that nobody on the way should read";
const LINK: &str = "a link's target that nobody on the way should read";
/// How long a call may take that cannot succeed.
const SOON: Duration = Duration::from_secs(5);

/// Certificates of `e2e/vm/tlshd` as kubelet mounts them from a secret, for a user without privilege.
struct Files(TempDir);

impl Files {
    fn of(client: &str) -> Self {
        let files = Self(TempDir::with_prefix("csi-nfs-tls-").unwrap());
        chown(files.0.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        files.replace(client);
        files
    }

    fn replace(&self, client: &str) {
        let certificates = Path::new("/run/tlshd");
        for (name, from) in [
            ("ca.crt", "trusted.pem".to_owned()),
            ("tls.crt", format!("{client}.pem")),
            ("tls.key", format!("{client}.key")),
        ] {
            let new = self.0.path().join("new");
            fs::copy(certificates.join(from), &new).unwrap();
            chown(&new, Some(NOBODY), Some(NOBODY)).unwrap();
            fs::rename(new, self.0.path().join(name)).unwrap();
        }
    }

    fn flags(&self) -> [String; 3] {
        [("ca", "ca.crt"), ("cert", "tls.crt"), ("key", "tls.key")]
            .map(|(flag, file)| format!("--tls-{flag}={}", self.0.path().join(file).display()))
    }

    /// A controller that may do nothing, with these files.
    async fn driver(&self, client: &str) -> Driver {
        let flags = self.flags();
        let flags: Vec<&str> = ["--mode=controller", client].into_iter().chain(flags.iter().map(|f| &**f)).collect();
        Driver::on(Kernel::Unprivileged, &flags).await
    }

    /// `csi-nfs SUBCOMMAND` by the same user, on an export with these mount options.
    fn run(&self, subcommand: &str, share: &Share, security: &str) -> (Option<i32>, String) {
        let mut command = Command::new(program());
        command.args([subcommand, "--client=own", &format!("--export={}:{}", share.server, share.share)]);
        command.arg(format!("--mount-options={security}")).args(self.flags());
        let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code(), text)
    }
}

fn with(request: csi::CreateVolumeRequest, security: &str) -> csi::CreateVolumeRequest {
    let volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, &[security])];
    csi::CreateVolumeRequest { volume_capabilities, ..request }
}

async fn create(driver: &Driver, share: &Share, name: &str, security: &str) -> Result<csi::Volume, Status> {
    driver.create(with(requests::create(share, name), security)).await
}

/// CreateVolume, which is refused soon.
async fn refused(driver: &Driver, share: &Share, security: &str) -> Status {
    wait::within("CreateVolume", SOON, create(driver, share, "refused", security)).await.unwrap_err()
}

#[rstest]
#[case::plain(Place::Xfs, "sec=sys", true)]
#[case::tls(Place::Xfs, "xprtsec=tls", false)]
#[case::mtls(Place::MutualTls, "xprtsec=mtls", false)]
#[tokio::test]
async fn a_controller_without_privilege_makes_copies_and_deletes_and_nobody_on_the_way_reads_it(
    #[case] place: Place,
    #[case] security: &str,
    #[case] readable_on_the_wire: bool,
) {
    let lab = Lab::alone().await;
    let share = lab.share(place);
    let files = Files::of("good");
    let capture = Capture::start();
    let driver = files.driver("--client=own").await;
    let volume = create(&driver, &share, "v", security).await.unwrap();
    fs::write(share.path.join("v").join(FILE), "content").unwrap();
    symlink(LINK, share.path.join("v/link")).unwrap();
    let snapshot = driver.take_whole(requests::snapshot(&volume.volume_id, "s")).await.unwrap();
    let restore = with(from(&share, "restored", of_snapshot(&snapshot.snapshot_id)), security);
    let restored = driver.create(restore).await.unwrap();
    assert_eq!(fs::read_to_string(share.path.join("restored").join(FILE)).unwrap(), "content");
    assert_eq!(fs::read_link(share.path.join("restored/link")).unwrap(), Path::new(LINK));
    let (status, text) = files.run("check", &share, security);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("by the driver's own client"), "{text}");
    driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    for volume in [volume, restored] {
        driver.delete(&volume.volume_id).await.unwrap();
    }
    share.trash_is_empty().await;
    assert!(share.names().is_empty());
    let packets = capture.end();
    for secret in [FILE, LINK] {
        assert_eq!(shows(&packets, secret.as_bytes()), readable_on_the_wire, "{secret}");
    }
    let log = driver.log();
    assert!(!log.contains("PRIVATE KEY") && !log.contains("BEGIN CERTIFICATE"), "{log}");
}

#[tokio::test]
async fn the_doctor_finds_an_encrypted_export_well_without_any_privilege() {
    let lab = Lab::alone().await;
    let (status, text) = Files::of("good").run("doctor", &lab.share(Place::MutualTls), "xprtsec=mtls");
    assert_eq!(status, Some(0), "{text}");
}

#[rstest]
#[case::expired("expired", "has expired")]
#[case::foreign("foreign", "is of an authority that is not in ")]
#[tokio::test]
async fn a_server_that_the_driver_does_not_trust_is_refused(#[case] certificate: &str, #[case] said: &str) {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    let files = Files::of("good");
    let driver = files.driver("--client=own").await;
    let away = lab.with_certificates("good", certificate);
    let refused = refused(&driver, &share, "xprtsec=tls").await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("the server's certificate") && refused.message().contains(said), "{refused}");
    drop(away);
    create(&driver, &share, "v", "xprtsec=tls").await.unwrap();
}

#[rstest]
#[case("expired")]
#[case("foreign")]
#[tokio::test]
async fn a_certificate_that_the_server_does_not_take_is_named_and_its_replacement_is_used(#[case] certificate: &str) {
    let lab = Lab::alone().await;
    let (share, another) = (lab.share(Place::MutualTls), lab.share(Place::MutualTls));
    let files = Files::of(certificate);
    let driver = files.driver("--client=own").await;
    let said = refused(&driver, &share, "xprtsec=mtls").await;
    assert_eq!(said.code(), Code::PermissionDenied, "{said}");
    assert!(said.message().contains("the server refuses the driver's certificate (alert "), "{said}");
    files.replace("good");
    create(&driver, &share, "v", "xprtsec=mtls").await.unwrap();
    // What is connected goes on, and what is new reads the files.
    files.replace(certificate);
    create(&driver, &share, "w", "xprtsec=mtls").await.unwrap();
    refused(&driver, &another, "xprtsec=mtls").await;
}

#[tokio::test]
async fn a_server_whose_certificate_is_for_another_name_is_refused() {
    let lab = Lab::alone().await;
    let files = Files::of("good");
    let driver = files.driver("--client=own").await;
    // The server has this address, too, and its certificate does not have it.
    let share = lab.share(Place::Xfs).by("10.90.0.1");
    let refused = refused(&driver, &share, "xprtsec=tls").await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("is not for the name `10.90.0.1`"), "{refused}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_and_told_nothing() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    let files = Files::of("good");
    let driver = files.driver("--client=own").await;
    let capture = Capture::start();
    let refused = refused(&driver, &share, "xprtsec=tls").await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("the server offers no TLS on this port"), "{refused}");
    let name = share.path.file_name().unwrap().as_encoded_bytes();
    assert!(!shows(&capture.end(), name));
    assert!(share.names().is_empty());
}

#[tokio::test]
async fn a_server_whose_tlshd_is_stopped_is_refused() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    let files = Files::of("good");
    let driver = files.driver("--client=own").await;
    let away = lab.without_tlshd();
    let refused = refused(&driver, &share, "xprtsec=tls").await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("check that tlshd runs on the server"), "{refused}");
    drop(away);
    create(&driver, &share, "v", "xprtsec=tls").await.unwrap();
}

#[tokio::test]
async fn an_export_that_requires_a_certificate_says_so() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::MutualTls);
    let files = Files::of("good");
    let driver = files.driver("--client=own").await;
    for less in ["sec=sys", "xprtsec=tls"] {
        let refused = refused(&driver, &share, less).await;
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("`xprtsec=`"), "{refused}");
    }
}

#[tokio::test]
async fn the_kernels_client_takes_an_encrypted_export_where_the_own_client_may_choose_and_cannot() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--client=auto", "--tls-ca=/nowhere"]).await;
    create(&driver, &share, "v", "xprtsec=tls").await.unwrap();
    let log = driver.log();
    assert!(log.contains("the kernel's client is used") && log.contains("`--tls-ca`: /nowhere"), "{log}");
    let files = Files::of("good");
    let [authority, ..] = files.flags();
    let driver = Driver::with(&["--client=auto", &authority]).await;
    create(&driver, &share, "w", "xprtsec=tls").await.unwrap();
    assert!(!driver.log().contains("the kernel's client is used"), "{}", driver.log());
}
