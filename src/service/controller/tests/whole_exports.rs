//! Volumes that are an export itself.

use super::*;

fn asked(parameters: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    let mut asked = request("a", "pvc-1");
    asked.capacity_range = Some(csi::CapacityRange { required_bytes: 5 << 30, limit_bytes: 0 });
    asked.parameters.insert("subDir".to_owned(), "/".to_owned());
    asked.parameters.extend(map(parameters));
    asked
}

#[tokio::test]
async fn an_export_itself_is_a_volume_for_which_nothing_is_made_and_nothing_deleted() {
    let lab = Lab::new("");
    lab.server("a").plant("media/film", Node::file(0o600, "theirs")).unwrap();
    let before = lab.server("a").tree();
    let id = "a#export##pvc-1#retain";
    for _ in 0..2 {
        let made = lab.controller.create_volume(Request::new(asked(&[("onDelete", "retain")]))).await.unwrap();
        let volume = made.into_inner().volume.unwrap();
        assert_eq!((volume.volume_id.as_str(), volume.capacity_bytes), (id, 5 << 30));
        let context = [("server", "a"), ("share", "/export"), ("mountPermissions", "0")];
        assert_eq!(volume.volume_context, map(&context));
    }
    let get = csi::ControllerGetVolumeRequest { volume_id: id.to_owned() };
    lab.controller.controller_get_volume(Request::new(get)).await.unwrap();
    let validate = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.to_owned(),
        volume_capabilities: vec![mount(Mode::MultiNodeMultiWriter, &[])],
        ..Default::default()
    };
    let validated = lab.controller.validate_volume_capabilities(Request::new(validate)).await.unwrap();
    assert!(validated.into_inner().confirmed.is_some());
    assert_eq!(lab.health(id).await.unwrap(), Vec::<String>::new());
    assert_eq!(lab.expand(id, 9 << 30).await.unwrap(), 9 << 30);
    assert_eq!(lab.snapshot(id, "s", &[]).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(lab.fill("a", "c", of_volume(id)).await.unwrap_err().code(), Code::NotFound);
    for id in [id, "a#export##pvc-1#delete", "a#export##pvc-1#", "a#export##pvc-1#archive"] {
        lab.delete(id).await.unwrap();
    }
    assert_eq!(lab.server("a").tree(), before);
    lab.servers.gone.store(true, Ordering::Relaxed);
    assert_eq!(lab.health(id).await.unwrap(), ["ServerUnreachable"]);
}

#[tokio::test]
async fn an_export_itself_is_no_volume_of_a_class_that_would_delete_or_change_it() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let before = lab.server("a").tree();
    let classes: [&[(&str, &str)]; 5] = [
        &[],
        &[("onDelete", "delete")],
        &[("onDelete", "archive")],
        &[("onDelete", "retain"), ("mountPermissions", "0777")],
        &[("onDelete", "retain"), ("quota", "required")],
    ];
    let copy = csi::CreateVolumeRequest { volume_content_source: of_volume(&v), ..asked(&[("onDelete", "retain")]) };
    for asked in classes.into_iter().map(asked).chain([copy]) {
        let refused = lab.controller.create_volume(Request::new(asked)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("`/` is the export itself"), "{refused}");
    }
    assert_eq!(lab.server("a").tree(), before);
}
