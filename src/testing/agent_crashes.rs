//! Crashes of the agent at every operation, and the agent beside controllers, on an export in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::agent::projects::{FileSystem, Project, Projects};
use crate::agent::queue::AGAIN;
use crate::agent::reconciler::Reconciler;
use crate::agent::snapshots::KEPT;
use crate::agent::watch::Change;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsResult, Kind};
use crate::nfs::source::SubDir;
use crate::snapshot::record::Record as SnapshotRecord;
use crate::testing::crash_harness::reach;
use crate::testing::create as default_create;
use crate::testing::memory::{Crash, MemoryFs, MemoryHandle, MemoryServer, Node, race};
use crate::volume::access::CapacityRange;
use crate::volume::change;
use crate::volume::create::{self, Create};
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::limits::{Limits, Quota};
use crate::volume::lock::lock;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::quota::{self, Snapshots};
use crate::volume::record::{Record, snapshot_tree};
use crate::volume::record_file::RecordFile as _;

/// Project quotas in memory. They outlive the agents that set them.
#[derive(Clone, Default)]
pub(super) struct Table(Arc<Mutex<Quotas>>);

#[derive(Default)]
struct Quotas {
    of: HashMap<u64, (u32, bool)>,
    limits: BTreeMap<u32, Limits>,
}

/// One agent's access to the quotas. Each call counts as an operation of its connection, so the agent can die in it.
pub(super) struct MemoryProjects {
    pub(super) fs: MemoryFs,
    pub(super) table: Table,
}

impl Projects<MemoryFs> for MemoryProjects {
    fn kind(&self) -> FileSystem {
        FileSystem::Xfs
    }

    async fn of(&self, object: &MemoryHandle) -> FsResult<(u32, bool)> {
        let fileid = self.fs.getattr(object).await?.fileid;
        Ok(self.table.0.lock().unwrap().of.get(&fileid).copied().unwrap_or_default())
    }

    async fn assign(&self, object: &MemoryHandle, kind: Kind, project: u32) -> FsResult<()> {
        let fileid = self.fs.getattr(object).await?.fileid;
        let mut quotas = self.table.0.lock().unwrap();
        quotas.of.insert(fileid, (project, kind == Kind::Directory));
        self.fs.show_limit(fileid, quotas.limits.get(&project).and_then(|limits| limits.bytes));
        Ok(())
    }

    async fn disinherit(&self, directory: &MemoryHandle) -> FsResult<()> {
        let fileid = self.fs.getattr(directory).await?.fileid;
        if let Some((_, inherits)) = self.table.0.lock().unwrap().of.get_mut(&fileid) {
            *inherits = false;
        }
        Ok(())
    }

    async fn get(&self, project: u32) -> FsResult<Project> {
        self.fs.getattr(&self.fs.root()).await?;
        let quotas = self.table.0.lock().unwrap();
        let limits = quotas.limits.get(&project).copied().unwrap_or_default();
        let inodes = quotas.of.values().filter(|(id, _)| *id == project).count() as u64;
        Ok(Project { limits, bytes: 0, inodes })
    }

    async fn limit(&self, project: u32, limits: Limits) -> FsResult<()> {
        self.fs.getattr(&self.fs.root()).await?;
        let limits = limits.rounded();
        let mut quotas = self.table.0.lock().unwrap();
        if limits.any() {
            quotas.limits.insert(project, limits)
        } else {
            quotas.limits.remove(&project)
        };
        for (fileid, _) in quotas.of.iter().filter(|(_, (of, _))| *of == project) {
            self.fs.show_limit(*fileid, limits.bytes);
        }
        Ok(())
    }
}

/// Starts an agent and runs one pass. Returns the agent's connection and the result of the pass. The result is an
/// error if the agent died while it opened the export.
pub(super) async fn agent(server: &MemoryServer, table: &Table, dies_at: Option<u64>) -> (MemoryFs, Result<bool>) {
    let export = reach(server);
    let fs = export.fs().clone();
    if let Some(n) = dies_at {
        fs.crash_at(n, if n % 2 == 0 { Crash::BeforeEffect } else { Crash::AfterEffect });
    }
    let projects = MemoryProjects { fs: fs.clone(), table: table.clone() };
    let looked = match Reconciler::open(export, projects, 100..=200, Arc::default()).await {
        Ok(Some(mut reconciler)) => Ok(reconciler.run_until_idle().await),
        Ok(None) => Ok(true),
        Err(error) => Err(error),
    };
    (fs, looked)
}

