//! Limits that the agent on the server sets: what it answers, and waiting for it.
//!
//! The agent (`csi-nfs agent`) writes into `.csi-nfs/quota`, and nobody else does:
//!
//! ```text
//! snapshots.json        what snapshots take
//! agent.json            who it is, what it can, when it looked last
//! volumes/NAME.json     what is enforced of a volume, or why not
//! ```

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsResult, FsStat, Name, Status};
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::limits::{Limits, Quota};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// How long a limit is waited for, and an agent to show itself, by a caller that sets no limit itself.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at the answer, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// A file system that is told through NFS may round a limit up to its blocks.
const ROUNDING: u64 = 64 << 10;

/// The agent on the server: `.csi-nfs/quota/agent.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// The kind of file system.
    pub file_system: String,
    /// Whether its limits hold clients that write as root.
    pub holds_root: bool,
    /// When it was last through with looking at every volume, in seconds since the epoch; 0 where it is not yet.
    pub looked: u64,
    /// How many times it was, since it started.
    #[serde(default)]
    pub looks: u64,
    /// How often it does that, in seconds.
    pub period: u64,
}

/// What the agent says of a volume: `.csi-nfs/quota/volumes/NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Its project ID.
    pub project: u32,
    /// The limits in force; none where there is a reason.
    pub limits: Limits,
    /// Since when, in seconds since the epoch.
    pub since: u64,
    /// Why they are not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The file that says what snapshots take.
pub const SNAPSHOTS: &str = "snapshots.json";

/// What the snapshots of an export take: `.csi-nfs/quota/snapshots.json`. What they share with volumes, by reference, counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshots {
    /// Their project ID.
    pub project: u32,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What the snapshots of an export take; `None` where no agent ever counted any.
pub async fn snapshots<F: Fs>(export: &Export<F>) -> Result<Option<Snapshots>> {
    read(export, SNAPSHOTS).await
}

/// The agent of an export; `None` where none ever worked.
pub async fn agent<F: Fs>(export: &Export<F>) -> Result<Option<Agent>> {
    read(export, "agent.json").await
}

/// What the agent says of a volume; `None` where it said nothing yet.
pub async fn answer<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Answer>> {
    match directory(export, "volumes").await? {
        Some(answers) => read_in(export, &answers, &Record::file(name)?).await,
        None => Ok(None),
    }
}

/// The volumes that the agent says something of.
pub async fn answered<F: Fs>(export: &Export<F>) -> Result<Vec<VolumeName>> {
    match directory(export, "volumes").await? {
        Some(dir) => Ok(export.names(&dir).await?.iter().filter_map(Record::of_file).collect()),
        None => Ok(Vec::new()),
    }
}

/// What comes, or goes, by this name among the records asks the agent to look at everything. (No volume's record is called so.)
pub fn look() -> FsResult<Name> {
    Name::new("#look")
}

/// A file that is torn, or not the agent's, is none.
async fn read<T: for<'de> Deserialize<'de>, F: Fs>(export: &Export<F>, file: &str) -> Result<Option<T>> {
    match directory(export, "").await? {
        Some(quota) => {
            let name = Name::new(file).map_err(|status| export.failed(format!("reading `{file}`"), status))?;
            read_in(export, &quota, &name).await
        }
        None => Ok(None),
    }
}

