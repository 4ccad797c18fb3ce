//! Checks the kernel's client and the driver's own one on real servers against the contract of the interface
//! (`csi_nfs::testing::conformance`).

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use csi_nfs::e2e::{Fs, Name};
use csi_nfs::testing::conformance;
use rstest::rstest;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::support::client::{client, own_client};
use crate::support::{Lab, Place, Share};

#[rstest]
#[case(Place::Tmpfs, "vers=4.2")]
#[case(Place::Tmpfs, "vers=4.1")]
#[case(Place::Tmpfs, "vers=4.0")]
#[case(Place::Tmpfs, "vers=3")]
#[case(Place::Xfs, "vers=4.2")]
#[case(Place::Xfs, "vers=4.1")]
#[case(Place::Xfs, "vers=4.0")]
#[case(Place::Xfs, "vers=3")]
#[case(Place::Ganesha, "vers=4.2")]
#[case(Place::Ganesha, "vers=4.1")]
#[case(Place::Ganesha, "vers=4.0")]
#[tokio::test]
async fn the_kernels_client_keeps_the_contract(#[case] place: Place, #[case] version: &str) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    keeps_the_contract(&client(&share, version).await, &share, place).await;
}

#[rstest]
#[case(Place::Tmpfs, "vers=4.2")]
#[case(Place::Tmpfs, "vers=4.1")]
#[case(Place::Xfs, "vers=4.2")]
#[case(Place::Xfs, "vers=4.1")]
#[case(Place::Ganesha, "vers=4.2")]
#[case(Place::Ganesha, "vers=4.1")]
#[tokio::test]
async fn the_drivers_own_client_keeps_the_contract(#[case] place: Place, #[case] version: &str) {
    let lab = Lab::enter().await;
    let share = lab.share(place);
    keeps_the_contract(&own_client(&share, version).await, &share, place).await;
    conformance::clients(&own_client(&share, version).await, &own_client(&share, version).await).await;
}

async fn keeps_the_contract<F: Fs>(fs: &F, share: &Share, place: Place) {
    conformance::all(fs).await;
    if place != Place::Ganesha {
        conformance::link_times(fs).await;
    }

    plant_foreign_objects(&share.path.join("foreign"));
    let (dir, _) = fs.lookup(&fs.root(), &Name::new("foreign").unwrap()).await.unwrap();
    conformance::foreign(fs, &dir).await;
}

/// The objects that `conformance::foreign` expects.
fn plant_foreign_objects(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("target"), "target").unwrap();
    for (link, to) in [("link", "target"), ("outside", "/etc"), ("dangling", "nowhere")] {
        symlink(to, dir.join(link)).unwrap();
    }
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    mknodat(CWD, dir.join("device"), FileType::CharacterDevice, Mode::from(0o644), makedev(1, 3)).unwrap();
    drop(UnixListener::bind(dir.join("socket")).unwrap());
}
