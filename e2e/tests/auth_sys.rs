//! What AUTH_SYS leaves open, and what closes it (docs/security.md): whoever may connect to the server speaks NFS
//! itself, as root.

use std::net::IpAddr;

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;

use crate::support::small_client::{NFS4ERR_ACCESS, NFS4ERR_WRONGSEC, SmallClient};
use crate::support::{Driver, Lab, Place, Share, csi, requests};

/// Creates the volume `v`, and returns the path of its record on the server.
async fn record(driver: &Driver, share: &Share, flags: &[&str]) -> String {
    let volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, flags)];
    let request = csi::CreateVolumeRequest { volume_capabilities, ..requests::create(share, "v") };
    driver.create(request).await.unwrap();
    format!("{}/.csi-nfs/volumes/v.json", share.share)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn whoever_reaches_the_server_reads_and_writes_the_whole_export_without_any_mount() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let driver = Driver::start().await;
    let record = record(&driver, &share, &[]).await;
    let mut client = SmallClient::connect(address("127.0.0.1"));
    let read = String::from_utf8(client.read(&record).unwrap()).unwrap();
    assert!(read.contains(share.share.trim_start_matches('/')) && read.contains(r#""capacity":1048576"#), "{read}");
    let written = read.replace(r#""capacity":1048576"#, r#""capacity":9048576"#);
    client.write(&record, written.as_bytes()).unwrap();
    let on_the_server = std::fs::read_to_string(share.path.join(".csi-nfs/volumes/v.json")).unwrap();
    assert!(on_the_server.contains(r#""capacity":9048576"#), "{on_the_server}");
}

#[rstest]
#[case::kerberos(Place::Kerberos, "sec=krb5")]
#[case::certificates(Place::MutualTls, "xprtsec=mtls")]
#[tokio::test]
async fn an_export_that_requires_more_refuses_a_made_up_credential(#[case] place: Place, #[case] security: &str) {
    let lab = Lab::alone().await;
    let share = lab.share(place);
    let driver = Driver::start().await;
    let record = record(&driver, &share, &["vers=4.2", security]).await;
    let mut client = SmallClient::connect(address("127.0.0.1"));
    assert_eq!(client.read(&record), Err(NFS4ERR_WRONGSEC));
    assert_eq!(client.write(&record, b"x"), Err(NFS4ERR_WRONGSEC));
}

#[tokio::test]
async fn an_export_for_some_addresses_refuses_all_others() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Loopback);
    let driver = Driver::start().await;
    let record = record(&driver, &share, &[]).await;
    // Who connects to this address of the machine has it, too.
    assert_eq!(SmallClient::connect(address("10.90.0.1")).read(&record), Err(NFS4ERR_ACCESS));
    assert!(SmallClient::connect(address("127.0.0.1")).read(&record).is_ok());
}
