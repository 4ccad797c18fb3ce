//! A volume that is filled in a directory that other volumes may share. The driver never mistakes another directory for
//! the volume's own, and the volume never replaces another directory.

use std::pin::Pin;

use crate::check::check;
use crate::error::{Error, Result};
use crate::testing::crash_harness::{Call as _, connect, delete, raced, races, settle};
use crate::testing::memory::{Crash, MemoryServer, Node, race};
use crate::testing::snapshot_crashes::Call::{self, CloneShared, DeleteShared, Make, MakeShared};
use crate::testing::snapshot_crashes::named;
use crate::testing::volume_crashes::create;
use crate::volume::id::VolumeId;
use crate::volume::parameters::Attributes;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// Servers on which a controller died while it cloned the volume `v` into `a`, one for each operation at which the
/// crash leaves `a` pending.
async fn pending() -> Vec<MemoryServer> {
    let prepared = Call::prepared(&[Make("v")]).await;
    let mut servers = Vec::new();
    for n in 0.. {
        let server = prepared.copy();
        let export = connect(&server);
        export.fs().crash_at(n, Crash::BeforeEffect);
        let _ = CloneShared("a", "v").run(&export).await;
        if export.fs().operations() <= n {
            break;
        }
        let record = Record::read(&connect(&server), &named("a")).await.unwrap();
        if record.is_some_and(|record| record.pending) {
            settle(&connect(&server)).await;
            servers.push(server);
        }
    }
    assert!(servers.len() > 20, "only {} moments", servers.len());
    servers
}

#[tokio::test]
async fn no_volume_is_made_in_a_directory_that_another_one_is_being_filled_in() {
    for (moment, server) in pending().await.into_iter().enumerate() {
        let export = connect(&server);
        for other in [MakeShared("b"), CloneShared("b", "v")] {
            let refused = other.run(&export).await.unwrap_err();
            assert!(
                matches!(refused, Error::Conflict { .. }) && refused.to_string().contains("being filled"),
                "{refused}"
            );
        }
        CloneShared("a", "v").run(&export).await.unwrap();
        assert_eq!(server.tree().get("media/sub/data").unwrap().text(), "content", "{moment}");
        MakeShared("b").run(&export).await.unwrap();
        assert_eq!(check(&export).await.unwrap().len(), 1, "only what others made");
    }
}

#[tokio::test]
async fn a_directory_that_appeared_in_a_pending_volumes_place_is_never_called_that_volume() {
    for (moment, server) in pending().await.into_iter().enumerate() {
        for content in [false, true] {
            let server = server.copy();
            if server.tree().has("media") {
                continue;
            }
            let planted = if content { "media/precious" } else { "media" };
            let node = if content { Node::file(0o600, "theirs") } else { Node::directory(0o755) };
            server.plant(planted, node).unwrap();
            let before = server.tree().below("media");
            let export = connect(&server);
            let first = CloneShared("a", "v").run(&export).await;
            assert!(matches!(first, Err(Error::Conflict { .. })), "{moment}: {first:?}");
            assert_eq!(server.tree().below("media"), before, "{moment}");
            // The retry starts over. It replaces an empty directory, and nothing else.
            let again = CloneShared("a", "v").run(&export).await;
            assert_eq!(again.is_ok(), !content, "{moment}: {again:?}");
            assert_eq!(server.tree().has("media/sub/data"), !content, "{moment}");
            assert_eq!(server.tree().has("media/precious"), content, "{moment}");
        }
    }
}

#[tokio::test]
async fn a_pending_volume_that_is_deleted_takes_only_a_directory_that_is_its_own() {
    for (moment, server) in pending().await.into_iter().enumerate() {
        let own = server.tree().has("media");
        if !own {
            server.plant("media/precious", Node::file(0o600, "theirs")).unwrap();
        }
        let export = connect(&server);
        DeleteShared("a").run(&export).await.unwrap();
        assert!(Record::read(&export, &named("a")).await.unwrap().is_none());
        assert_eq!(server.tree().has("media"), !own, "{moment}");
        assert_eq!(server.tree().has("media/precious"), !own, "{moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_controllers_one_fills_and_one_shares_and_neither_loses_its_directory() {
    let prepared = Call::prepared(&[Make("v")]).await;
    for seed in 0..races(300) {
        let calls = [vec![CloneShared("a", "v")], vec![MakeShared("b")]];
        let (outcome, server) = raced(prepared.copy(), &calls, seed).await;
        let answers = &outcome.0;
        let whole = server.tree().get("media/sub/data").is_some();
        match (answers[0].as_str(), answers[1].as_str()) {
            // `a` was filled before `b` shared its directory, or `b` was refused while `a` was filled.
            (_, "nfs#export#media#b#" | "AlreadyExists") if whole => {
                assert!(answers[0].starts_with("nfs#"), "{outcome:?}")
            }
            ("AlreadyExists", "nfs#export#media#b#") => assert!(server.tree().has("media"), "{outcome:?}"),
            _ => panic!("seed {seed}: {outcome:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_directory_above_goes_with_its_last_volume_also_beside_a_repeated_deletion_of_another() {
    let [a, b] = ["team/a#a", "team/b#b"].map(|id| VolumeId::parse(&format!("nfs#export#{id}#")).unwrap());
    for seed in 0..200 {
        let server = MemoryServer::new();
        let export = connect(&server);
        for (name, sub_dir) in [("a", "team/a"), ("b", "team/b")] {
            create(&export, name, Some(sub_dir), 0, Attributes::default()).await.unwrap();
        }
        delete(&export, &b).await.unwrap();
        export.fs().interleave_by(seed);
        let mut deletions: Vec<Pin<Box<dyn Future<Output = Result<String>> + Send + '_>>> = Vec::new();
        for volume in [&a, &b] {
            deletions.push(Box::pin(delete(&export, volume)));
        }
        for deleted in race(seed, deletions).await {
            deleted.unwrap();
        }
        assert!(!server.tree().has("team"), "seed {seed}");
        assert!(server.tree().below(".csi-nfs/paths").paths().is_empty(), "seed {seed}");
    }
}
