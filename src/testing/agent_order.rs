//! The order in which the agent works, on an export in memory: what a call waits for comes first, and what fails or
//! takes long holds up nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::agent::queue::AGAIN;
use crate::agent::reconciler::{Reconciler, Step};
use crate::agent::watch::Change;
use crate::export::{DEPTH, Export};
use crate::snapshot::record::Record as SnapshotRecord;
use crate::testing::agent_crashes::{MemoryProjects, Table, agent, assert_agreement};
use crate::testing::crash_harness::reach;
use crate::testing::create as default_create;
use crate::testing::memory::{MemoryFs, MemoryServer, Node};
use crate::volume::create;
use crate::volume::id::VolumeName;
use crate::volume::lock::lock;
use crate::volume::quota;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

async fn create(server: &MemoryServer, name: &str) {
    let export = reach(server);
    let create = default_create::volume(name, 8192);
    let lock = lock(&export, &create.id(&export).unwrap()).await.unwrap();
    create::create(&export, &create, quota::patience(), &lock).await.unwrap();
}

fn named(name: &str) -> VolumeName {
    VolumeName::parse("name", name).unwrap()
}

fn changed(name: &str) -> Change {
    Change::Names(BTreeSet::from([Record::file(&named(name)).unwrap()]))
}

/// Whether the limits of a volume are in force, as the agent says.
async fn is_limited(export: &Export<MemoryFs>, name: &str) -> bool {
    quota::answer(export, &named(name)).await.unwrap().is_some_and(|answer| answer.reason.is_none())
}

struct Bench {
    server: MemoryServer,
    export: Export<MemoryFs>,
    table: Table,
    /// The connection of the agent.
    fs: MemoryFs,
    agent: Reconciler<MemoryFs, MemoryProjects>,
}

impl Bench {
    async fn new(server: MemoryServer) -> Self {
        let (export, table) = (reach(&server), Table::default());
        let of_agent = reach(&server);
        let fs = of_agent.fs().clone();
        let projects = MemoryProjects { fs: fs.clone(), table: table.clone() };
        let agent = Reconciler::open(of_agent, projects, 100..=9999, Arc::default()).await.unwrap().unwrap();
        Self { server, export, table, fs, agent }
    }

    /// Takes steps until the volume has its limits. Returns how many operations that took.
    async fn until_limited(&mut self, name: &str) -> u64 {
        let before = self.fs.operations();
        while !is_limited(&self.export, name).await {
            assert_eq!(self.agent.step().await, Step::Worked, "{name} has no limits");
        }
        self.fs.operations() - before
    }

