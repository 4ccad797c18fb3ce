//! Sizes that nothing enforces refuse nothing.

use super::*;

const GIB: i64 = 1 << 30;

fn sized(name: &str, bytes: i64, parameters: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    let mut asked = request("a", name);
    asked.capacity_range = Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 });
    asked.parameters.extend(map(parameters));
    asked
}

impl Lab {
    pub(super) async fn expand(&self, volume_id: &str, bytes: i64) -> Result<i64, Status> {
        let expand = csi::ControllerExpandVolumeRequest {
            volume_id: volume_id.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            ..Default::default()
        };
        let grown = self.controller.controller_expand_volume(Request::new(expand)).await?.into_inner();
        Ok(grown.capacity_bytes)
    }

    async fn capacity(&self, parameters: &[(&str, &str)]) -> (i64, Option<i64>) {
        let parameters = sized("", 0, parameters).parameters;
        let asked = csi::GetCapacityRequest { parameters, ..Default::default() };
        let told = self.controller.get_capacity(Request::new(asked)).await.unwrap().into_inner();
        (told.available_capacity, told.maximum_volume_size)
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_beyond_the_free_space_is_refused_only_where_its_class_has_overcommit() {
    let lab = Lab::new("");
    lab.server("a").set_capacity(GIB as u64 / 10, 1_000_000);
    let bounded = [("overcommit", "1000")];
    let refused = lab.controller.create_volume(Request::new(sized("w", GIB, &bounded))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let made = lab.controller.create_volume(Request::new(sized("v", GIB, &[]))).await.unwrap().into_inner();
    let volume = made.volume.unwrap();
    assert_eq!(volume.capacity_bytes, GIB);
    let copy = csi::CreateVolumeRequest { volume_content_source: of_volume(&volume.volume_id), ..sized("c", GIB, &[]) };
    lab.controller.create_volume(Request::new(copy)).await.unwrap();
    assert_eq!(lab.expand(&volume.volume_id, 2 * GIB).await.unwrap(), 2 * GIB);
    lab.server("a").plant("theirs/file", Node::file(0o600, "data")).unwrap();
    assert_eq!(lab.expand("a#export#theirs##", 3 * GIB).await.unwrap(), 3 * GIB);
}

#[tokio::test]
async fn the_capacity_is_what_is_free_and_a_maximum_is_returned_only_where_something_limits_it() {
    let lab = Lab::new("");
    lab.server("a").set_capacity(GIB as u64, 1_000_000);
    lab.server("a").plant("file", Node::file(0o600, "x".repeat(1000))).unwrap();
    let before = lab.server("a").tree();
    let (free, largest) = lab.capacity(&[]).await;
    assert!(free < GIB && free > GIB - 10_000, "{free}");
    assert_eq!(largest, None);
    assert_eq!(lab.server("a").tree(), before, "GetCapacity writes nothing");
    assert_eq!(lab.capacity(&[("overcommit", "0.5")]).await, (free, Some(GIB / 2)));
    assert_eq!(lab.capacity(&[("overcommit", "2")]).await, (free, Some(free)));
}

#[tokio::test]
async fn the_size_of_a_static_volume_with_a_handle_of_its_own_is_nominal() {
    let lab = Lab::new("");
    lab.server("a").plant("theirs/file", Node::file(0o600, "data")).unwrap();
    let before = lab.server("a").tree();
    let handles =
        ["media", "pv-media#1", "nfs/srv/myshare/service1", "a/export/theirs", "a#export#theirs", "a/export##"];
    for handle in handles {
        assert_eq!(lab.expand(handle, GIB).await.unwrap(), GIB, "{handle}");
    }
    assert_eq!(lab.server("a").tree(), before, "nothing is made");
    assert_eq!(lab.expand("", GIB).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(lab.expand("a#export#gone##", GIB).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_snapshot_of_a_volume_without_a_size_has_the_size_of_what_was_copied() {
    let lab = Lab::new("");
    for (name, bytes) in [("v", 1000), ("w", 500)] {
        lab.server("a").plant(format!("{name}/file"), Node::file(0o600, "x".repeat(bytes))).unwrap();
        lab.server("a").plant(format!("{name}/sub/file"), Node::file(0o600, "x".repeat(23))).unwrap();
    }
    assert_eq!(lab.snapshot("a#export#v##", "s", &[]).await.unwrap().size_bytes, 1023);
    let made = lab.controller.create_volume(Request::new(sized("x", GIB, &[]))).await.unwrap().into_inner();
    let volumes = ["a#export#v##".to_owned(), made.volume.unwrap().volume_id, "a#export#w##".to_owned()];
    let group = lab.group("g", &volumes.each_ref().map(String::as_str), &[]).await.unwrap();
    let mut sizes: Vec<i64> = group.snapshots.iter().map(|snapshot| snapshot.size_bytes).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [523, 1023, GIB]);
    for snapshot in &group.snapshots {
        assert_eq!(lab.get_snapshot(&snapshot.snapshot_id).await.unwrap().size_bytes, snapshot.size_bytes);
    }
}
