//! Two real controllers on one export in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::check::{Finding, check, repair};
use crate::error::Result;
use crate::export::copy::Options;
use crate::export::fs::Status;
use crate::export::pool::{Connect, Pool};
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::service::controller::{Controller, Settings};
use crate::snapshot::jobs::Jobs;
use crate::testing::crash_harness;
use crate::testing::memory::{MemoryFs, MemoryServer, Node};
use crate::testing::model::files::Files;
use crate::testing::model::history::{Call, Fault, Step};
use crate::testing::model::rpc::{self, Answer, Code};
use crate::volume::delete::DeletePolicy;
use crate::volume::exports::Configured;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;

/// Longer than any background work takes. The clock is paused, so waiting costs nothing.
const SETTLED: Duration = Duration::from_secs(5);
/// How often a caller retries a call that returns Unavailable.
const INSISTS: usize = 8;

/// The server of the export, and the connection that a controller has to it.
struct Reach {
    server: MemoryServer,
    connection: Mutex<MemoryFs>,
}

impl Connect for Arc<Reach> {
    type Fs = MemoryFs;

    async fn check(&self, _: &Source, _: &MountOptions) -> Result<IpAddr> {
        Ok(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    async fn connect(&self, _: &Source, _: &MountOptions, _: IpAddr) -> Result<MemoryFs> {
        let fs = self.server.client();
        *self.connection.lock().unwrap() = fs.clone();
        Ok(fs)
    }
}

/// A controller that runs.
struct Process {
    default: OnDelete,
    reach: Arc<Reach>,
    controller: Controller<Arc<Reach>>,
}

impl Process {
    async fn start(server: &MemoryServer, default: OnDelete) -> Self {
        let reach = Arc::new(Reach { server: server.clone(), connection: Mutex::new(server.client()) });
        let settings = Settings {
            mount_options: Configured::default(),
            defaults: Attributes { on_delete: Some(default), ..Attributes::default() },
            delete: DeletePolicy { default, replace_archive: false },
        };
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let share = crash_harness::reach(server).source().clone();
        let pool = Pool::new(reach.clone(), [(share, MountOptions::default())]);
        let controller = Controller::new(Arc::new(pool), settings, jobs);
        // This call connects the controller to the export, so that faults can be planned.
        rpc::volumes(&controller).await;
        Self { default, reach, controller }
    }

    fn fs(&self) -> MemoryFs {
        self.reach.connection.lock().unwrap().clone()
    }

    /// Makes a call and retries it up to [`INSISTS`] times while it returns Unavailable.
    async fn insist(&self, call: &Call) -> (Answer, String) {
        let mut heard = rpc::make(&self.controller, call).await;
        for _ in 0..INSISTS {
            if heard.0 != Answer::Failed(Code::Unavailable) {
                break;
            }
            heard = rpc::make(&self.controller, call).await;
        }
        heard
    }
}

/// The export and its controllers.
pub struct World {
    server: MemoryServer,
    processes: [Process; 2],
    /// The findings of the last check.
    findings: Vec<Finding>,
}

/// Everything that is visible of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub files: Files,
    /// The content of each snapshot's tree, ready or not.
    pub snapshots: BTreeMap<String, Files>,
    pub listed_volumes: BTreeSet<(String, u64)>,
    /// Snapshot IDs and their source volumes.
    pub listed_snapshots: BTreeSet<(String, String)>,
}

/// The answers of a step's calls, with the messages of errors.
pub type Heard = Vec<(Answer, String)>;

impl World {
    pub async fn new() -> Self {
        let server = MemoryServer::new();
        let processes =
            [Process::start(&server, OnDelete::Delete).await, Process::start(&server, OnDelete::Delete).await];
        Self { server, processes, findings: Vec::new() }
    }

    /// The default policy that a controller was started with.
    pub fn default(&self, at: usize) -> OnDelete {
        self.processes[at].default
    }