    /// The operations that a new volume takes while there is nothing else to do.
    async fn usual(&mut self) -> u64 {
        create(&self.server, "usual").await;
        self.agent.records_changed(&changed("usual"));
        self.until_limited("usual").await
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_volume_does_not_wait_for_a_walk() {
    let server = MemoryServer::new();
    for name in ["big", "huge"] {
        create(&server, name).await;
        (0..3000).for_each(|n| server.plant(format!("{name}/{}/{n}", n % 7), Node::file(0o600, "x")).unwrap());
    }
    let mut bench = Bench::new(server).await;
    while quota::answer(&bench.export, &named("huge")).await.unwrap().is_none() {
        assert_eq!(bench.agent.step().await, Step::Worked);
    }
    create(&bench.server, "new").await;
    bench.agent.records_changed(&changed("new"));
    let beside = bench.until_limited("new").await;
    assert!(!is_limited(&bench.export, "big").await && !is_limited(&bench.export, "huge").await);
    let answer = quota::answer(&bench.export, &named("huge")).await.unwrap().unwrap();
    assert_eq!(answer.reason.as_deref(), Some("what is in the directory is being counted first"));
    let progress = bench.agent.progress();
    assert_eq!((progress.volumes_behind, progress.walks), (1, 1), "the look has not come to `big`");
    // Both walks end, and neither waits for the other.
    bench.until_limited("big").await;
    bench.until_limited("huge").await;
    assert!(bench.agent.run_until_idle().await);
    assert_agreement(&bench.server, &bench.table, "after the walks").await;
    let progress = bench.agent.progress();
    assert_eq!((progress.volumes_behind, progress.walks), (0, 0));
    let usual = bench.usual().await;
    assert!(beside <= 2 * usual, "{beside} operations beside walks, {usual} without");
}

#[tokio::test(start_paused = true)]
async fn walks_and_looks_say_how_far_they_are() {
    let server = MemoryServer::new();
    create(&server, "big").await;
    (0..3000).for_each(|n| server.plant(format!("big/{}/{n}", n % 7), Node::file(0o600, "x")).unwrap());
    let mut bench = Bench::new(server).await;
    while bench.agent.progress().walks == 0 {
        assert_eq!(bench.agent.step().await, Step::Worked);
    }
    let mut passed = 0;
    while !is_limited(&bench.export, "big").await {
        let told = bench.agent.under_way();
        let walk = told.iter().find(|(what, _)| what == "counting what is in volume `big`").unwrap();
        assert!((passed..=3007).contains(&walk.1.done.entries), "{told:?}");
        passed = walk.1.done.entries;
        assert_eq!(bench.agent.progress().walked, passed);
        assert_eq!(bench.agent.step().await, Step::Worked);
    }
    assert!(passed > 2900, "{passed}");
    assert!(bench.agent.run_until_idle().await);
    assert_eq!(bench.agent.under_way(), []);
    bench.agent.records_changed(&Change::Unknown);
    while bench.agent.progress().look.is_none() {
        assert_eq!(bench.agent.step().await, Step::Worked);
    }
    let look = bench.agent.progress().look.unwrap();
    assert_eq!((look.done.entries, look.expected), (0, Some(1)), "the first look found one record and no answer");
    assert_eq!(bench.agent.under_way(), [("looking at all volumes".to_owned(), look)]);
}

#[tokio::test(start_paused = true)]
async fn a_new_volume_does_not_wait_for_a_look_at_all_volumes_nor_for_the_first_one() {
    let server = MemoryServer::new();
    for n in 0..300 {
        create(&server, &format!("v{n}")).await;
    }
    let mut bench = Bench::new(server.clone()).await;
    bench.agent.run_until_idle().await;
    let table = bench.table.clone();
    for begins in ["the first look", "a later look"] {
        if begins == "the first look" {
            let fs = bench.fs.clone();
            let projects = MemoryProjects { fs, table: table.clone() };
            bench.agent =
                Reconciler::open(reach(&server), projects, 100..=9999, Arc::default()).await.unwrap().unwrap();
        } else {
            bench.agent.records_changed(&Change::Unknown);
        }
        for n in 0..20 {
            assert_eq!(bench.agent.step().await, Step::Worked);
            let name = format!("{}-{n}", &begins.replace(' ', "-"));
            create(&server, &name).await;
            bench.agent.records_changed(&changed(&name));
            let beside = bench.until_limited(&name).await;
            assert!(beside < 60, "{beside} operations during {begins}");
        }
        assert!(bench.agent.run_until_idle().await);
        assert_agreement(&server, &table, begins).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_fails_is_tried_again_alone() {
    let server = MemoryServer::new();
    for n in 0..50 {
        create(&server, &format!("v{n}")).await;
    }
    // A record that a newer driver may have written.
    server.plant(".csi-nfs/volumes/bad.json", Node::file(0o600, r#"{"version": 9999}"#)).unwrap();
    let mut bench = Bench::new(server).await;
    assert!(!bench.agent.run_until_idle().await);
    let told = quota::agent(&bench.export).await.unwrap().unwrap();
    let progress = bench.agent.progress();
    assert_eq!((told.looks, progress.looked, progress.volumes_behind), (1, told.looked, 1));
    assert!(progress.answered > 0);
    for _ in 0..4 {
        tokio::time::sleep(AGAIN.0 * 20).await;
        let before = bench.fs.operations();
        bench.agent.run_until_idle().await;
        let took = bench.fs.operations() - before;
        assert!((1..=4).contains(&took), "{took} operations for one volume");
    }
    bench.server.remove(".csi-nfs/volumes/bad.json").unwrap();
    tokio::time::sleep(AGAIN.1 * 2).await;
    assert!(bench.agent.run_until_idle().await);
    assert_eq!(bench.agent.progress().volumes_behind, 0);
}

/// A path of so many directories below `root`.
fn deep(root: &str, levels: usize) -> String {
    format!("{root}{}", "/d".repeat(levels))
}

#[tokio::test(start_paused = true)]
async fn a_tree_as_deep_as_copies_go_is_counted_and_a_deeper_one_is_named() {
    let server = MemoryServer::with_capacity(1 << 40, 10_000_000);
    create(&server, "deep").await;
    server.plant(deep("deep", DEPTH - 1), Node::directory(0o755)).unwrap();
    server.plant(".csi-nfs/snapshots/s.tree/f", Node::file(0o600, "x")).unwrap();
    server.plant(format!("{}/f", deep(".csi-nfs/snapshots/s.tree", 5000)), Node::file(0o600, "x")).unwrap();
    let (table, (_, looked)) = (Table::default(), agent(&server, &Table::default(), None).await);
    assert_eq!(looked, Ok(true));
    assert_eq!(agent(&server, &table, None).await.1, Ok(true));
    assert_agreement(&server, &table, "deep").await;
    assert_eq!(SnapshotRecord::names(&reach(&server)).await.unwrap(), []);
    assert!(quota::snapshots(&reach(&server)).await.unwrap().unwrap().inodes > 5000);
    create(&server, "deeper").await;
    server.plant(deep("deeper", DEPTH), Node::directory(0o755)).unwrap();
    assert_eq!(agent(&server, &table, None).await.1, Ok(false));
    let answer = quota::answer(&reach(&server), &named("deeper")).await.unwrap().unwrap();
    assert!(answer.reason.unwrap().contains("name too long"));
}
