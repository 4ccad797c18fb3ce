//! Which findings are repaired, which are left alone, and which no longer hold.

use super::*;
use crate::check::check;
use crate::export::fs::{Kind, Name};
use crate::snapshot::group_record::{GroupRecord, Member};
use crate::snapshot::id::{GroupId, SnapshotId};
use crate::snapshot::record::{Record as SnapshotRecord, State};
use crate::testing::crash_harness::reach;
use crate::testing::memory::{MemoryFs, MemoryServer, Node};
use crate::volume::id::VolumeId;
use crate::volume::quota;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn named(text: &str) -> VolumeName {
    VolumeName::parse("", text).unwrap()
}

/// Checks that a repair does nothing after a controller made `change` since the check.
async fn repaired_after(
    server: &MemoryServer,
    found: fn(&Finding) -> bool,
    change: impl AsyncFn(&Export<MemoryFs>),
) -> Export<MemoryFs> {
    let export = reach(server);
    let findings = check(&export).await.unwrap();
    assert!(findings.iter().any(found), "{findings:?}");
    change(&reach(server)).await;
    let before = server.tree();
    repair(&export, &findings).await.unwrap();
    assert_eq!(server.tree(), before, "{findings:?}");
    export
}

async fn write(export: &Export<MemoryFs>, id: &str) {
    let id = VolumeId::parse(id).unwrap();
    claims::claim(export, &id, None).await.unwrap();
    Record::unrecorded(&id).write(export).await.unwrap();
}

