//! The limits that the agent on the server enforces: reads the agent's reports and waits for them.
//!
//! The agent (`csi-nfs agent`) writes into `.csi-nfs/quota`, and nobody else does:
//!
//! ```text
//! snapshots.json        how much space snapshots use
//! agent.json            the agent, its abilities, and its last pass over all volumes
//! volumes/NAME.json     the limits of a volume that are in force, or why they are not
//! ```

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsResult, FsStat, Name, Status};
use crate::mount::backoff::backoff;
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::limits::{Limits, Quota};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// How long a caller without a deadline of its own waits for an agent to appear or for a limit to be in force.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause between two reads of the agent's report.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// The agent's report on itself, and the directory of its reports on volumes.
const AGENT: &str = "agent.json";
const ANSWERS: &str = "volumes";
/// How much more than the limit the server may report over NFS, in bytes: a file system may round a limit up to its
/// blocks.
const ROUNDING: u64 = 64 << 10;

/// The agent on the server: `.csi-nfs/quota/agent.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// The agent's version.
    pub version: String,
    /// The type of the file system.
    pub file_system: String,
    /// Whether the file system's limits hold clients that write as root.
    pub holds_root: bool,
    /// When the agent last finished a pass over all volumes, in seconds since the epoch; 0 before the first.
    pub looked: u64,
    /// How many passes the agent has finished since it started.
    #[serde(default)]
    pub looks: u64,
    /// The interval between two passes, in seconds.
    pub period: u64,
}

/// The agent's report on a volume: `.csi-nfs/quota/volumes/NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The volume's project ID.
    pub project: u32,
    /// The limits in force; no limits if there is a reason.
    pub limits: Limits,
    /// Since when the limits or the reason hold, in seconds since the epoch.
    pub since: u64,
    /// Why the volume's limits are not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The file with the usage of snapshots.
pub const SNAPSHOTS: &str = "snapshots.json";

/// The usage of the snapshots of an export: `.csi-nfs/quota/snapshots.json`. Data that they share with volumes by
/// reference counts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshots {
    /// The project ID of the snapshots.
    pub project: u32,
    /// The bytes in use.
    pub bytes: u64,
    /// The inodes in use.
    pub inodes: u64,
}

/// Reads the usage of the snapshots of an export; `None` if no agent has reported it.
pub async fn snapshots<F: Fs>(export: &Export<F>) -> Result<Option<Snapshots>> {
    read(export, SNAPSHOTS).await
}

/// Reads the report on the agent of an export; `None` if no agent ever ran.
pub async fn agent<F: Fs>(export: &Export<F>) -> Result<Option<Agent>> {
    read(export, AGENT).await
}

/// The agent's reports on an export, found once for looks at many volumes.
pub struct Reports<F: Fs> {
    /// Whether an agent ever ran.
    pub has_agent: bool,
    /// The directory of the reports on volumes.
    answers: Option<F::Handle>,
}

impl<F: Fs> Reports<F> {
    /// Finds the reports on an export.
    pub async fn find(export: &Export<F>) -> Result<Self> {
        Ok(Self { has_agent: agent(export).await?.is_some(), answers: directory(export, ANSWERS).await? })
    }

    /// Like [`answer`].
    pub async fn answer(&self, export: &Export<F>, name: &VolumeName) -> Result<Option<Answer>> {
        answer_in(export, self.answers.as_ref(), name).await
    }

    /// The state of the limits of a volume with this record.
    pub async fn state(&self, export: &Export<F>, name: &VolumeName, record: &Record) -> Result<State> {
        if !record.limits().any() {
            return Ok(State::Unlimited);
        }
        let answer = self.answer(export, name).await?;
        state_of(export, record.limits(), record.path()?, answer.as_ref()).await
    }
}

/// Reads the agent's report on a volume; `None` if there is none yet.
pub async fn answer<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Answer>> {
    answer_in(export, directory(export, ANSWERS).await?.as_ref(), name).await
}

