//! Every option of the allow-list with every version. A volume that is mounted with an option can be published again,
//! by the same process and after a restart.

use std::collections::BTreeSet;
use std::path::Path;

use csi_nfs::e2e::{Effect, KNOWN, examples};
use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use rstest::rstest;
use tonic::Status;

use crate::support::{Driver, Lab, Place, csi, mounts, requests};

/// The options of the allow-list that `take` selects, each with every keyword or with both ends of its range.
fn options(take: impl Fn(Effect) -> bool) -> Vec<String> {
    KNOWN.iter().filter(|(_, _, effect)| take(*effect)).flat_map(examples).collect()
}

async fn publish(driver: &Driver, volume: &csi::Volume, target: &Path, flags: &str) -> Result<(), Status> {
    let capability = requests::mounted(Mode::MultiNodeMultiWriter, &[flags]);
    let request =
        csi::NodePublishVolumeRequest { volume_capability: Some(capability), ..requests::publish(volume, target) };
    driver.node().node_publish_volume(request).await.map(drop)
}

/// Publishes a volume with each flag at a target of its own, publishes it again, and again after a restart. Returns the
/// flags that cannot be mounted.
async fn walk(flags: Vec<String>) -> Vec<String> {
    let lab = Lab::alone().await;
    let mut driver = Driver::start().await;
    let share = lab.share(Place::Tmpfs);
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let (mut published, mut refused, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (number, flags) in flags.into_iter().enumerate() {
        let target = driver.target(&number.to_string());
        match publish(&driver, &volume, &target, &flags).await {
            Ok(()) => published.push((flags, target)),
            Err(error) => {
                eprintln!("{flags}: {error}");
                refused.push(flags);
            }
        }
    }
    for restarted in [false, true] {
        if restarted {
            driver.kill();
            driver.start_again().await;
        }
        for (flags, target) in &published {
            if let Err(error) = publish(&driver, &volume, target, flags).await {
                wrong.push(format!("{flags}, restarted {restarted}: {} {:?}", error.message(), mounts::at(target)));
            }
            assert_eq!(mounts::at(target).len(), 1, "{flags}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    refused
}

/// Options that this kernel or these servers refuse with every version: there is no RDMA, no Kerberos, no server at
/// those ports and no IPv6 address for an IPv4 host, and the kernel does not know `nosoftreval`.
const NEVER: [&str; 11] = [
    "proto=tcp6",
    "proto=rdma",
    "proto=rdma6",
    "rdma",
    "port=1",
    "port=65535",
    "sec=none",
    "sec=krb5",
    "sec=krb5i",
    "sec=krb5p",
    "nosoftreval",
];

#[rstest]
// The mounts with earlier options are not encrypted, so the kernel cannot share their connection with `xprtsec=tls`.
#[case("4.2", &["mountproto=tcp6", "xprtsec=tls", "xprtsec=mtls", "migration"])]
#[case("4.1", &["mountproto=tcp6", "xprtsec=tls", "xprtsec=mtls", "migration"])]
#[case("4.0", &["mountproto=tcp6", "xprtsec=tls", "xprtsec=mtls"])]
#[case("3", &["mountport=1", "mountport=65535", "migration"])]
#[tokio::test]
async fn every_option_is_mounted_and_is_published_when_the_call_is_repeated(
    #[case] version: &str,
    #[case] not_mounted: &[&str],
) {
    // Labels need a policy of SELinux: see `selinux`.
    let all = options(|effect| !matches!(effect, Effect::Version | Effect::Label));
    let refused = walk(all.iter().map(|option| format!("vers={version},{option}")).collect()).await;
    let refused: BTreeSet<&str> = refused.iter().map(|flags| flags.split_once(',').unwrap().1).collect();
    assert_eq!(refused, NEVER.iter().chain(not_mounted).copied().collect());
}

#[tokio::test]
async fn every_way_to_ask_for_a_version_is_mounted_and_is_published_when_the_call_is_repeated() {
    assert_eq!(walk(options(|effect| effect == Effect::Version)).await, [""; 0]);
}
