//! What a caller learns of a volume's limits from the agent's reports on the export.

use crate::error::Error;
use crate::export::fs::{Fs as _, SetAttr};
use crate::testing::crash_harness::{Call as _, Connection, connect};
use crate::testing::memory::{MemoryServer, Node};
use crate::testing::snapshot_crashes::named;
use crate::testing::volume_crashes::Call::{Create as Make, Decide, Delete, Expand};
use crate::testing::volume_crashes::create;
use crate::volume::health::of_limits;
use crate::volume::limits::{Limits, Overcommit, Quota};
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::quota::{Agent, Answer, Reports};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

const MIB: u64 = 1 << 20;

/// An agent on a file system whose limits hold clients that write as root, or do not.
fn plant_agent(server: &MemoryServer, holds_root: bool) {
    let (version, file_system) = ("1".to_owned(), if holds_root { "xfs" } else { "ext4" }.to_owned());
    let agent = Agent { version, file_system, holds_root, looked: 1, looks: 1, period: 60 };
    // The driver reads it as whoever it is to the server.
    server.plant(".csi-nfs/quota/agent.json", Node::file(0o644, serde_json::to_string(&agent).unwrap())).unwrap();
}

async fn make(on: &Connection, name: &str, bytes: u64, quota: Quota) -> Result<String, Error> {
    let attributes = Attributes { quota: Some(quota), ..Attributes::default() };
    create(on, name, None, bytes.cast_signed(), attributes).await
}

/// The reason of the condition that the limits of the volume `v` cause.
async fn condition(on: &Connection) -> Option<&'static str> {
    let record = Record::read(on, &named("v")).await.unwrap().unwrap();
    let reports = Reports::find(on).await.unwrap();
    of_limits(on, &reports, &named("v"), &record).await.unwrap().map(|condition| condition.reason)
}

#[tokio::test(start_paused = true)]
async fn only_a_required_limit_is_waited_for_and_only_if_the_volume_has_one() {
    let server = MemoryServer::new();
    let export = connect(&server);
    for quota in [Quota::Preferred, Quota::None] {
        make(&export, quota.as_str(), MIB, quota).await.unwrap();
    }
    assert!(matches!(make(&export, "r", MIB, Quota::Required).await, Err(Error::NoAgent { .. })));
    plant_agent(&server, true);
    assert!(matches!(make(&export, "r", MIB, Quota::Required).await, Err(Error::NoAgent { .. })));
    make(&export, "r", 0, Quota::Required).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_required_limit_is_refused_where_it_does_not_hold_root_unless_the_class_or_the_server_takes_care_of_root() {
    for (quota, root_squash, refused) in
        [(Quota::Required, false, true), (Quota::RequiredExceptRoot, false, false), (Quota::Required, true, false)]
    {
        let server = MemoryServer::new();
        let fs = server.client();
        fs.setattr(&fs.root(), SetAttr { mode: Some(0o777), ..SetAttr::default() }).await.unwrap();
        server.set_root_squash(root_squash);
        let export = connect(&server);
        export.make_layout().await.unwrap();
        plant_agent(&server, false);
        let answer = make(&export, "v", MIB, quota).await.unwrap_err();
        // This agent sets no limit, so a volume that is not refused at once is waited for in vain.
        let expected =
            if refused { matches!(answer, Error::Precondition(_)) } else { matches!(answer, Error::NoAgent { .. }) };
        assert!(expected, "{quota:?}, root is squashed: {root_squash}: {answer}");
        assert!(!server.tree().has("v"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_degraded_if_its_limit_is_not_in_force_or_if_little_of_it_is_left() {
    let server = MemoryServer::new();
    let export = connect(&server);
    make(&export, "v", MIB, Quota::Preferred).await.unwrap();
    assert_eq!(condition(&export).await, Some("QuotaNotEnforced"));
    plant_agent(&server, true);
    let limits = Limits { bytes: Some(MIB), inodes: None };
    let answer = Answer { project: 1, limits, since: 1, reason: None };
    let answer = serde_json::to_string(&answer).unwrap();
    server.plant(".csi-nfs/quota/volumes/v.json", Node::file(0o600, answer)).unwrap();
    assert_eq!(condition(&export).await, Some("QuotaNotEnforced"), "the server's figures do not agree");
    let root = export.fs().root();
    let (_, attr) = export.find(&root, &crate::export::fs::Name::new("v").unwrap()).await.unwrap().unwrap();
    export.fs().show_limit(attr.fileid, Some(MIB));
    assert_eq!(condition(&export).await, None);
    server.plant("v/data", Node::file(0o600, "x".repeat((MIB - MIB / 20).try_into().unwrap()))).unwrap();
    assert_eq!(condition(&export).await, Some("VolumeFull"));
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_limit_is_not_enforced_is_undone_but_a_directory_that_others_have_stays() {
    let required = Attributes { quota: Some(Quota::Required), ..Attributes::default() };
    let (shared, kept) = ("nfs#export#shared#b#", "nfs#export#kept#k#");
    let before = [Make("b", Some("shared")), Make("k", Some("kept")), Decide(kept, OnDelete::Retain), Delete(kept)];
    let server = MemoryServer::new();
    let export = connect(&server);
    for call in before {
        call.run(&export).await.unwrap();
    }
    plant_agent(&server, true);
    for (directory, stays) in [("shared", true), ("kept", true), ("new", false)] {
        let refused = create(&export, "v", Some(directory), 1000, required).await;
        assert!(matches!(refused, Err(Error::NoAgent { .. })), "{refused:?}");
        assert_eq!(server.tree().has(directory), stays, "{directory}");
    }
    Expand(shared, 5000).run(&export).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_a_class_with_a_bound_may_have_all_that_is_free_and_no_byte_more() {
    let server = MemoryServer::with_capacity(MIB, 1000);
    let export = connect(&server);
    let overcommit = Some(Overcommit::parse("overcommit", "1000").unwrap());
    let bounded = Attributes { overcommit, ..Attributes::default() };
    create(&export, "first", None, 1, bounded).await.unwrap();
    let free = export.stat().await.unwrap().available_bytes.cast_signed();
    let refused = create(&export, "more", None, free + 1, bounded).await;
    assert!(matches!(refused, Err(Error::Exhausted(_))), "{refused:?}");
    let free = export.stat().await.unwrap().available_bytes.cast_signed();
    create(&export, "all", None, free, bounded).await.unwrap();
}
