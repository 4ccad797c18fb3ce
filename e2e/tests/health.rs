//! The health of volumes and servers that the controller and the node report (CSI 1.13).

use std::fs;
use std::time::Duration;

use rstest::rstest;

use csi_nfs::service::proto::csi::VolumeHealthErrorType as Kind;

use crate::support::requests::{self, MIB};
use crate::support::wait::within;
use crate::support::{Code, Driver, Lab, Outage, Place, Share, csi, mounts};

/// The longest time that a call to a node may take, whatever the server does.
const NODE_LIMIT: Duration = Duration::from_secs(2);

type Health = Vec<(Kind, String)>;

fn health(health: Option<csi::VolumeHealth>, volume_id: &str) -> Health {
    let health = health.unwrap();
    assert_eq!(health.volume_id, volume_id);
    for entry in &health.health_statuses {
        assert!(entry.reason.chars().all(|c| c.is_ascii_alphanumeric()), "{entry:?}");
        assert!(entry.message.len() > 20, "{entry:?}");
    }
    health.health_statuses.into_iter().map(|entry| (entry.status(), entry.reason)).collect()
}

async fn of_controller(driver: &Driver, volume_id: &str) -> Health {
    let request = csi::ControllerGetVolumeHealthRequest { volume_id: volume_id.to_owned(), ..Default::default() };
    let answer = driver.controller().controller_get_volume_health(request).await.unwrap().into_inner();
    health(answer.volume_health, volume_id)
}

async fn of_node(driver: &Driver, volume_id: &str, pod: &str) -> Health {
    let request = csi::NodeGetVolumeHealthRequest {
        volume_id: volume_id.to_owned(),
        volume_publish_path: driver.target(pod).to_str().unwrap().to_owned(),
        ..Default::default()
    };
    let mut node = driver.node();
    let answer = within("NodeGetVolumeHealth", NODE_LIMIT, node.node_get_volume_health(request)).await;
    health(answer.unwrap().into_inner().volume_health, volume_id)
}

async fn of_storage(driver: &Driver) -> Vec<csi::node_get_storage_health_response::StorageBackendHealth> {
    let mut node = driver.node();
    let request = csi::NodeGetStorageHealthRequest::default();
    let answer = within("NodeGetStorageHealth", NODE_LIMIT, node.node_get_storage_health(request)).await;
    answer.unwrap().into_inner().backend_health
}

fn export(share: &Share) -> String {
    format!("--export={}:{}", share.server, share.share)
}

#[tokio::test]
async fn a_healthy_volume_has_nothing_to_say() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    driver.publish(&volume, &driver.target("pod")).await.unwrap();
    assert_eq!(of_controller(&driver, &volume.volume_id).await, []);
    assert_eq!(of_node(&driver, &volume.volume_id, "pod").await, []);
    assert_eq!(of_storage(&driver).await, []);
    let unknown = format!("127.0.0.1#{}#unknown##", &share.share[1..]);
    let request = csi::ControllerGetVolumeHealthRequest { volume_id: unknown, ..Default::default() };
    let status = driver.controller().controller_get_volume_health(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_directory_that_is_gone_is_lost_data_and_only_that_is_listed() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&[&export(&share)]).await;
    let mut lost = Vec::new();
    for n in 0..7 {
        let volume = driver.create(requests::create(&share, &format!("v{n}"))).await.unwrap();
        if n % 2 == 1 {
            fs::remove_dir(share.path.join(format!("v{n}"))).unwrap();
            assert_eq!(of_controller(&driver, &volume.volume_id).await, [(Kind::DataLoss, "DirectoryMissing".into())]);
            lost.push(volume.volume_id);
        }
    }
    let (mut seen, mut starting_token) = (Vec::new(), String::new());
    loop {
        let request = csi::ControllerListVolumeHealthRequest { max_entries: 2, starting_token, ..Default::default() };
        let answer = driver.controller().controller_list_volume_health(request).await.unwrap().into_inner();
        assert!(answer.entries.len() <= 2);
        seen.extend(answer.entries.into_iter().map(|entry| entry.volume_id));
        starting_token = answer.next_token;
        if starting_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, lost);
}

