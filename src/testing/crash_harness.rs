//! A harness that cuts a controller's calls short at every operation and races the calls of two controllers, on an
//! export in memory. The tests define the calls.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::check::{Finding, check};
use crate::error::{Error, Result};
use crate::export::copy::Options;
use crate::export::fs::Status;
use crate::export::pool::Pool;
use crate::export::{Export, trash};
use crate::nfs::options::MountOptions;
use crate::snapshot::create_volume::{CreateVolume, Waits, create_volume};
use crate::snapshot::delete_volume::delete_volume;
use crate::snapshot::jobs::Jobs;
use crate::testing::memory::{Crash, MemoryFs, MemoryServer, Tree, race};
use crate::testing::memory_servers::{Process, Servers, export_of};
use crate::volume::create::Create;
use crate::volume::delete::DeletePolicy;
use crate::volume::exports::{Configured, Exports};
use crate::volume::id::VolumeId;
use crate::volume::on_delete::OnDelete;
use crate::volume::quota;
use crate::volume::record::Record;

/// The export `nfs:/export`, through a new connection.
pub(crate) fn reach(server: &MemoryServer) -> Export<MemoryFs> {
    Export::new(export_of("nfs"), server.client(), Arc::default())
}

/// One controller process of that export: its connection, the pool that the connection comes from, and its copy jobs.
pub(crate) struct Connection {
    export: Arc<Export<MemoryFs>>,
    pub(crate) exports: Exports<Arc<Process>>,
    pub(crate) jobs: Arc<Jobs>,
}

impl Deref for Connection {
    type Target = Export<MemoryFs>;

    fn deref(&self) -> &Export<MemoryFs> {
        &self.export
    }
}

/// Starts a controller process of the export `nfs:/export`.
pub(crate) fn connect(server: &MemoryServer) -> Connection {
    let share = export_of("nfs");
    let servers = Servers::new([(share.clone(), server.clone())].into(), "");
    let pool = Arc::new(Pool::new(Process::new(&servers), []));
    let options = MountOptions::default();
    // In memory, `get` is ready at once; `unconstrained` because the task may have used up its cooperative budget.
    let export = tokio::task::unconstrained(pool.get(&share, &options)).now_or_never().unwrap().unwrap();
    let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
    Connection { export, exports: Exports::new(pool, Configured::default()), jobs }
}

/// The driver's default policy for the deletion of volumes.
pub(crate) const POLICY: DeletePolicy = DeletePolicy { default: OnDelete::Delete, replace_archive: false };

/// CreateVolume.
pub(crate) async fn create(on: &Connection, volume: Create, may_show: bool) -> Result<Record> {
    let (share, options) = (on.source().clone(), MountOptions::default());
    let waits = Waits { agent: quota::patience(), copy: None };
    let asked = CreateVolume { volume, share, options, secret: None, may_show, waits };
    create_volume(&on.exports, &on.jobs, &asked).await
}

/// DeleteVolume.
pub(crate) async fn delete(on: &Connection, id: &VolumeId) -> Result<String> {
    delete_volume(&on.exports, &on.jobs, id, POLICY, None).await.map(|()| "gone".to_owned())
}

/// One call to a controller.
pub(crate) trait Call: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Makes the call. Returns what the caller learns, without times.
    fn run(&self, export: &Connection) -> impl Future<Output = Result<String>> + Send;

    /// Makes the call and repeats it as a caller would that is told to retry.
    fn insist(&self, export: &Connection) -> impl Future<Output = Result<String>> + Send {
        self.run(export)
    }

    /// A server after these calls, with foreign data in `theirs`.
    fn prepared(before: &[Self]) -> impl Future<Output = MemoryServer> + Send;

    /// Whether a finding is expected after this call, because others made the object or because it was to stay.
    fn allows(&self, finding: &Finding) -> bool;

    /// The findings on an export that are faults after this call.
    fn faults(&self, export: &Connection) -> impl Future<Output = Vec<Finding>> + Send {
        async move { check(export).await.unwrap().into_iter().filter(|finding| !self.allows(finding)).collect() }
    }
}

/// Makes a call and repeats it, up to 8 times, while it returns [`Error::Interrupted`].
pub(crate) async fn until_done<C: Call>(call: &C, export: &Connection) -> Result<String> {
    let mut answer = call.run(export).await;
    for _ in 0..8 {
        if !matches!(answer, Err(Error::Interrupted(_))) {
            break;
        }
        answer = call.run(export).await;
    }
    answer
}

/// Runs what a controller runs in the background: it sweeps the staging directory and clears the trash.
pub(crate) async fn settle(export: &Export<MemoryFs>) {
    trash::sweep_staging(export).await.unwrap();
    assert_eq!(trash::clear(export).await.unwrap(), 0);
}

/// The whole tree without the times in records and without the counted promises, which the next count rebuilds.
pub(crate) fn seen(server: &MemoryServer) -> Tree {
    let mut tree = server.tree();
    tree.0.retain(|path, _| !path.starts_with(b".csi-nfs/promised"));
    for node in tree.0.values_mut() {
        let text = node.text();
        if text.starts_with('{')
            && let Some((before, _)) = text.split_once(",\"created\":")
        {
            node.content = before.as_bytes().to_vec();
        }
    }
    tree
}

/// Breaks a call at its `n`-th operation in some way.
type Break = fn(&MemoryFs, u64);