#[tokio::test]
async fn leftovers_are_repaired_and_possible_data_stays() {
    let export = reach(&MemoryServer::new());
    let (fs, layout) = (export.fs(), export.make_layout().await.unwrap());
    claims::claim(&export, &VolumeId::parse("nfs#export#team/data#gone#").unwrap(), None).await.unwrap();
    fs.mkdir(&layout.staging, &name("half"), 0o700).await.unwrap();
    fs.mkdir(&layout.trash, &name("old"), 0o700).await.unwrap();
    fs.mkdir(&fs.root(), &name("kept"), 0o700).await.unwrap();
    fs.write_file(&layout.volumes, &name("torn.json"), 0o600, b"{".to_vec()).await.unwrap();
    let found = check(&export).await.unwrap();
    assert_eq!(found.len(), 5, "{found:?}");
    repair(&export, &found).await.unwrap();
    let left = check(&export).await.unwrap();
    assert!(
        matches!(&left[..], [
            Finding::RecordUnreadable { .. },
            Finding::DirectoryUnrecorded { directory }
        ] if directory == "kept"),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_snapshot_that_was_created_again_after_the_check_stays() {
    let server = MemoryServer::new();
    let write = async |export: &Export<MemoryFs>, state| {
        let record = SnapshotRecord {
            id: SnapshotId::new(export.source(), named("s")),
            source: "nfs#export#v##".to_owned(),
            size: 0,
            created: 0,
            mount_options: Vec::new(),
            group: None,
            state,
            generation: None,
        };
        record.write(export).await.unwrap();
    };
    write(&reach(&server), State::Deleted).await;
    server.plant(".csi-nfs/snapshots/s.tree/data", Node::file(0o600, "new")).unwrap();
    let unused = |finding: &Finding| matches!(finding, Finding::SnapshotUnused { .. });
    let export = repaired_after(&server, unused, async |export| write(export, State::Ready).await).await;
    // If it is still deleted, it is removed.
    write(&export, State::Deleted).await;
    let findings = check(&export).await.unwrap();
    repair(&export, &findings).await.unwrap();
    assert!(!server.tree().has(".csi-nfs/snapshots/s.tree"));
}

#[tokio::test]
async fn a_group_that_was_created_again_after_the_check_stays() {
    let server = MemoryServer::new();
    let write = async |export: &Export<MemoryFs>, state| {
        let group = GroupRecord {
            id: GroupId { export: export.source().clone(), name: named("g") },
            members: vec![Member { snapshot: named("g-0"), source: "nfs#export#v##".to_owned(), size: 0 }],
            mount_options: Vec::new(),
            state,
            created: 0,
            generation: None,
        };
        group.write(export).await.unwrap();
        let member = SnapshotRecord {
            id: group.snapshot_id(&group.members[0]),
            source: "nfs#export#v##".to_owned(),
            size: 0,
            created: 0,
            mount_options: Vec::new(),
            group: Some(named("g")),
            state: State::Ready,
            generation: None,
        };
        member.write(export).await.unwrap();
    };
    write(&reach(&server), State::Deleted).await;
    server.plant(".csi-nfs/snapshots/g-0.tree/data", Node::file(0o600, "new")).unwrap();
    let deleted = |finding: &Finding| matches!(finding, Finding::GroupDeleted { .. });
    repaired_after(&server, deleted, async |export| write(export, State::Ready).await).await;
}

#[tokio::test]
async fn an_owner_is_left_alone_if_its_volume_was_created_or_deleted_after_the_check() {
    let id = "nfs#export#team/data#v#";
    let (server, volume) = (MemoryServer::new(), VolumeId::parse(id).unwrap());
    server.plant("team/data", Node::directory(0o755)).unwrap();
    claims::claim(&reach(&server), &volume, None).await.unwrap();
    let stale = |finding: &Finding| matches!(finding, Finding::OwnerStale { .. });
    let export = repaired_after(&server, stale, async |export| write(export, id).await).await;
    claims::release(&export, &volume, None).await.unwrap();
    let missing = |finding: &Finding| matches!(finding, Finding::OwnerMissing { .. });
    repaired_after(&server, missing, async |export| {
        let layout = export.make_layout().await.unwrap();
        export.fs().unlink(&layout.volumes, &name("v.json")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_kept_record_stays_if_its_directory_exists_again() {
    let server = MemoryServer::new();
    let kept = format!(".csi-nfs/paths/media/#/{}", claims::kept_file(&named("v")).unwrap());
    let record = Record::unrecorded(&VolumeId::parse("nfs#export#media#v#").unwrap()).encode().unwrap();
    reach(&server).make_layout().await.unwrap();
    server.plant(&kept, Node::file(0o600, record)).unwrap();
    let stale = |finding: &Finding| matches!(finding, Finding::KeptStale { .. });
    let change = async |_: &Export<MemoryFs>| server.plant("media/data", Node::file(0o600, "kept")).unwrap();
    let export = repaired_after(&server, stale, change).await;
    assert!(matches!(&check(&export).await.unwrap()[..], [Finding::VolumeKept { .. }]));
    // If the directory does not exist, the record is removed.
    let (fs, media) = (export.fs(), name("media"));
    let (dir, _) = fs.lookup(&fs.root(), &media).await.unwrap();
    fs.unlink(&dir, &name("data")).await.unwrap();
    fs.rmdir(&fs.root(), &media).await.unwrap();
    let findings = check(&export).await.unwrap();
    repair(&export, &findings).await.unwrap();
    assert_eq!(check(&export).await.unwrap(), []);
    assert!(!server.tree().has(kept));
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_left_to_the_agent() {
    let server = MemoryServer::new();
    reach(&server).make_layout().await.unwrap();
    let answer = quota::Answer { project: 100, limits: Default::default(), since: 0, reason: None };
    let answer = serde_json::to_vec(&answer).unwrap();
    server.plant(".csi-nfs/quota/volumes/v.json", Node::file(0o644, answer)).unwrap();
    let left = |finding: &Finding| matches!(finding, Finding::LimitLeft { .. });
    repaired_after(&server, left, async |export| write(export, "nfs#export#v##").await).await;
}

#[tokio::test]
async fn a_staging_entry_stays_as_long_as_its_lock_is_held() {
    let server = MemoryServer::new();
    let export = reach(&server);
    let layout = export.make_layout().await.unwrap();
    export.fs().mkdir(&layout.staging, &name("v"), 0o700).await.unwrap();
    let findings = check(&export).await.unwrap();
    assert_eq!(findings, [Finding::StagingLeftover { entry: "v".to_owned() }]);
    let other = reach(&server);
    let lock = other.lock(&["v"]).await.unwrap();
    repair(&export, &findings).await.unwrap();
    assert_eq!(server.tree().get(".csi-nfs/staging/v").unwrap().kind, Kind::Directory);
    drop(lock);
}