async fn answer_in<F: Fs>(
    export: &Export<F>,
    answers: Option<&F::Handle>,
    name: &VolumeName,
) -> Result<Option<Answer>> {
    match answers {
        Some(answers) => read_in(export, answers, &Record::file(name)?).await,
        None => Ok(None),
    }
}

/// The volumes that the agent has reported on.
pub async fn answered<F: Fs>(export: &Export<F>) -> Result<Vec<VolumeName>> {
    match directory(export, ANSWERS).await? {
        Some(dir) => export.listed(&dir, |entry| Record::of_file(&entry.name)).await,
        None => Ok(Vec::new()),
    }
}

/// The name of the file that asks the agent to check all volumes. The agent checks them when this file appears among
/// the records or is removed. No volume's record has this name.
pub fn look() -> FsResult<Name> {
    Name::new("#look")
}

/// Reads a file of the agent. Returns `None` if the file is missing or truncated, or has another content.
async fn read<T: for<'de> Deserialize<'de>, F: Fs>(export: &Export<F>, file: &str) -> Result<Option<T>> {
    match directory(export, "").await? {
        Some(quota) => read_in(export, &quota, &name(export, file)?).await,
        None => Ok(None),
    }
}

/// Reads a file of the agent in the directory `dir`. Returns `None` if the file is missing or truncated, or has another
/// content.
pub async fn read_in<T: for<'de> Deserialize<'de>, F: Fs>(
    export: &Export<F>,
    dir: &F::Handle,
    file: &Name,
) -> Result<Option<T>> {
    Ok(export.read_small(dir, file).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

async fn directory<F: Fs>(export: &Export<F>, below: &str) -> Result<Option<F::Handle>> {
    let path = [SubDir::PRIVATE, "quota", below].into_iter().filter(|part| !part.is_empty());
    export.find_dir(&export.fs().root(), path.map(|text| name(export, text)).collect::<Result<Vec<_>>>()?).await
}

fn name<F: Fs>(export: &Export<F>, text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| export.failed(format!("reading `{text}`"), status))
}

/// The deadline for a caller that has none of its own.
pub fn patience() -> Instant {
    Instant::now() + AGENT_TIMEOUT
}

/// Checks that the export can enforce a limit, if the limit is required. The caller checks this before it creates
/// anything of the volume.
///
/// # Errors
/// [`Error::NoAgent`] if no agent appears until `until`; [`Error::Precondition`] if the file system does not limit
/// clients that write as root, and the server does not squash root.
pub async fn check_possible<F: Fs>(export: &Export<F>, quota: Option<Quota>, until: Instant) -> Result<()> {
    let Some(quota) = quota.filter(|quota| quota.is_required()) else { return Ok(()) };
    let layout = export.make_layout().await?;
    let found = poll(|| agent(export), Option::is_some, until).await?;
    let agent = found.ok_or_else(|| no_agent(export, "no agent ever worked on that export"))?;
    if agent.holds_root || quota == Quota::RequiredExceptRoot {
        return Ok(());
    }
    // The owner of a file that this driver created shows whether the server squashes root.
    let made = export.fs().getattr(&layout.lock).await.map_err(|e| export.failed("looking at `.csi-nfs/lock`", e))?;
    if made.uid != 0 {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "limits of {} on {} do not hold clients that write as root: export it with root_squash, use XFS, or accept it \
         with `quota: required-except-root`",
        agent.file_system,
        export.source()
    )))
}

/// Waits until the limits of a volume are in force, if they are required.
///
/// # Errors
/// As [`wait`].
pub async fn enforced_where_required<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    record: &Record,
    until: Instant,
) -> Result<()> {
    match record.attributes.quota {
        Some(quota) if quota.is_required() && record.limits().any() => wait(export, name, record, until).await,
        _ => Ok(()),
    }
}