    pub async fn take(&mut self, step: &Step) -> Heard {
        let mut heard = Vec::new();
        match step {
            Step::Call { at, call, fault } => {
                heard.push(self.call(*at, call, *fault).await);
                if matches!(fault, Some(Fault::Crash(..))) {
                    self.restart(*at, self.default(*at)).await;
                }
            }
            Step::Both { calls, pace } => heard = self.both(calls, *pace).await,
            Step::Restart { at, default } => self.restart(*at, *default).await,
            Step::PowerLoss => {
                self.processes.iter().for_each(|process| process.fs().crash());
                self.server.power_loss(false);
                for at in 0..self.processes.len() {
                    self.restart(at, self.default(at)).await;
                }
            }
            Step::Write { dir, number } => {
                self.server.plant(format!("{dir}/f{number}"), Node::file(0o644, number.to_string())).unwrap();
            }
            Step::MakeDir { dir } => {
                if !self.server.tree().has(dir) {
                    self.server.plant(dir, Node::directory(0o755)).unwrap();
                }
            }
            Step::RemoveDir { dir } => self.remove(dir).await,
            Step::Check => self.findings = self.check().await,
            Step::Repair => self.repair(&self.findings).await,
        }
        sleep(SETTLED).await;
        heard
    }

    pub async fn check(&self) -> Vec<Finding> {
        check(&crash_harness::reach(&self.server)).await.unwrap()
    }

    pub async fn repair(&self, findings: &[Finding]) {
        repair(&crash_harness::reach(&self.server), findings).await.unwrap();
    }

    async fn call(&self, at: usize, call: &Call, fault: Option<Fault>) -> (Answer, String) {
        let process = &self.processes[at];
        let fs = process.fs();
        let now = fs.operations();
        match fault {
            None => return process.insist(call).await,
            Some(Fault::Crash(n, when)) => fs.crash_at(now + n, when),
            Some(Fault::LoseAnswer(n)) => fs.lose_answer_at(now + n),
            Some(Fault::Io(n)) => fs.fail_at(now + n, Status::Io),
            Some(Fault::Full(n)) => fs.fail_at(now + n, Status::NoSpc),
            Some(Fault::GiveUp(n)) => {
                fs.delay(Duration::from_millis(1));
                let heard = timeout(Duration::from_millis(n), rpc::make(&process.controller, call)).await;
                fs.delay(Duration::ZERO);
                return heard.unwrap_or((Answer::Failed(Code::Cancelled), "the caller gave up".to_owned()));
            }
        }
        let heard = rpc::make(&process.controller, call).await;
        sleep(SETTLED).await;
        fs.forget_faults();
        heard
    }

    async fn both(&self, calls: &[Call; 2], (first, second, later): (u64, u64, u64)) -> Heard {
        let paces = [first, second].map(Duration::from_millis);
        for (process, pace) in self.processes.iter().zip(paces) {
            process.fs().delay(pace);
        }
        let second = async {
            sleep(Duration::from_millis(later)).await;
            self.processes[1].insist(&calls[1]).await
        };
        let (first, second) = tokio::join!(self.processes[0].insist(&calls[0]), second);
        self.processes.iter().for_each(|process| process.fs().delay(Duration::ZERO));
        vec![first, second]
    }

    async fn restart(&mut self, at: usize, default: OnDelete) {
        self.processes[at].fs().crash();
        // Let the background work of the old controller fail before the new controller starts.
        sleep(SETTLED).await;
        self.processes[at] = Process::start(&self.server, default).await;
    }

    /// Removes a directory as an administrator does.
    async fn remove(&self, dir: &str) {
        self.server.remove(dir).unwrap();
    }

    pub async fn look(&self) -> Look {
        let tree = self.server.tree();
        let snapshots = tree.below(".csi-nfs/snapshots");
        let trees = snapshots.paths().into_iter().filter_map(|path| {
            let name = path.strip_suffix(".tree").filter(|name| !name.contains('/'))?.to_owned();
            let content = Files::of(&snapshots.below(&path));
            Some((name, content))
        });
        let snapshots = trees.collect();
        let controller = &self.processes[0].controller;
        Look {
            files: Files::of_share(&tree),
            snapshots,
            listed_volumes: rpc::volumes(controller).await.into_iter().collect(),
            listed_snapshots: rpc::snapshots(controller).await.into_iter().collect(),
        }
    }
}