async fn create(export: &Export<MemoryFs>, name: &str, bytes: i64) -> Result<Record> {
    let create = default_create::volume(name, bytes);
    let lock = lock(export, &create.id(export)?).await?;
    create::create(export, &create, quota::patience(), &lock).await
}

async fn remove(export: &Export<MemoryFs>, name: &str) -> Result<()> {
    let id = VolumeId::parse(&format!("nfs#export#{name}##")).unwrap();
    let policy = DeletePolicy { default: OnDelete::Delete, replace_archive: false };
    let lock = lock(export, &id).await?;
    let found = delete::find(export, &id, &lock).await?;
    delete::delete(export, &id, policy, found, &lock).await.map(drop)
}

async fn expand(export: &Export<MemoryFs>, name: &str, bytes: i64) -> Result<u64> {
    let id = VolumeId::parse(&format!("nfs#export#{name}##")).unwrap();
    let lock = lock(export, &id).await?;
    change::expand(export, &id, CapacityRange::new(bytes, 0).unwrap(), quota::patience(), &lock).await
}

/// Asserts that every recorded volume has its limit and that nothing else has a limit. Each volume has a project ID of
/// its own, and its directory and everything in it have this ID. If volumes share a directory, one of them has the
/// limit. All snapshots share one ID without a limit.
pub(super) async fn assert_agreement(server: &MemoryServer, table: &Table, what: &str) {
    let export = reach(server);
    let mut limits = BTreeMap::new();
    let (mut limited, mut sharing) = (BTreeSet::new(), BTreeSet::new());
    for name in Record::names(&export).await.unwrap() {
        let record = Record::read(&export, &name).await.unwrap().unwrap();
        let answer = quota::answer(&export, &name).await.unwrap();
        let wanted = record.limits();
        if !wanted.any() {
            assert_eq!(answer, None, "{what}: {name}");
            continue;
        }
        let answer = answer.unwrap_or_else(|| panic!("{what}: {name} unanswered"));
        if answer.reason.is_some() {
            assert_eq!((answer.limits, answer.project), (Limits::default(), 0), "{what}: {name}");
            sharing.insert(record.id.sub_dir);
            continue;
        }
        assert_eq!(answer.limits, wanted, "{what}: {name}");
        assert!(limits.insert(answer.project, wanted.rounded()).is_none(), "{what}: an ID is given twice");
        let root = export.find_dir(&export.fs().root(), record.id.sub_dir.names()).await.unwrap().unwrap();
        assert_project(&export, root, table, answer.project, what).await;
        assert!(limited.insert(record.id.sub_dir), "{what}: {name} has the second limit of its directory");
    }
    assert!(sharing.is_subset(&limited), "{what}: {sharing:?} have no limit");
    let snapshots = quota::snapshots(&export).await.unwrap();
    if let Some(Snapshots { project, .. }) = snapshots {
        assert!(limits.insert(project, KEPT).is_none(), "{what}: snapshots have a volume's ID");
    }
    assert_eq!(table.0.lock().unwrap().limits, limits, "{what}");
    for name in SnapshotRecord::names(&export).await.unwrap() {
        let project = snapshots.unwrap_or_else(|| panic!("{what}: {name} is not counted")).project;
        let path = snapshot_tree(&name).unwrap();
        let tree = export.find_dir(&export.fs().root(), path).await.unwrap();
        assert_project(&export, tree.unwrap(), table, project, what).await;
    }
}

/// Asserts that everything in a directory belongs to the project, and that new objects will inherit it.
async fn assert_project(export: &Export<MemoryFs>, root: MemoryHandle, table: &Table, project: u32, what: &str) {
    let fs = export.fs();
    let mut open = vec![root];
    while let Some(dir) = open.pop() {
        let id = fs.getattr(&dir).await.unwrap().fileid;
        assert_eq!(table.0.lock().unwrap().of.get(&id), Some(&(project, true)), "{what}: {dir:?}");
        for child in export.names(&dir).await.unwrap() {
            match fs.lookup(&dir, &child).await.unwrap() {
                (child, attr) if attr.kind == Kind::Directory => open.push(child),
                (_, attr) => {
                    let of = table.0.lock().unwrap().of.get(&attr.fileid).copied();
                    assert_eq!(of, (attr.kind == Kind::File).then_some((project, false)), "{what}: {child}");
                }
            }
        }
    }
}