/// Waits until the limits of a volume are in force, if they are required or if other limits are in force now. The old
/// limits would keep the volume smaller than its capacity.
///
/// # Errors
/// As [`wait`].
pub async fn enforced_where_it_was<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    record: &Record,
    until: Instant,
) -> Result<()> {
    if !record.limits().any() {
        return Ok(());
    }
    match answer(export, name).await? {
        Some(answer) if answer.reason.is_none() => wait(export, name, record, until).await,
        _ => enforced_where_required(export, name, record, until).await,
    }
}

/// Waits until a volume's limits are in force: the agent reports them, and the server's own figures agree.
///
/// # Errors
/// [`Error::NoAgent`] if the limits are not in force at `until`.
pub async fn wait<F: Fs>(export: &Export<F>, name: &VolumeName, record: &Record, until: Instant) -> Result<()> {
    let began = Instant::now();
    let in_force = |state: &State| matches!(state, State::InForce(_));
    let answers = directory(export, ANSWERS).await?;
    let answers = answers.as_ref();
    let look = || async move {
        let answer = match answers {
            Some(_) => answer_in(export, answers, name).await?,
            None => answer(export, name).await?,
        };
        state_of(export, record.limits(), record.path()?, answer.as_ref()).await
    };
    match poll(look, in_force, until).await? {
        State::InForce(_) => Ok(()),
        State::Refused(reason) => Err(no_agent(export, &reason)),
        State::Unlimited | State::Open => {
            let waited = began.elapsed();
            Err(no_agent(export, &format!("the limit of volume `{name}` is not in force after {waited:.1?}")))
        }
    }
}

/// The state of a volume's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The volume has no limits.
    Unlimited,
    /// The limits are in force. These are the server's figures for the volume.
    InForce(FsStat),
    /// The limits are not in force, for the reason that the agent reports.
    Refused(String),
    /// The limits are not in force, or not yet, and the agent reports no reason.
    Open,
}

/// Returns the state of the limits that a volume at `path` should have, by the agent's report on the volume.
pub async fn state_of<F: Fs>(
    export: &Export<F>,
    wanted: Limits,
    path: Vec<Name>,
    answer: Option<&Answer>,
) -> Result<State> {
    if !wanted.any() {
        return Ok(State::Unlimited);
    }
    let Some(answer) = answer else { return Ok(State::Open) };
    if let Some(reason) = &answer.reason {
        return Ok(State::Refused(reason.clone()));
    }
    if answer.limits != wanted {
        return Ok(State::Open);
    }
    let Some(dir) = export.find_dir(&export.fs().root(), path).await? else {
        return Ok(State::Open);
    };
    let figures = match export.fs().statfs(&dir).await {
        Err(Status::Stale) => return Ok(State::Open),
        figures => figures.map_err(|e| export.failed("asking for the figures of a volume", e))?,
    };
    // The report may be on an earlier volume of this name. The figures are those of the directory that exists now.
    let agree = wanted.bytes.is_none_or(|bytes| figures.total_bytes <= bytes.saturating_add(ROUNDING));
    Ok(if agree { State::InForce(figures) } else { State::Open })
}

/// Calls `look` until its result is `done` or `until` has passed. Returns the last result.
async fn poll<T, L: Future<Output = Result<T>>>(
    look: impl Fn() -> L,
    done: impl Fn(&T) -> bool,
    until: Instant,
) -> Result<T> {
    let mut pauses = backoff(PAUSES.0, PAUSES.1);
    loop {
        let seen = look().await?;
        if done(&seen) || Instant::now() >= until {
            return Ok(seen);
        }
        tokio::time::sleep(pauses.next().unwrap_or(PAUSES.1)).await;
    }
}

fn no_agent<F: Fs>(export: &Export<F>, reason: &str) -> Error {
    Error::NoAgent { export: export.source().to_string(), reason: reason.to_owned() }
}