/// Each break with its name and with whether it kills the controller.
const BREAKS: [(&str, Break, bool); 5] = [
    ("dies before", |fs, n| fs.crash_at(n, Crash::BeforeEffect), true),
    ("dies after", |fs, n| fs.crash_at(n, Crash::AfterEffect), true),
    ("answer lost", |fs, n| fs.lose_answer_at(n), false),
    ("fails", |fs, n| fs.fail_at(n, Status::Io), false),
    ("full", |fs, n| fs.fail_at(n, Status::NoSpc), false),
];

/// Cuts each call short in every way at every operation, with and without a loss of power, and asserts that a retry
/// completes the call as if nothing had happened. Returns the number of points that it tried.
pub(crate) async fn cut_short_and_retried<C: Call>(scenarios: Vec<(Vec<C>, C)>) -> usize {
    let mut points = 0;
    for (before, call) in scenarios {
        let prepared = C::prepared(&before).await;
        let server = prepared.copy();
        let export = connect(&server);
        let answer = call.run(&export).await.unwrap();
        settle(&export).await;
        let (whole, others) = (seen(&server), server.tree().below("theirs"));
        assert_eq!(call.faults(&export).await, [], "{call:?} alone");
        for (how, cut, dies) in BREAKS {
            for lost in [false, true] {
                for n in 0.. {
                    let server = prepared.copy();
                    let export = connect(&server);
                    cut(export.fs(), n);
                    let first = call.run(&export).await;
                    if export.fs().operations() <= n {
                        assert_eq!(first.unwrap(), answer);
                        break;
                    }
                    points += 1;
                    let at = format!("{before:?} {call:?} {how} {n}, power lost: {lost}");
                    assert_eq!(server.tree().below("theirs"), others, "{at}: the call changed foreign data");
                    if lost {
                        server.power_loss(n % 2 == 0);
                    }
                    let export = if dies || lost { connect(&server) } else { export };
                    assert_eq!(call.run(&export).await.as_ref(), Ok(&answer), "{at}");
                    settle(&export).await;
                    assert_eq!(call.faults(&export).await, [], "{at}");
                    assert_eq!(seen(&server), whole, "{at}");
                }
            }
        }
    }
    points
}

/// What calls look like from outside: their answers, and the tree at the end.
pub(crate) type Outcome = (Vec<String>, String);

fn shown(answer: Result<String>) -> String {
    answer.unwrap_or_else(|error: Error| format!("{:?}", crate::service::status::code(&error)))
}

/// Runs the calls of two controllers at the same time. `seed` decides the order of their operations.
pub(crate) async fn raced<C: Call>(
    server: MemoryServer,
    controllers: &[Vec<C>; 2],
    seed: u64,
) -> (Outcome, MemoryServer) {
    let exports = [connect(&server), connect(&server)];
    let racers = exports
        .iter()
        .zip(controllers)
        .zip([seed, !seed])
        .map(|((export, calls), pace)| {
            export.fs().interleave_by(pace);
            Box::pin(async move {
                let mut answers = Vec::new();
                for call in calls {
                    answers.push(shown(call.insist(export).await));
                }
                answers
            }) as Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>>
        })
        .collect();
    let answers = race(seed, racers).await.concat();
    settle(&connect(&server)).await;
    ((answers, seen(&server).to_string()), server)
}

/// The outcomes of a single controller that makes the calls one after the other, in every order.
pub(crate) async fn sequential<C: Call>(prepared: &MemoryServer, controllers: &[Vec<C>; 2]) -> BTreeSet<Outcome> {
    let mut outcomes = BTreeSet::new();
    let total = controllers[0].len() + controllers[1].len();
    for order in 0..1_u32 << total {
        if order.count_ones() as usize != controllers[1].len() {
            continue;
        }
        let server = prepared.copy();
        let export = connect(&server);
        let mut answers = [Vec::new(), Vec::new()];
        for turn in 0..total {
            let who = (order >> turn & 1) as usize;
            let call = &controllers[who][answers[who].len()];
            answers[who].push(shown(call.run(&export).await));
        }
        settle(&export).await;
        outcomes.insert((answers.concat(), seen(&server).to_string()));
    }
    outcomes
}

/// The number of races of one kind: `CSI_NFS_RACES`, or `rounds` if the variable is not set.
pub(crate) fn races(rounds: u64) -> u64 {
    std::env::var("CSI_NFS_RACES").map_or(rounds, |rounds| rounds.parse().unwrap())
}

/// Races two controllers in each scenario, [`races`] races in all. Asserts that a single controller could have had the
/// same outcome. `judge` checks the export after each race.
pub(crate) async fn concurrent_controllers<C: Call>(
    scenarios: Vec<(Vec<C>, [Vec<C>; 2])>,
    rounds: u64,
    judge: impl AsyncFn(&MemoryServer, &str),
) {
    let each = races(rounds) / scenarios.len() as u64;
    for (before, controllers) in scenarios {
        let prepared = C::prepared(&before).await;
        let allowed = sequential(&prepared, &controllers).await;
        for seed in 0..each {
            let (outcome, server) = raced(prepared.copy(), &controllers, seed).await;
            let what = format!("seed {seed} of {before:?}, {controllers:?}: {:?}", outcome.0);
            judge(&server, &what).await;
            assert!(allowed.contains(&outcome), "{what}\n{}\nallowed: {allowed:#?}", outcome.1);
        }
    }
}