/// Two volumes with content.
async fn prepared() -> (MemoryServer, Table) {
    let server = MemoryServer::new();
    let export = reach(&server);
    create(&export, "v", 8192).await.unwrap();
    create(&export, "w", 4096).await.unwrap();
    server.plant("v/deep/er/data", Node::file(0o600, "x")).unwrap();
    server.plant("v/top", Node::file(0o600, "x")).unwrap();
    server.plant("outside", Node::file(0o600, "x")).unwrap();
    server.plant("v/link", Node::symlink("../outside")).unwrap();
    (server, Table::default())
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_at_any_operation_is_repaired_by_the_next() {
    let mut points = 0;
    for stage in ["new", "larger", "gone"] {
        for n in 0.. {
            let (server, table) = prepared().await;
            let export = reach(&server);
            if stage != "new" {
                agent(&server, &table, None).await.1.unwrap();
            }
            match stage {
                "larger" => table_free(expand(&export, "v", 16384)).await,
                "gone" => remove(&export, "v").await.unwrap(),
                _ => {}
            }
            let (fs, _) = agent(&server, &table, Some(n)).await;
            let done = fs.operations() <= n;
            server.power_loss(n % 2 == 0);
            assert_eq!(agent(&server, &table, None).await.1, Ok(true), "{stage} {n}");
            assert_agreement(&server, &table, &format!("{stage}, died at {n}")).await;
            if done {
                break;
            }
            points += 1;
        }
    }
    assert!(points > 60, "only {points} points were tried");
}

/// Runs a change that waits for an agent, although no agent runs. The change fails, but it has changed the record.
async fn table_free(change: impl Future<Output = Result<u64>>) {
    assert!(matches!(change.await, Err(Error::NoAgent { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_agent_beside_controllers_ends_in_agreement_whatever_their_order() {
    for seed in 0..500 {
        let (server, table) = prepared().await;
        let (one, two) = (reach(&server), reach(&server));
        one.fs().interleave(true);
        two.fs().interleave(true);
        let first = async {
            remove(&one, "v").await.unwrap();
            create(&one, "v", 16384).await.unwrap();
            create(&one, "x", 4096).await.unwrap();
        };
        let second = async {
            create(&two, "y", 4096).await.unwrap();
            remove(&two, "w").await.unwrap();
            remove(&two, "y").await.unwrap();
        };
        let third = async {
            let export = reach(&server);
            let fs = export.fs().clone();
            fs.interleave(true);
            let projects = MemoryProjects { fs, table: table.clone() };
            let mut reconciler = Reconciler::open(export, projects, 100..=200, Arc::default()).await.unwrap().unwrap();
            for name in ["v", "w", "x", "y", "v", "w", "x", "y"] {
                let file = Record::file(&VolumeName::parse("name", name).unwrap()).unwrap();
                reconciler.records_changed(&Change::Names(BTreeSet::from([file])));
                reconciler.run_until_idle().await;
            }
        };
        let actors: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> =
            vec![Box::pin(first), Box::pin(second), Box::pin(third)];
        race(seed, actors).await;
        assert_eq!(agent(&server, &table, None).await.1, Ok(true), "seed {seed}");
        assert_agreement(&server, &table, &format!("seed {seed}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_required_limit_that_no_agent_sets_leaves_nothing() {
    let (server, table) = prepared().await;
    agent(&server, &table, None).await.1.unwrap();
    let before = server.tree();
    let export = reach(&server);
    let required = Attributes { quota: Some(Quota::Required), ..Attributes::default() };
    let sub_dir = Some(SubDir::parse("subDir", "team/new").unwrap());
    let create = Create { sub_dir, asked: required, ..default_create::volume("new", 4096) };
    let lock = lock(&export, &create.id(&export).unwrap()).await.unwrap();
    let begin = tokio::time::Instant::now();
    let error = create::create(&export, &create, quota::patience(), &lock).await.unwrap_err();
    assert!(matches!(error, Error::NoAgent { .. }), "{error}");
    assert!(begin.elapsed() < AGAIN.1);
    assert_eq!(server.tree().paths(), before.paths());
}
