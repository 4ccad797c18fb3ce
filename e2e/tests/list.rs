//! Lists, single volumes and the capacity of an export.

use std::collections::BTreeSet;

use crate::support::requests::{self, MIB};
use crate::support::{Code, Driver, Lab, Place, Share, csi};

fn export(share: &Share) -> String {
    format!("--export={}:{}", share.server, share.share)
}

async fn page(driver: &Driver, max_entries: i32, starting_token: &str) -> (Vec<String>, String) {
    let request = csi::ListVolumesRequest { max_entries, starting_token: starting_token.to_owned() };
    let answer = driver.controller().list_volumes(request).await.unwrap().into_inner();
    (answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect(), answer.next_token)
}

#[tokio::test]
async fn a_list_covers_the_exports_of_the_flag_page_by_page_and_over_a_restart() {
    let lab = Lab::enter().await;
    let (one, two) = (lab.share(Place::Xfs), lab.share(Place::Tmpfs));
    let maker = Driver::start().await;
    let mut made = BTreeSet::new();
    for n in 0..5 {
        for share in [&one, &two] {
            made.insert(maker.create(requests::create(share, &format!("v{n}"))).await.unwrap().volume_id);
        }
    }
    drop(maker);
    let mut driver = Driver::with(&[&export(&one), &export(&two)]).await;
    assert_eq!(page(&driver, 0, "").await.0.len(), 10);
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let (ids, next) = page(&driver, 3, &token).await;
        assert!(ids.len() <= 3 && !ids.is_empty());
        seen.extend(ids);
        if next.is_empty() {
            break;
        }
        token = next;
        driver.kill();
        driver.start_again().await;
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
}

#[tokio::test]
async fn a_token_of_nobody_is_aborted_and_a_negative_size_refused() {
    let _lab = Lab::enter().await;
    let driver = Driver::start().await;
    for token in ["x", "invalid-token", "\0", "../..", "%2e%2e"] {
        let request = csi::ListVolumesRequest { max_entries: 1, starting_token: token.to_owned() };
        assert_eq!(driver.controller().list_volumes(request).await.unwrap_err().code(), Code::Aborted, "{token:?}");
        let request = csi::ControllerListVolumeHealthRequest { starting_token: token.to_owned(), ..Default::default() };
        let status = driver.controller().controller_list_volume_health(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted, "{token:?}");
    }
    let request = csi::ListVolumesRequest { max_entries: -1, ..Default::default() };
    assert_eq!(driver.controller().list_volumes(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_list_holds_what_was_made_and_not_what_was_deleted() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let kept = driver.create(requests::create(&share, "kept")).await.unwrap();
    let deleted = driver.create(requests::create(&share, "deleted")).await.unwrap();
    let retained = driver.create(requests::create_with(&share, "retained", "onDelete", "retain")).await.unwrap();
    driver.delete(&deleted.volume_id).await.unwrap();
    driver.delete(&retained.volume_id).await.unwrap();
    driver.expand(&kept.volume_id, 3 * MIB).await.unwrap();
    let answer = driver.controller().list_volumes(csi::ListVolumesRequest::default()).await.unwrap().into_inner();
    let [entry] = &answer.entries[..] else { panic!("{answer:?}") };
    let volume = entry.volume.clone().unwrap();
    assert_eq!(volume, csi::Volume { capacity_bytes: 3 * MIB, ..kept.clone() });

    let get = |volume_id: &str| {
        let request = csi::ControllerGetVolumeRequest { volume_id: volume_id.to_owned() };
        let mut controller = driver.controller();
        async move { controller.controller_get_volume(request).await.map(|answer| answer.into_inner().volume.unwrap()) }
    };
    assert_eq!(get(&kept.volume_id).await.unwrap(), volume);
    assert_eq!(get(&deleted.volume_id).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_capacity_is_that_of_the_export_that_the_parameters_name() {
    let lab = Lab::enter().await;
    let (small, large) = (lab.share(Place::Small), lab.share(Place::Xfs));
    let driver = Driver::start().await;
    let capacity = |share: &Share, capability| {
        let request = csi::GetCapacityRequest {
            parameters: requests::create(share, "").parameters,
            volume_capabilities: vec![capability],
            ..Default::default()
        };
        let mut controller = driver.controller();
        async move { controller.get_capacity(request).await.unwrap().into_inner().available_capacity }
    };
    let available = capacity(&small, requests::shared()).await;
    assert!((MIB..=16 * MIB).contains(&available), "{available}");
    assert!(capacity(&large, requests::shared()).await > 1024 * MIB);
    assert_eq!(capacity(&large, requests::block()).await, 0);
}
