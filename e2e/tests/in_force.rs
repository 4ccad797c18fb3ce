//! A call either mounts with the requested options or fails. The kernel may share a connection between mounts of one
//! server and version, so these tests run alone, with versions that nothing else has mounted.

use std::path::Path;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;
use tonic::Status;

use crate::support::{Code, Driver, Lab, Place, csi, mounts, requests};

/// NodePublishVolume with mount flags.
async fn publish(driver: &Driver, volume: &csi::Volume, target: &Path, flags: &str) -> Result<(), Status> {
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, &[flags]);
    let request =
        csi::NodePublishVolumeRequest { volume_capability: Some(capability), ..requests::publish(volume, target) };
    driver.node().node_publish_volume(request).await.map(drop)
}

/// CreateVolume with a class's mount options.
async fn create(
    driver: &Driver,
    share: &crate::support::Share,
    name: &str,
    flags: &str,
) -> Result<csi::Volume, Status> {
    let volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, &[flags])];
    driver.create(csi::CreateVolumeRequest { volume_capabilities, ..requests::create(share, name) }).await
}

#[rstest]
#[case::tls_beside_plain("vers=4.1", "vers=4.1,xprtsec=tls", false)]
#[case::mtls_beside_plain("vers=4.1", "vers=4.1,xprtsec=mtls", false)]
#[case::mtls_beside_tls("vers=4.1,xprtsec=tls", "vers=4.1,xprtsec=mtls", false)]
#[case::tls_apart_from_others_by_nosharecache("vers=4.1", "vers=4.1,xprtsec=tls,nosharecache", false)]
#[case::tls_beside_mtls("vers=4.1,xprtsec=mtls", "vers=4.1,xprtsec=tls", true)]
#[case::plain_beside_tls("vers=4.1,xprtsec=tls", "vers=4.1", true)]
#[case::tls_with_another_version("vers=4.0", "vers=4.1,xprtsec=tls", true)]
#[tokio::test]
async fn a_volume_is_published_with_the_security_that_was_asked_for_or_not_at_all(
    #[case] first: &str,
    #[case] second: &str,
    #[case] published: bool,
) {
    let lab = Lab::alone().await;
    let driver = Driver::start().await;
    let (one, other) = (lab.share(Place::Tmpfs), lab.share(Place::Xfs));
    let one = create(&driver, &one, "one", "vers=4.2").await.unwrap();
    let other = create(&driver, &other, "other", "vers=4.2").await.unwrap();
    let (there, target) = (driver.target("there"), driver.target("pod"));
    publish(&driver, &one, &there, first).await.unwrap();
    let answer = publish(&driver, &other, &target, second).await;
    if published {
        answer.unwrap();
        assert!(first.contains("xprtsec") || mounts::at(&target)[0].has("xprtsec=tls"), "{:?}", mounts::at(&target));
        // After a restart the mount still has the requested options.
        publish(&driver, &other, &target, second).await.unwrap();
        return;
    }
    let refused = answer.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    for said in ["xprtsec=", there.to_str().unwrap(), "4.1"] {
        assert!(refused.message().contains(said), "{said}: {refused}");
    }
    assert!(mounts::at(&target).is_empty() && !target.exists());
    // The first mount is gone, and with it the shared connection.
    driver.unpublish(&one.volume_id, &there).await.unwrap();
    publish(&driver, &other, &target, second).await.unwrap();
    let security = second.split(',').find(|option| option.starts_with("xprtsec")).unwrap();
    assert!(mounts::at(&target)[0].has(security), "{:?}", mounts::at(&target));
}

#[tokio::test]
async fn a_volume_is_made_over_an_encrypted_connection_or_not_at_all() {
    let lab = Lab::alone().await;
    let driver = Driver::start().await;
    let (share, other) = (lab.share(Place::Tmpfs), lab.share(Place::Xfs));
    let plain = create(&driver, &other, "plain", "vers=4.2").await.unwrap();
    let there = driver.target("there");
    publish(&driver, &plain, &there, "vers=4.1").await.unwrap();
    for security in ["tls", "mtls"] {
        let refused = create(&driver, &share, "v", &format!("vers=4.1,xprtsec={security}")).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(&format!("xprtsec={security}")), "{refused}");
        assert!(share.names().is_empty() && !share.path.join(".csi-nfs").exists());
    }
    // The kernel may also share the driver's own connection, which does not appear in a mount table.
    let refused = create(&driver, &share, "v", "vers=4.2,xprtsec=tls").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("the driver's own"), "{refused}");
    driver.unpublish(&plain.volume_id, &there).await.unwrap();
    create(&driver, &share, "v", "vers=4.1,xprtsec=mtls").await.unwrap();
}

#[rstest]
#[case("xprtsec=tls")]
#[case("mountproto=tcp,xprtsec=mtls")]
#[tokio::test]
async fn version_3_is_encrypted_where_it_is_asked_for_by_name(#[case] flags: &str) {
    let lab = Lab::alone().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::Tmpfs);
    let flags = format!("vers=3,{flags}");
    let volume = create(&driver, &share, "v", &flags).await.unwrap();
    let target = driver.target("pod");
    publish(&driver, &volume, &target, &flags).await.unwrap();
    let security = flags.rsplit(',').next().unwrap();
    assert!(mounts::at(&target)[0].has(security), "{:?}", mounts::at(&target));
    publish(&driver, &volume, &target, &flags).await.unwrap();
    driver.unpublish(&volume.volume_id, &target).await.unwrap();
}

#[tokio::test]
async fn an_encrypted_volume_is_not_looked_for_with_version_3() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    // NFS-Ganesha has neither TLS nor version 3 here.
    let share = lab.share(Place::Ganesha);
    let refused = create(&driver, &share, "v", "xprtsec=tls").await.unwrap_err();
    assert_ne!(refused.code(), Code::Internal, "{refused}");
    assert!(share.names().is_empty());
    let log = driver.log();
    assert!(!log.contains("NFS version 3") && !refused.message().contains("NFS version 3"), "{refused}\n{log}");
}

#[tokio::test]
async fn locks_of_version_3_are_the_server_s_where_that_was_asked_for() {
    let lab = Lab::alone().await;
    let driver = Driver::start().await;
    let share = lab.share(Place::Xfs);
    let [one, other] = ["one", "other"].map(|name| create(&driver, &share, name, "vers=4.2"));
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    let (local, target) = (driver.target("local"), driver.target("pod"));
    publish(&driver, &one, &local, "vers=3").await.unwrap();
    publish(&driver, &other, &target, "vers=3,lock").await.unwrap();
    let mount = &mounts::at(&target)[0];
    assert!(mount.has("local_lock=none") && !mount.has("nolock"), "{mount:?}");
}
