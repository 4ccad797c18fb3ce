//! Crashes, lost answers and other controllers at every operation, while volumes are restored from archives and while
//! archives are deleted, on an export in memory.

use crate::check::Finding;
use crate::error::Result;
use crate::nfs::source::Source;
use crate::snapshot::archive::tests::{archive, file, member};
use crate::snapshot::archive::{find_in, names};
use crate::snapshot::delete_snapshot::delete_snapshot;
use crate::snapshot::id::{ArchiveId, KnownId};
use crate::testing::crash_harness::{self, Connection, connect, settle};
use crate::testing::memory::{Crash, MemoryServer, Node};
use crate::volume::access::CapacityRange;
use crate::volume::create::Create;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::parameters::Attributes;
use crate::volume::record::Origin;

const CAPACITY: u64 = 10_000;

/// One call to a controller. The snapshot is `s`, of the volume `v`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    /// A volume made from the archive.
    Restore(&'static str),
    Delete(&'static str),
    DeleteSnapshot,
    List,
}

use Call::{Delete, DeleteSnapshot, List, Restore};

fn named(name: &str) -> VolumeName {
    VolumeName::parse("name", name).unwrap()
}

fn snapshot(export: &Source) -> ArchiveId {
    ArchiveId::new(export, named("s"), named("v")).unwrap()
}

async fn restore(export: &Connection, name: &str) -> Result<String> {
    let create = Create {
        name: named(name),
        sub_dir: None,
        capacity: CapacityRange::new(CAPACITY.cast_signed(), 0).unwrap(),
        asked: Attributes { gid: Some(7), ..Attributes::default() },
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: Some(Origin::Snapshot(snapshot(export.source()).to_string())),
        kubernetes: None,
    };
    crash_harness::create(export, create, false).await.map(|record| format!("{} {}", record.id, record.capacity))
}

impl crash_harness::Call for Call {
    async fn run(&self, export: &Connection) -> Result<String> {
        match self {
            Restore(name) => restore(export, name).await,
            Delete(name) => {
                let id = VolumeId::parse(&format!("nfs#export#{name}##")).unwrap();
                crash_harness::delete(export, &id).await
            }
            DeleteSnapshot => {
                let id = KnownId::Archive(snapshot(export.source()));
                delete_snapshot(&export.exports, &export.jobs, &id, None).await.map(|()| "gone".to_owned())
            }
            List => {
                let mut listed = Vec::new();
                for name in names(export).await? {
                    listed.extend(find_in(export, &name).await?.map(|found| found.id.to_string()));
                }
                Ok(format!("{listed:?}"))
            }
        }
    }

    async fn insist(&self, export: &Connection) -> Result<String> {
        crash_harness::until_done(self, export).await
    }

    async fn prepared(before: &[Self]) -> MemoryServer {
        let server = MemoryServer::new();
        server.plant("theirs/precious", Node::file(0o644, "kept")).unwrap();
        let members = [
            member(b'5', b"./", b"", b""),
            member(b'5', b"./d/", b"", b""),
            file("./d/a", "content"),
            member(b'1', b"./d/b", b"./d/a", b""),
            member(b'2', b"./l", b"d/a", b""),
            file("./empty", ""),
        ];
        server.plant("s/v.tar", Node::file(0o600, archive(&members))).unwrap();
        let export = connect(&server);
        for call in before {
            call.run(&export).await.unwrap();
        }
        settle(&export).await;
        server
    }

    fn allows(&self, finding: &Finding) -> bool {
        matches!(finding, Finding::DirectoryUnrecorded { directory } if directory == "theirs")
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_short_at_any_operation_is_finished_by_its_retry() {
    let scenarios = vec![
        (vec![], Restore("r")),
        (vec![], DeleteSnapshot),
        (vec![Restore("r")], DeleteSnapshot),
        (vec![Restore("r"), DeleteSnapshot], DeleteSnapshot),
        (vec![Restore("r"), DeleteSnapshot], Restore("r")),
        (vec![Restore("r")], Delete("r")),
        (vec![], List),
    ];
    let points = crash_harness::cut_short_and_retried(scenarios).await;
    assert!(points > 1000, "only {points} points were tried");
}

#[tokio::test(start_paused = true)]
async fn two_controllers_together_leave_what_one_could_have_left() {
    let scenarios: Vec<(Vec<Call>, [Vec<Call>; 2])> = vec![
        (vec![], [vec![Restore("r")], vec![Restore("r")]]),
        (vec![], [vec![Restore("r")], vec![DeleteSnapshot]]),
        (vec![], [vec![Restore("r")], vec![Restore("q"), DeleteSnapshot]]),
        (vec![], [vec![DeleteSnapshot], vec![DeleteSnapshot, List]]),
        (vec![], [vec![Restore("r"), Delete("r")], vec![Restore("r")]]),
    ];
    let agrees = async |server: &MemoryServer, what: &str| {
        assert_eq!(crash_harness::Call::faults(&List, &connect(server)).await, [], "{what}");
    };
    crash_harness::concurrent_controllers(scenarios, 1_000, agrees).await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_restore_is_never_repeated_is_whole_or_not_there() {
    let server = <Call as crash_harness::Call>::prepared(&[Restore("r")]).await;
    let whole = server.tree().below("r");
    for n in 0.. {
        for kept in [false, true] {
            let server = <Call as crash_harness::Call>::prepared(&[]).await;
            let export = connect(&server);
            export.fs().crash_at(n, Crash::AfterEffect);
            let _ = restore(&export, "r").await;
            if export.fs().operations() <= n {
                return;
            }
            server.power_loss(kept);
            settle(&connect(&server)).await;
            let tree = server.tree();
            assert!(!tree.has("r") || tree.below("r") == whole, "dies after {n}: {tree}");
            assert!(tree.has("s/v.tar") && tree.below(".csi-nfs/staging").0.is_empty());
        }
    }
}
