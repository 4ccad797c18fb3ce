//! Groups of snapshots.

use super::*;
use crate::service::proto::csi::group_controller_server::GroupController as _;

impl Lab {
    pub(super) async fn group(
        &self,
        name: &str,
        volumes: &[&str],
        parameters: &[(&str, &str)],
    ) -> Result<csi::VolumeGroupSnapshot, Status> {
        let request = csi::CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: volumes.iter().map(|&volume| volume.to_owned()).collect(),
            parameters: map(parameters),
            ..Default::default()
        };
        let answer = self.controller.create_volume_group_snapshot(Request::new(request)).await?;
        Ok(answer.into_inner().group_snapshot.unwrap())
    }

    pub(super) async fn get_group(
        &self,
        id: &str,
        snapshot_ids: &[String],
    ) -> Result<csi::VolumeGroupSnapshot, Status> {
        let (group_snapshot_id, snapshot_ids) = (id.to_owned(), snapshot_ids.to_vec());
        let request = csi::GetVolumeGroupSnapshotRequest { group_snapshot_id, snapshot_ids, ..Default::default() };
        let answer = self.controller.get_volume_group_snapshot(Request::new(request)).await?;
        Ok(answer.into_inner().group_snapshot.unwrap())
    }

    pub(super) async fn delete_group(&self, id: &str, snapshot_ids: &[String]) -> Result<(), Status> {
        let (group_snapshot_id, snapshot_ids) = (id.to_owned(), snapshot_ids.to_vec());
        let request = csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id, snapshot_ids, ..Default::default() };
        self.controller.delete_volume_group_snapshot(Request::new(request)).await.map(drop)
    }

    pub(super) async fn get_snapshot(&self, id: &str) -> Result<csi::Snapshot, Status> {
        let request = csi::GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        Ok(Rpc::get_snapshot(&self.controller, Request::new(request)).await?.into_inner().snapshot.unwrap())
    }

    /// Two volumes with a file each.
    async fn pair(&self) -> [String; 2] {
        let pair = [self.create("a", "v", &[]).await.unwrap(), self.create("a", "w", &[]).await.unwrap()];
        for name in ["v", "w"] {
            self.server("a").plant(format!("{name}/file"), Node::file(0o600, name)).unwrap();
        }
        pair
    }
}

fn ids(group: &csi::VolumeGroupSnapshot) -> Vec<String> {
    group.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect()
}

