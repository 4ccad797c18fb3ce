//! Copies with limits. Clones and restores count towards their own volume, and snapshots count towards no volume. The
//! reported figures agree.

use std::fs;
use std::time::Duration;

use crate::quota::{figures, fill, published, required};
use crate::support::agent::Agent;
use crate::support::csi::volume_content_source::Type as Source;
use crate::support::requests::{self, MIB, from, of_snapshot, of_volume};
use crate::support::wait::until_async;
use crate::support::{Code, Driver, Lab, Place, Share, csi, http, mounts};

fn filled(share: &Share, name: &str, mib: i64, source: Source) -> csi::CreateVolumeRequest {
    let volume_content_source = from(share, name, source).volume_content_source;
    csi::CreateVolumeRequest { volume_content_source, ..required(share, name, mib) }
}

#[tokio::test]
async fn clones_and_restores_fill_their_own_volumes_and_snapshots_none() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let _agent = Agent::start(&share);
    let address = "127.0.0.1:29809";
    let driver = Driver::with(&["--vol-stats-cache-expire-in-minutes=0", &format!("--http-endpoint={address}")]).await;
    let volume = driver.create(required(&share, "v", 16)).await.unwrap();
    for n in 0..12 {
        fs::create_dir_all(share.path.join(format!("v/{}", n % 3))).unwrap();
        fs::write(share.path.join(format!("v/{}/{n}", n % 3)), vec![n; MIB as usize]).unwrap();
    }
    let snapshot = driver.take(requests::snapshot(&volume.volume_id, "s")).await.unwrap();
    assert!(snapshot.ready_to_use);

    for (name, from) in [("clone", of_volume(&volume.volume_id)), ("restored", of_snapshot(&snapshot.snapshot_id))] {
        let made = driver.create(filled(&share, name, 16, from)).await.unwrap();
        // The limit is in force from the start, and the copied content counts.
        let target = published(&driver, &made).await;
        let usage = figures(&driver, &made, &target).await;
        assert!(usage.total == 16 * MIB && (12 * MIB..13 * MIB).contains(&usage.used), "{usage:?}");
        let (written, refused) = fill(&target, &share.path.join(name), "1/more");
        assert_eq!(refused.raw_os_error(), Some(28), "{refused}");
        assert!((3 * MIB as u64..=4 * MIB as u64).contains(&written), "{written}");
        driver.unpublish(&made.volume_id, &target).await.unwrap();
    }
    for from in [of_volume(&volume.volume_id), of_snapshot(&snapshot.snapshot_id)] {
        let refused = driver.create(filled(&share, "small", 8, from)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    }
    assert!(!share.path.join("small").exists());
    let target = published(&driver, &volume).await;
    let usage = figures(&driver, &volume, &target).await;
    assert!(
        (12 * MIB..13 * MIB).contains(&usage.used),
        "the volume's usage excludes copies and the snapshot: {usage:?}"
    );

    // The project of all snapshots. Its usage counts towards no volume.
    let counted = || {
        let metrics = http::get(address, "/metrics");
        let export = format!("csi_nfs_snapshots_bytes{{export=\"{}:{}\"}} ", share.server, share.share);
        let line = metrics.lines().find_map(|line| line.strip_prefix(&export)).map(str::to_owned);
        line.map_or(0.0, |value| value.parse::<f64>().unwrap()) as i64
    };
    until_async("counting the snapshot", Duration::from_secs(60), async || (12 * MIB..13 * MIB).contains(&counted()))
        .await;
    mounts::clear(&driver.path("."));
}

#[tokio::test]
async fn a_metric_says_whether_figures_are_the_volume_s_or_the_export_s() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let _agent = Agent::start(&share);
    let address = "127.0.0.1:29810";
    let driver = Driver::with(&[&format!("--http-endpoint={address}")]).await;
    let limited = driver.create(required(&share, "v", 4)).await.unwrap();
    let unlimited = driver.create(requests::create_with(&share, "w", "quota", "none")).await.unwrap();
    let foreign = csi::Volume { volume_id: "theirs".into(), ..limited.clone() };
    for volume in [&limited, &unlimited, &foreign] {
        let target = published(&driver, volume).await;
        figures(&driver, volume, &target).await;
    }
    let metrics = http::get(address, "/metrics");
    let size = |volume: &csi::Volume, figures: &str| {
        let line = format!("csi_nfs_volume_size_bytes{{volume=\"{}\",figures=\"{figures}\"}} ", volume.volume_id);
        let value = metrics.lines().find_map(|l| l.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("{line} is not in:\n{metrics}")).parse::<f64>().unwrap() as i64
    };
    assert_eq!(size(&limited, "volume"), 4 * MIB);
    assert!(size(&unlimited, "export") > 1000 * MIB);
    assert_eq!(size(&foreign, "unknown"), 4 * MIB);
    mounts::clear(&driver.path("."));
}
