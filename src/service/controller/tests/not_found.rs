//! Calls that fail because what they name is not there leave nothing on the export.

use super::*;
use crate::service::proto::csi::group_controller_server::GroupController as Groups;

/// The answer of a call that names something that does not exist.
async fn call(lab: &Lab, call: usize) -> Result<(), Status> {
    let volume_id = "a#export#keep/inner##".to_owned();
    let range = Some(csi::CapacityRange { required_bytes: 1000, limit_bytes: 0 });
    let controller = &lab.controller;
    match call {
        0 => lab.snapshot("a#export#keep##", "s", &[]).await.map(drop),
        1 => lab.snapshot("a/export/keep/inner", "s", &[]).await.map(drop),
        2 => lab.snapshot("b#export#keep##", "s", &[("server", "a"), ("share", "/export")]).await.map(drop),
        3 => lab.fill("a", "v", of_volume("a#export#keep##")).await.map(drop),
        4 => lab.fill("a", "v", of_snapshot("a#export#s###snapshot")).await.map(drop),
        5 => lab.fill("a", "v", of_snapshot("a#export#s#s#keep")).await.map(drop),
        6 => {
            let volume_id = "a#export#keep##".to_owned();
            let request = csi::ControllerExpandVolumeRequest { volume_id, capacity_range: range, ..Default::default() };
            Rpc::controller_expand_volume(controller, Request::new(request)).await.map(drop)
        }
        7 => {
            let volume_id = "a#export#keep##".to_owned();
            let mutable_parameters = map(&[("mountPermissions", "0700")]);
            let request = csi::ControllerModifyVolumeRequest { volume_id, mutable_parameters, ..Default::default() };
            Rpc::controller_modify_volume(controller, Request::new(request)).await.map(drop)
        }
        8 => lab.health("a#export#keep##").await.map(drop),
        9 => lab.delete(&volume_id).await,
        10 => {
            let request =
                csi::DeleteSnapshotRequest { snapshot_id: "a#export#s###snapshot".to_owned(), ..Default::default() };
            Rpc::delete_snapshot(controller, Request::new(request)).await.map(drop)
        }
        11 => {
            let request =
                csi::DeleteSnapshotRequest { snapshot_id: "a#export#s#s#keep".to_owned(), ..Default::default() };
            Rpc::delete_snapshot(controller, Request::new(request)).await.map(drop)
        }
        12 => {
            let source_volume_ids = vec!["a#export#keep##".to_owned(), "a#export#kept##".to_owned()];
            let request =
                csi::CreateVolumeGroupSnapshotRequest { name: "g".into(), source_volume_ids, ..Default::default() };
            Groups::create_volume_group_snapshot(controller, Request::new(request)).await.map(drop)
        }
        _ => {
            let group_snapshot_id = "a#export#g###group".to_owned();
            let request = csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id, ..Default::default() };
            Groups::delete_volume_group_snapshot(controller, Request::new(request)).await.map(drop)
        }
    }
}

#[rstest::rstest]
#[tokio::test(start_paused = true)]
async fn a_call_that_names_what_is_not_there_leaves_nothing(#[values(false, true)] as_file: bool) {
    let mut left = Vec::new();
    for number in 0..14 {
        let lab = Lab::new("");
        // Not the directory of a volume, but something of that name.
        if as_file {
            lab.server("a").plant("keep", Node::file(0o600, "theirs")).unwrap();
        }
        let before = lab.server("a").tree();
        let answer = call(&lab, number).await.map_err(|status| status.code());
        let deletion = [9, 10, 11, 13].contains(&number);
        if as_file && deletion {
            continue;
        }
        if !as_file {
            assert_eq!(answer, if deletion { Ok(()) } else { Err(Code::NotFound) }, "call {number}");
        }
        if lab.server("a").tree() != before {
            left.push(number);
        }
    }
    assert_eq!(left, [0; 0]);
}
