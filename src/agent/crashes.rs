//! What a crash of the agent at any point leaves, and what it does beside controllers: on an export in memory.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use super::keeper::Keeper;
use super::projects::{FileSystem, Project, Projects};
use super::{AGAIN, PERIOD};
use crate::check::trials::reach;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsResult, Kind, Name};
use crate::export::memory::{Crash, MemoryFs, MemoryHandle, MemoryServer, Node, race};
use crate::volume::access::CapacityRange;
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::lifecycle::{self, Create};
use crate::volume::parameters::{Attributes, OnDelete};
use crate::volume::quota::{self, Limits};
use crate::volume::record::Record;

/// Project quotas in memory: they outlive the agents that set them.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<Quotas>>);

#[derive(Default)]
struct Quotas {
    of: HashMap<u64, (u32, bool)>,
    limits: BTreeMap<u32, Limits>,
}

/// One agent's way to them: each call is an operation of its connection, which may die in it.
struct MemoryProjects {
    fs: MemoryFs,
    table: Table,
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
        self.table.0.lock().unwrap().of.insert(fileid, (project, kind == Kind::Directory));
        Ok(())
    }

    async fn get(&self, project: u32) -> FsResult<Project> {
        self.fs.getattr(&self.fs.root()).await?;
        let quotas = self.table.0.lock().unwrap();
        let limits = quotas.limits.get(&project).copied().unwrap_or_default();
        Ok(Project { limits, in_use: quotas.of.values().any(|(id, _)| *id == project) })
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
        Ok(())
    }
}

/// A new agent, and its connection. One that dies when it opens is none.
async fn agent(server: &MemoryServer, table: &Table, dies_at: Option<u64>) -> (MemoryFs, Result<bool>) {
    let export = reach(server);
    let fs = export.fs().clone();
    if let Some(n) = dies_at {
        fs.crash_at(n, if n % 2 == 0 { Crash::BeforeEffect } else { Crash::AfterEffect });
    }
    let projects = MemoryProjects { fs: fs.clone(), table: table.clone() };
    let looked = match Keeper::open(export, projects, 100..=200).await {
        Ok(Some(mut keeper)) => keeper.look_at_all(PERIOD).await,
        Ok(None) => Ok(true),
        Err(error) => Err(error),
    };
    (fs, looked)
}

async fn create(export: &Export<MemoryFs>, name: &str, bytes: i64) -> Result<Record> {
    let create = Create {
        name: VolumeName::parse("name", name).unwrap(),
        sub_dir: None,
        capacity: CapacityRange::new(bytes, 0).unwrap(),
        asked: Attributes::default(),
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: None,
    };
    let lock = lifecycle::lock(export, &create.id(export)?).await?;
    lifecycle::create(export, &create, quota::patience(), &lock).await
}

async fn remove(export: &Export<MemoryFs>, name: &str) -> Result<()> {
    let id = VolumeId::parse(&format!("nfs#export#{name}##")).unwrap();
    let policy = DeletePolicy { default: OnDelete::Delete, replace_archive: false };
    let lock = lifecycle::lock(export, &id).await?;
    delete::delete(export, &id, policy, &lock).await.map(drop)
}

async fn expand(export: &Export<MemoryFs>, name: &str, bytes: i64) -> Result<u64> {
    let id = VolumeId::parse(&format!("nfs#export#{name}##")).unwrap();
    let lock = lifecycle::lock(export, &id).await?;
    lifecycle::expand(export, &id, CapacityRange::new(bytes, 0).unwrap(), quota::patience(), &lock).await
}

/// Every recorded volume has its limit, on an ID of its own that its directory and all in it have; nothing else has one.
async fn assert_agreement(server: &MemoryServer, table: &Table, what: &str) {
    let export = reach(server);
    let fs = export.fs();
    let mut expected = BTreeMap::new();
    for name in lifecycle::names(&export).await.unwrap() {
        let record = Record::read(&export, &name).await.unwrap().unwrap();
        let answer =
            quota::answer(&export, &name).await.unwrap().unwrap_or_else(|| panic!("{what}: {name} unanswered"));
        assert_eq!((answer.limits, answer.reason), (Limits::wanted(&record), None), "{what}: {name}");
        assert!(expected.insert(answer.project, answer.limits).is_none(), "{what}: an ID is given twice");
        let mut open = vec![fs.lookup(&fs.root(), &Name::new(name.as_str()).unwrap()).await.unwrap().0];
        while let Some(dir) = open.pop() {
            let id = fs.getattr(&dir).await.unwrap().fileid;
            assert_eq!(table.0.lock().unwrap().of.get(&id), Some(&(answer.project, true)), "{what}: {name}");
            for child in export.names(&dir).await.unwrap() {
                match fs.lookup(&dir, &child).await.unwrap() {
                    (child, attr) if attr.kind == Kind::Directory => open.push(child),
                    (_, attr) => {
                        let of = table.0.lock().unwrap().of.get(&attr.fileid).copied();
                        assert_eq!(of, (attr.kind == Kind::File).then_some((answer.project, false)), "{what}: {child}");
                    }
                }
            }
        }
    }
    assert_eq!(table.0.lock().unwrap().limits, expected, "{what}");
}

/// Two volumes with something in them.
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
async fn an_agent_that_dies_at_any_operation_is_mended_by_the_next() {
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

/// A change that waits for an agent, which is not there: the record is changed all the same.
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
            let mut keeper = Keeper::open(export, projects, 100..=200).await.unwrap().unwrap();
            for name in ["v", "w", "x", "y", "v", "w", "x", "y"] {
                keeper.look_at(&VolumeName::parse("name", name).unwrap()).await;
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
    let required = Attributes { quota: Some(quota::Quota::Required), ..Attributes::default() };
    let create = Create {
        name: VolumeName::parse("name", "new").unwrap(),
        sub_dir: Some(crate::mount::source::SubDir::parse("subDir", "team/new").unwrap()),
        capacity: CapacityRange::new(4096, 0).unwrap(),
        asked: required,
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: None,
    };
    let lock = lifecycle::lock(&export, &create.id(&export).unwrap()).await.unwrap();
    let begin = tokio::time::Instant::now();
    let error = lifecycle::create(&export, &create, quota::patience(), &lock).await.unwrap_err();
    assert!(matches!(error, Error::NoAgent { .. }), "{error}");
    assert!(begin.elapsed() < AGAIN.1);
    assert_eq!(server.tree().paths(), before.paths());
}
