//! When a volume is deleted, the last decision about its directory counts. That holds however often and in whatever
//! order calls are repeated, on any controller, and after any change of the driver's default policy.

use crate::check::{Finding, check};
use crate::error::Error;
use crate::testing::crash_harness::{Call as _, Connection, connect, settle};
use crate::testing::memory::{MemoryServer, Node};
use crate::testing::volume_crashes::Call::{self, Create as Make, Decide, Delete, Write};
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::id::VolumeId;
use crate::volume::lock::lock;
use crate::volume::on_delete::OnDelete;

const V: &str = "nfs#export#media#v#";
const W: &str = "nfs#export#media#w#";

fn make(name: &'static str) -> Call {
    Make(name, Some("media"))
}

/// The server after these calls, each on a controller of its own.
async fn after(calls: &[Call]) -> MemoryServer {
    let server = MemoryServer::new();
    for call in calls {
        let export = connect(&server);
        call.run(&export).await.unwrap_or_else(|error| panic!("{call:?} of {calls:?}: {error}"));
        settle(&export).await;
    }
    server
}

async fn delete(export: &Connection, id: &VolumeId, policy: DeletePolicy) {
    let lock = lock(export, id).await.unwrap();
    let found = delete::find(export, id, &lock).await.unwrap();
    delete::delete(export, id, policy, found, &lock).await.unwrap();
}

async fn has(path: &str, calls: &[Call]) -> bool {
    after(calls).await.tree().has(path)
}

#[tokio::test]
async fn a_directory_that_the_record_keeps_stays_however_often_its_volume_is_deleted() {
    let kept = [make("v"), Write("media"), Decide(V, OnDelete::Retain), Delete(V)];
    for again in [V, "nfs#export#media#v#delete", "nfs#export#media#v#archive", W, "nfs#export#media##"] {
        let calls = [&kept[..], &[Delete(again), Delete(V)]].concat();
        assert!(has("media/data", &calls).await, "{calls:?}");
    }
    // The ID says `retain`, and the record says something else.
    let retain = "nfs#export#media#v#retain";
    let gone = [make("v"), Write("media"), Decide(retain, OnDelete::Delete), Delete(retain), Delete(retain)];
    assert!(!has("media", &gone).await);
    let archived = [make("v"), Write("media"), Decide(retain, OnDelete::Archive), Delete(retain), Delete(V)];
    assert!(has("archived-media/data", &archived).await);
}

#[tokio::test]
async fn the_drivers_default_is_no_reason_to_delete_what_was_kept_and_none_to_keep_what_was_deleted() {
    let server = after(&[Write("v"), Delete("nfs#export#v##retain")]).await;
    let export = connect(&server);
    let id = VolumeId::parse("nfs#export#v##").unwrap();
    for default in [OnDelete::Delete, OnDelete::Archive, OnDelete::Retain] {
        let policy = DeletePolicy { default, replace_archive: true };
        delete(&export, &id, policy).await;
        assert!(server.tree().has("v/data"), "{default:?}");
    }
}

#[tokio::test]
async fn a_kept_directory_does_not_go_with_one_above_it_nor_what_is_in_it_by_a_late_call() {
    let kept = [Make("v", Some("media/v")), Write("media/v"), Decide("nfs#export#media/v#v#", OnDelete::Retain)];
    let kept = [&kept[..], &[Delete("nfs#export#media/v#v#")]].concat();
    for outer in ["nfs#export#media##", "nfs#export#media#w#archive"] {
        assert!(has("media/v/data", &[&kept[..], &[Delete(outer), Delete(outer)]].concat()).await, "{outer}");
    }
    let outer = [make("w"), Decide(W, OnDelete::Delete), Delete(W)];
    assert!(has("media/v/data", &[&kept[..], &outer].concat()).await);
    assert!(
        has("media/v/sub/data", &[&kept[..], &[Write("media/v/sub"), Delete("nfs#export#media/v/sub#x#")]].concat())
            .await
    );
}