#[tokio::test]
async fn a_group_is_created_idempotently_listed_restored_and_deleted_as_one() {
    let mut lab = Lab::new("");
    let [v, w] = lab.pair().await;
    let group = lab.group("g", &[&w, &v], &[]).await.unwrap();
    assert_eq!((group.group_snapshot_id.as_str(), group.ready_to_use), ("a#export#g###group", true));
    let members = ids(&group);
    assert_eq!(members, ["a#export#g-0###snapshot", "a#export#g-1###snapshot"]);
    assert_eq!(group.snapshots[1].source_volume_id, w);
    lab.restart();
    assert_eq!(lab.group("g", &[&v, &w], &[]).await.unwrap(), group, "in another order");
    assert_eq!(lab.get_group(&group.group_snapshot_id, &members).await.unwrap(), group);
    assert_eq!(lab.snapshots("").await, members);
    for snapshot in &group.snapshots {
        assert_eq!(lab.get_snapshot(&snapshot.snapshot_id).await.unwrap(), *snapshot);
        assert_eq!(snapshot.group_snapshot_id, group.group_snapshot_id);
    }
    lab.fill("b", "r", of_snapshot(&members[1])).await.unwrap();
    assert_eq!(lab.server("b").tree().get("r/file").unwrap().text(), "w");

    let request = csi::DeleteSnapshotRequest { snapshot_id: members[0].clone(), ..Default::default() };
    let status = Rpc::delete_snapshot(&lab.controller, Request::new(request.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for wrong in [&members[..1], &[]] {
        let status = lab.delete_group(&group.group_snapshot_id, wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(lab.get_group(&group.group_snapshot_id, wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    lab.delete_group(&group.group_snapshot_id, &members).await.unwrap();
    lab.delete_group(&group.group_snapshot_id, &members).await.unwrap();
    assert_eq!(lab.snapshots("").await, Vec::<String>::new());
    assert_eq!(lab.get_group(&group.group_snapshot_id, &members).await.unwrap_err().code(), Code::NotFound);
    Rpc::delete_snapshot(&lab.controller, Request::new(request)).await.unwrap();
    let left = lab.server("a").tree().paths();
    assert!(!left.iter().any(|path| path.contains("/g")), "{left:?}");
}

#[tokio::test]
async fn an_invalid_group_is_an_error_and_leaves_nothing() {
    let lab = Lab::new("");
    let [v, w] = lab.pair().await;
    lab.snapshot(&w, "taken-1", &[]).await.unwrap();
    lab.group("g", &[&v, &w], &[]).await.unwrap();
    let before = lab.server("a").tree().paths();
    let other = lab.create("b", "x", &[]).await.unwrap();
    for (name, volumes, code) in [
        ("", &[v.as_str()][..], Code::InvalidArgument),
        ("h", &[], Code::InvalidArgument),
        ("h", &[&v, &v], Code::InvalidArgument),
        ("h", &[&v, ""], Code::InvalidArgument),
        ("h", &[&v, "nonsense"], Code::NotFound),
        ("h", &[&v, "a#export#gone##"], Code::NotFound),
        ("h", &[&v, &other], Code::FailedPrecondition),
        ("g", &[&v], Code::AlreadyExists),
        ("taken", &[&v, &w], Code::AlreadyExists),
    ] {
        let status = lab.group(name, volumes, &[]).await.unwrap_err();
        assert_eq!(status.code(), code, "{name} {volumes:?}: {status}");
    }
    assert_eq!(lab.snapshot(&v, "g-0", &[]).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(lab.group("h", &[&v], &[("compression", "x")]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(lab.server("a").tree().paths(), before);
    for id in ["nonsense", "a#export#h###group", "a#export#g-0###snapshot"] {
        lab.delete_group(id, &[]).await.unwrap();
        assert_eq!(lab.get_group(id, &[]).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(lab.delete_group("", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(lab.get_group("", &[]).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn volumes_of_several_exports_form_a_group_if_the_class_names_an_export() {
    let lab = Lab::new("");
    let [v, _] = lab.pair().await;
    let x = lab.create("b", "x", &[]).await.unwrap();
    let group = lab.group("g", &[&v, &x], &[("server", "b")]).await.unwrap();
    assert_eq!(ids(&group), ["b#export#g-0###snapshot", "b#export#g-1###snapshot"]);
    assert_eq!(lab.server("b").tree().get(".csi-nfs/snapshots/g-0.tree/file").unwrap().text(), "v");
}

#[tokio::test]
async fn an_error_names_the_failed_member_and_no_member_stays() {
    let lab = Lab::new("");
    let [v, w] = lab.pair().await;
    lab.server("a").plant("w/large", Node::file(0o600, "x".repeat(100_000))).unwrap();
    lab.server("a").set_clone_supported(false);
    lab.group("g", &[&v], &[]).await.unwrap();
    let before = lab.server("a").tree().paths();
    lab.server("a").set_capacity(150_000, 1_000_000);
    // The copy of the second member fills the export. The driver can still delete what it has written.
    let status = lab.group("h", &[&v, &w], &[]).await.unwrap_err();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("#w#"), "{status}");
    lab.server("a").set_capacity(1 << 40, 1_000_000);
    let cleared = async {
        while lab.server("a").tree().paths() != before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let left = tokio::time::timeout(std::time::Duration::from_secs(20), cleared).await;
    assert!(left.is_ok(), "{:?}", lab.server("a").tree().paths());
    assert!(lab.group("h", &[&v, &w], &[]).await.unwrap().ready_to_use);
}

#[tokio::test]
async fn a_group_that_a_crash_left_pending_is_deleted_if_a_volume_of_it_is_gone() {
    let mut lab = Lab::new("");
    let [v, w] = lab.pair().await;
    let export = Arc::new(Export::new(export_of("a"), lab.server("a").client(), Arc::default()));
    let trees = ["v", "w"].map(|name| crate::snapshot::tree::Tree {
        export: export.clone(),
        path: vec![crate::export::fs::Name::new(name).unwrap()],
        of: crate::snapshot::tree::Of::Volume(VolumeId::parse(&format!("a#export#{name}##")).unwrap()),
        size: 0,
        generation: None,
    });
    let create = crate::snapshot::group::Create {
        name: VolumeName::parse("", "g").unwrap(),
        sources: vec![v.clone(), w.clone()],
    };
    crate::snapshot::group::begin(&export, &create, &trees, Vec::new()).await.unwrap();
    lab.restart();
    let id = "a#export#g###group";
    let members = ["a#export#g-0###snapshot".to_owned(), "a#export#g-1###snapshot".to_owned()];
    assert!(!lab.get_group(id, &members).await.unwrap().ready_to_use);
    assert!(!lab.get_snapshot(&members[0]).await.unwrap().ready_to_use);
    assert_eq!(lab.snapshots(&v).await, Vec::<String>::new(), "none of it is listed");
    lab.delete(&w).await.unwrap();
    let status = lab.group("g", &[&v, &w], &[]).await.unwrap_err();
    assert!(status.code() == Code::NotFound && status.message().contains("#w#"), "{status}");
    assert_eq!(lab.get_group(id, &members).await.unwrap_err().code(), Code::NotFound);
    assert!(lab.group("g", &[&v], &[]).await.unwrap().ready_to_use);
}

#[tokio::test]
async fn groups_that_are_taken_at_the_same_time_have_copies_of_their_own() {
    let lab = Lab::new("");
    let [v, w] = lab.pair().await;
    let (one, other) = ([v.as_str()], [w.as_str()]);
    let (of_v, of_w) = tokio::join!(lab.group("g", &one, &[]), lab.group("h", &other, &[]));
    for (group, source) in [(of_v.unwrap(), &v), (of_w.unwrap(), &w)] {
        assert!(group.ready_to_use && group.snapshots.iter().all(|member| member.source_volume_id == *source));
    }
}