#[tokio::test]
async fn an_export_that_is_nearly_full_or_read_only_is_degraded() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Small);
    let driver = Driver::with(&[&export(&share)]).await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let ballast = share.path.join("v/ballast");
    fs::write(&ballast, vec![b'x'; 15 * MIB as usize + 900_000]).unwrap();
    let full = of_controller(&driver, &volume.volume_id).await;
    fs::remove_file(&ballast).unwrap();
    assert_eq!(full, [(Kind::Degraded, "ExportNearlyFull".into())]);
    assert_eq!(of_controller(&driver, &volume.volume_id).await, []);

    fs::create_dir(&ballast).unwrap();
    let files: Vec<_> = (0..1000).map(|n| ballast.join(n.to_string())).collect();
    let made = files.iter().take_while(|file| fs::write(file, "").is_ok()).count();
    let full = of_controller(&driver, &volume.volume_id).await;
    fs::remove_dir_all(&ballast).unwrap();
    assert!(made > 900, "{made}");
    assert_eq!(full, [(Kind::Degraded, "ExportInodesNearlyUsedUp".into())]);

    driver.publish(&volume, &driver.target("pod")).await.unwrap();
    {
        let _read_only = lab.with_small_read_only();
        assert_eq!(of_controller(&driver, &volume.volume_id).await, [(Kind::Degraded, "ExportReadOnly".into())]);
        assert_eq!(of_node(&driver, &volume.volume_id, "pod").await, [(Kind::Degraded, "ReadOnlyOnServer".into())]);
        let request = csi::ControllerListVolumeHealthRequest::default();
        let listed = driver.controller().controller_list_volume_health(request).await.unwrap().into_inner().entries;
        assert_eq!(listed.len(), 1);
    }
    assert_eq!(of_controller(&driver, &volume.volume_id).await, []);
    assert_eq!(of_node(&driver, &volume.volume_id, "pod").await, []);
}

#[tokio::test]
async fn a_mount_that_is_missing_or_another_ones_or_stale_is_told_of() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let other = driver.create(requests::create(&share, "w")).await.unwrap();
    for pod in ["missing", "wrong", "stale"] {
        driver.publish(&volume, &driver.target(pod)).await.unwrap();
    }
    driver.publish(&other, &driver.target("other")).await.unwrap();
    mounts::clear(&driver.target("missing"));
    rustix::mount::mount_bind(driver.target("other"), driver.target("wrong")).unwrap();
    let reason = async |pod: &str| {
        let health = of_node(&driver, &volume.volume_id, pod).await;
        assert!(health.iter().all(|(kind, _)| *kind == Kind::Inaccessible), "{health:?}");
        health.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>()
    };
    assert_eq!(reason("missing").await, ["MountMissing"]);
    assert_eq!(reason("wrong").await, ["WrongVolumeMounted"]);
    fs::remove_dir(share.path.join("v")).unwrap();
    assert_eq!(reason("stale").await, ["StaleFileHandle"]);
}

#[rstest]
#[tokio::test]
async fn a_server_that_is_gone_makes_its_volumes_inaccessible_and_no_others(
    #[values(Outage::Stopped, Outage::Frozen, Outage::CutOff)] outage: Outage,
) {
    let lab = Lab::alone().await;
    let (gone, steady) = (lab.share(Place::Ganesha), lab.share(Place::Xfs));
    let driver = Driver::start().await;
    let lost = driver.create(requests::create(&gone, "v")).await.unwrap();
    let well = driver.create(requests::create(&steady, "v")).await.unwrap();
    driver.publish(&lost, &driver.target("lost")).await.unwrap();
    driver.publish(&well, &driver.target("well")).await.unwrap();
    {
        let _away = lab.without_ganesha(outage);
        let from_controller =
            within("ControllerGetVolumeHealth", Duration::from_secs(6), of_controller(&driver, &lost.volume_id)).await;
        assert_eq!(from_controller, [(Kind::Inaccessible, "ServerUnreachable".into())]);
        assert_eq!(of_node(&driver, &lost.volume_id, "lost").await, [(Kind::Inaccessible, "ServerUnreachable".into())]);
        let [backend] = &of_storage(&driver).await[..] else { panic!("one server is gone") };
        assert_eq!(backend.status(), csi::StorageHealthErrorType::StorageUnreachable);
        assert!(backend.message.contains(&gone.server) && !backend.message.contains(&steady.server), "{backend:?}");
        assert_eq!(of_controller(&driver, &well.volume_id).await, []);
        assert_eq!(of_node(&driver, &well.volume_id, "well").await, []);
    }
    crate::support::wait::until_async("health after the outage", Duration::from_secs(30), async || {
        of_node(&driver, &lost.volume_id, "lost").await.is_empty() && of_storage(&driver).await.is_empty()
    })
    .await;
    driver.unpublish(&lost.volume_id, &driver.target("lost")).await.unwrap();
}