/// The same, in a directory that is open.
pub async fn read_in<T: for<'de> Deserialize<'de>, F: Fs>(
    export: &Export<F>,
    dir: &F::Handle,
    file: &Name,
) -> Result<Option<T>> {
    Ok(export.read_small(dir, file).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

async fn directory<F: Fs>(export: &Export<F>, below: &str) -> Result<Option<F::Handle>> {
    let path = [SubDir::PRIVATE, "quota", below].into_iter().filter(|part| !part.is_empty());
    let name = |text: &str| Name::new(text).map_err(|status| export.failed(format!("reading `{text}`"), status));
    export.find_dir(&export.fs().root(), path.map(name).collect::<Result<Vec<_>>>()?).await
}

/// Until when the agent is waited for by a caller that sets no limit itself.
pub fn patience() -> Instant {
    Instant::now() + LIMIT
}

/// Refuses a volume whose limit is required on an export where it cannot be had: before anything of it is made.
///
/// # Errors
/// [`Error::NoAgent`] where no agent shows itself until then; [`Error::Precondition`] where clients that write as root are
/// not held by the file system's limits, and write as root.
pub async fn check_possible<F: Fs>(export: &Export<F>, quota: Option<Quota>, until: Instant) -> Result<()> {
    let Some(quota) = quota.filter(|quota| quota.is_required()) else { return Ok(()) };
    let layout = export.make_layout().await?;
    let found = poll(|| agent(export), Option::is_some, until).await?;
    let agent = found.ok_or_else(|| no_agent(export, "no agent ever worked on that export"))?;
    if agent.holds_root || quota == Quota::RequiredExceptRoot {
        return Ok(());
    }
    // What this driver made belongs to whom the server takes it for.
    let made = export.fs().getattr(&layout.lock).await.map_err(|e| export.failed("looking at `.csi-nfs/lock`", e))?;
    if made.uid != 0 {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "limits of {} on {} do not hold clients that write as root: export it with root_squash, use XFS, or accept it with `quota: required-except-root`",
        agent.file_system,
        export.source()
    )))
}

/// Waits until the limits of a volume are in force, where they have to be.
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

/// Waits until the limits of a volume are in force, where they have to be or others were: without them, the volume would
/// not be as large as it is said to be.
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

/// Waits until a volume's limits are in force: the agent says so, and the server's own figures agree.
///
/// # Errors
/// [`Error::NoAgent`] where they are not until then.
pub async fn wait<F: Fs>(export: &Export<F>, name: &VolumeName, record: &Record, until: Instant) -> Result<()> {
    let began = Instant::now();
    let in_force = |state: &State| matches!(state, State::InForce(_));
    let answers = directory(export, "volumes").await?;
    let answers = answers.as_ref();
    let look = || async move {
        match answers {
            Some(_) => state_by(export, answers, name, record).await,
            None => state(export, name, record).await,
        }
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

/// How a volume's limits stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing is asked for.
    Unlimited,
    /// In force, with the server's figures for the volume.
    InForce(FsStat),
    /// The agent says why not.
    Refused(String),
    /// Not in force, or not yet.
    Open,
}

/// How the limits of a volume with that record stand now.
pub async fn state<F: Fs>(export: &Export<F>, name: &VolumeName, record: &Record) -> Result<State> {
    if !record.limits().any() {
        return Ok(State::Unlimited);
    }
    let answers = directory(export, "volumes").await?;
    state_by(export, answers.as_ref(), name, record).await
}

/// The same, by the answers in a directory; `None` where there is none.
async fn state_by<F: Fs>(
    export: &Export<F>,
    answers: Option<&F::Handle>,
    name: &VolumeName,
    record: &Record,
) -> Result<State> {
    let answer = match answers {
        Some(answers) => read_in(export, answers, &Record::file(name)?).await?,
        None => None,
    };
    state_of(export, record, answer.as_ref()).await
}

/// The same, by what the agent says of the volume.
pub async fn state_of<F: Fs>(export: &Export<F>, record: &Record, answer: Option<&Answer>) -> Result<State> {
    let wanted = record.limits();
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
    let Some(dir) = export.find_dir(&export.fs().root(), record.id.sub_dir.names()).await? else {
        return Ok(State::Open);
    };
    let figures = match export.fs().statfs(&dir).await {
        Err(Status::Stale) => return Ok(State::Open),
        figures => figures.map_err(|e| export.failed("asking for the figures of a volume", e))?,
    };
    // An answer may be of an earlier volume of this name: the figures are of the directory that is there now.
    let agree = wanted.bytes.is_none_or(|bytes| figures.total_bytes <= bytes.saturating_add(ROUNDING));
    Ok(if agree { State::InForce(figures) } else { State::Open })
}

/// Looks until `done`, or until the time is up: what was seen last.
async fn poll<T, L: Future<Output = Result<T>>>(
    look: impl Fn() -> L,
    done: impl Fn(&T) -> bool,
    until: Instant,
) -> Result<T> {
    let mut pause = PAUSES.0;
    loop {
        let seen = look().await?;
        if done(&seen) || Instant::now() >= until {
            return Ok(seen);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn no_agent<F: Fs>(export: &Export<F>, reason: &str) -> Error {
    Error::NoAgent { export: export.source().to_string(), reason: reason.to_owned() }
}