#[tokio::test]
async fn a_late_change_of_a_deleted_volume_is_not_found_and_undoes_nothing() {
    let server = after(&[make("v"), Write("media"), Decide(V, OnDelete::Retain), Delete(V)]).await;
    let export = connect(&server);
    for call in [Decide(V, OnDelete::Delete), Call::Expand(V, 5000)] {
        let error = call.run(&export).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { .. }) && error.to_string().contains("was kept"), "{error}");
    }
    assert_eq!(Call::List.run(&export).await.unwrap(), "[]");
    Delete(V).run(&export).await.unwrap();
    assert!(server.tree().has("media/data"));
    let found = check(&export).await.unwrap();
    assert_eq!(found, [Finding::VolumeKept { volume: "v".to_owned(), directory: "media".to_owned() }]);
}

#[tokio::test]
async fn a_late_change_by_the_id_of_an_earlier_volume_is_not_found_where_the_name_has_another_directory() {
    let server = after(&[Write("media"), Make("v", Some("other"))]).await;
    let export = connect(&server);
    for call in [Decide(V, OnDelete::Retain), Call::Expand(V, 5000)] {
        assert!(matches!(call.run(&export).await, Err(Error::NotFound { .. })), "{call:?}");
    }
    Decide("nfs#export#other#v#", OnDelete::Delete).run(&export).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_was_there_with_content_goes_only_where_that_is_said_in_so_many_words() {
    let adopted = [Write("media"), make("v")];
    assert!(has("media/data", &[&adopted[..], &[Delete(V), Delete(V)]].concat()).await);
    assert!(!has("media", &[&adopted[..], &[Decide(V, OnDelete::Delete), Delete(V)]].concat()).await);
    assert!(has("archived-media/data", &[&adopted[..], &[Decide(V, OnDelete::Archive), Delete(V)]].concat()).await);
    // A volume that is created in the directory later adopts it, too, even after all earlier volumes were deleted.
    for last in [vec![Delete(V)], vec![make("w"), Delete(V), Delete(W)], vec![make("w"), Delete(W), Delete(V)]] {
        let calls = [&adopted[..], &last, &[make("x"), Delete("nfs#export#media#x#")]].concat();
        assert!(has("media/data", &calls).await, "{calls:?}");
    }
    // A directory is not adopted if the first volume found it empty and only the driver's volumes wrote into it.
    assert!(!has("media", &[make("v"), Write("media"), make("w"), Delete(V), Delete(W)]).await);
}

#[tokio::test]
async fn a_volume_that_shares_a_kept_directory_removes_it_only_where_that_is_said_in_so_many_words() {
    let shared = [make("v"), make("w"), Write("media"), Decide(V, OnDelete::Retain), Delete(V)];
    assert!(has("media/data", &[&shared[..], &[Delete(W), Delete(V), Delete(W)]].concat()).await);
    let server = after(&[&shared[..], &[Decide(W, OnDelete::Delete), Delete(W)]].concat()).await;
    assert_eq!(check(&connect(&server)).await.unwrap(), [], "no record of the kept directory stays");
    assert!(!server.tree().has("media"));
}

#[tokio::test]
async fn a_kept_record_goes_when_its_directory_is_gone() {
    let kept = [make("v"), Decide(V, OnDelete::Retain), Delete(V)];
    // An administrator removes the directory.
    let remove = async |server: &MemoryServer| {
        let fs = server.client();
        let media = crate::export::fs::Name::new("media").unwrap();
        crate::export::fs::Fs::rmdir(&fs, &crate::export::fs::Fs::root(&fs), &media).await.unwrap();
    };
    let (gone_before, gone_after) = (after(&kept[..2]).await, after(&kept).await);
    for (server, next) in
        [(&gone_before, Delete(V)), (&gone_after, Delete(V)), (&gone_after, make("v")), (&gone_after, make("w"))]
    {
        let server = server.copy();
        remove(&server).await;
        let export = connect(&server);
        next.run(&export).await.unwrap();
        assert_eq!(check(&export).await.unwrap(), [], "{next:?}");
        assert!(!server.tree().to_string().contains("adopted"), "{next:?}");
    }
}

#[tokio::test]
async fn an_empty_directory_never_replaces_an_archive_that_has_content() {
    let policy = DeletePolicy { default: OnDelete::Archive, replace_archive: true };
    let id = VolumeId::parse(V).unwrap();
    let archive = async |server: &MemoryServer| {
        let export = connect(server);
        delete(&export, &id, policy).await;
        assert!(!server.tree().has("media"));
    };
    let server = after(&[make("v"), Write("media")]).await;
    archive(&server).await;
    // CreateVolume and DeleteVolume arrive once more, late.
    make("v").run(&connect(&server)).await.unwrap();
    archive(&server).await;
    assert_eq!(server.tree().get("archived-media/data").unwrap().text(), "media");
    assert_eq!(check(&connect(&server)).await.unwrap().len(), 0);
    // A directory with content replaces the archive. An empty one would replace only an empty archive.
    make("v").run(&connect(&server)).await.unwrap();
    server.plant("media/other", Node::file(0o600, "later")).unwrap();
    archive(&server).await;
    assert_eq!(server.tree().below("archived-media").paths(), ["other"]);
}

#[tokio::test]
async fn a_file_in_an_archives_place_gives_way_to_content_but_not_to_an_empty_directory() {
    let server = after(&[make("v")]).await;
    server.plant("archived-media", Node::file(0o600, "theirs")).unwrap();
    let policy = DeletePolicy { default: OnDelete::Archive, replace_archive: true };
    let id = VolumeId::parse(V).unwrap();
    let export = connect(&server);
    delete(&export, &id, policy).await;
    assert!(!server.tree().has("media"));
    assert_eq!(server.tree().get("archived-media").unwrap().text(), "theirs");
    make("v").run(&export).await.unwrap();
    server.plant("media/data", Node::file(0o600, "later")).unwrap();
    delete(&export, &id, policy).await;
    assert_eq!(server.tree().get("archived-media/data").unwrap().text(), "later");
}

#[tokio::test]
async fn an_archive_stays_beside_a_later_one_unless_the_driver_replaces_archives() {
    let archived = [make("v"), Write("media"), Decide(V, OnDelete::Archive), Delete(V)];
    let tree = after(&[&archived[..], &archived[..]].concat()).await.tree();
    assert!(tree.has("archived-media/data") && tree.has("archived-media-1/data"), "{:?}", tree.paths());
}

#[tokio::test]
async fn a_kept_record_goes_when_its_volume_is_created_again() {
    let server = after(&[make("v"), Write("media"), Decide(V, OnDelete::Retain), Delete(V), make("v")]).await;
    assert_eq!(check(&connect(&server)).await.unwrap(), []);
}

#[tokio::test]
async fn a_directory_is_not_kept_because_of_one_beside_that_was_kept_and_is_gone() {
    let kept = "nfs#export#media/a/b#v#";
    let calls = [Make("v", Some("media/a/b")), Decide(kept, OnDelete::Retain), Delete(kept), Write("media/a")];
    let server = after(&calls).await;
    server.remove("media/a/b").unwrap();
    Delete("nfs#export#media#w#delete").run(&connect(&server)).await.unwrap();
    assert!(!server.tree().has("media"));
}

#[tokio::test]
async fn a_volume_adopts_a_directory_that_any_of_its_volumes_has_adopted() {
    const A: &str = "nfs#export#media#a#";
    // `a` has not adopted the directory. The second `v` has, because the directory was kept.
    let mixed = [make("a"), make("v"), Write("media"), Decide(V, OnDelete::Retain), Delete(V), make("v")];
    let others_gone = [make("y"), Decide(V, OnDelete::Delete), Delete(V), Delete(A)];
    assert!(has("media/data", &[&mixed[..], &others_gone, &[Delete("nfs#export#media#y#")]].concat()).await);
}
