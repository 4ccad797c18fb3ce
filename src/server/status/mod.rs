//! What a running driver tells of itself (`csi-nfs status`): what it serves, which servers and exports it uses, what
//! runs, what waits, and what failed last.
//!
//! Everything here is known already: nothing asks a server, and an answer has a bounded size. Names come from tenants,
//! so they are cut and put on one line. No request and no secret is in it.

mod text;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::export::progress::Figures;
use crate::nfs::text::{Format, one_line};

/// The most entries of each list. The rest is counted.
pub const LISTED: usize = 100;
/// The most bytes of a name.
const NAME_MAX: usize = 256;
/// How long the parts may take to say what they know. They read at most a file of the kernel.
const LIMIT: Duration = Duration::from_secs(2);

/// A driver, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The driver's name.
    pub driver: String,
    /// `controller` and `node NAME`.
    pub serves: Vec<String>,
    /// `starting`, `serving`, or `draining` while it ends.
    pub state: String,
    /// When this was told, and when the process started (RFC 3339).
    pub at: String,
    /// When the process started.
    pub started: String,
    /// The servers that calls needed in the last ten minutes.
    pub servers: Vec<Server>,
    /// The exports that the controller has a connection to.
    pub exports: Vec<Export>,
    /// What is mounted on this node, by server and version.
    pub mounts: Vec<Mounts>,
    /// The settings that were given: flags, also those from the environment.
    pub settings: Vec<String>,
    /// The calls that are being served, the longest first.
    pub calls: Vec<Call>,
    /// Copies, and other work that takes long, the oldest first.
    pub work: Vec<Work>,
    /// Locks of exports that calls and copies wait for, the longest first.
    pub locks: Vec<Lock>,
    /// The last calls that failed, the last one first.
    pub failures: Vec<Failure>,
    /// How many entries were left out of lists that are too long.
    pub left_out: usize,
}

/// A server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Its name, as the classes and volumes have it.
    pub server: String,
    /// The port.
    pub port: u16,
    /// The address that answered the last check.
    pub address: Option<String>,
    /// Why none did.
    pub error: Option<String>,
    /// How long the last check took that was answered.
    pub round_trip_seconds: Option<f64>,
    /// Since when it answers, or does not (RFC 3339).
    pub since: String,
    /// When that was last checked.
    pub checked: String,
}

/// An export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// `SERVER:/SHARE`.
    pub export: String,
    /// The client that reaches it: `kernel`, or `own` for the driver's.
    pub client: String,
    /// The version of NFS of the controller's connection.
    pub version: Option<String>,
    /// Whether other controllers see this one's locks.
    pub locks: bool,
    /// Whether the server clones files. This and the next two are known only once a copy has shown it.
    pub clone: Option<bool>,
    /// Whether it has extended attributes.
    pub xattrs: Option<bool>,
    /// Whether its files have access control lists.
    pub acls: Option<bool>,
    /// The size of the export, and what is free of it, when a call last asked.
    pub space: Option<Space>,
    /// Bytes that snapshots use, as the agent on the server counts them.
    pub snapshot_bytes: Option<u64>,
    /// Deleted volumes and snapshots that are not removed yet.
    pub trash: u64,
}

/// The space of an export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// The size in bytes.
    pub bytes: u64,
    /// The bytes that are free for everybody.
    pub free_bytes: u64,
    /// Inodes; 0 if the file system has no limit on them.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
    /// How old these figures are.
    pub seconds: u64,
}

/// Mounts on a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mounts {
    /// The server's address.
    pub server: String,
    /// The version of NFS.
    pub version: String,
    /// Whether that is lower than was wanted: `true`, `false`, or `unknown` for mounts of an earlier process.
    pub fallback: String,
    /// How many volumes.
    pub volumes: u64,
}

/// A call that is being served.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// The CSI method.
    pub method: String,
    /// The volume, if the call names one.
    pub volume: String,
    /// The NFS server, if it is known yet.
    pub server: String,
    /// How long it has been served.
    pub seconds: f64,
}

/// Work that takes long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// `copy`, or what else it is.
    pub kind: String,
    /// The export or the volume that it is on.
    pub on: String,
    /// Its name: of a copy that in staging, which says what is made.
    pub name: String,
    /// What is copied: identifiers of volumes or snapshots.
    pub of: Vec<String>,
    /// What it waits for; nothing if it runs.
    pub waits_for: Option<String>,
    /// How long ago a call asked for it.
    pub seconds: f64,
    /// Entries done.
    pub entries: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Entries in all, if that is known.
    pub entries_expected: Option<u64>,
    /// How long it still takes at this speed.
    pub seconds_left: Option<u64>,
    /// The same for a person.
    pub progress: String,
}

impl Work {
    /// Work that is that far.
    pub fn new(kind: &str, on: &str, name: &str, figures: &Figures) -> Self {
        Self {
            kind: kind.to_owned(),
            on: short(on),
            name: short(name),
            entries: figures.done.entries,
            bytes: figures.done.bytes,
            entries_expected: figures.expected,
            seconds_left: figures.left().map(|left| left.as_secs()),
            progress: figures.to_string(),
            ..Self::default()
        }
    }
}

/// A lock of an export that somebody waits for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// `SERVER:/SHARE`.
    pub export: String,
    /// The volume, directory or copy that is locked.
    pub part: String,
    /// `this driver` or `another controller`.
    pub holder: String,
    /// How long it has been waited for.
    pub seconds: f64,
}

/// A call that failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// When (RFC 3339).
    pub at: String,
    /// The CSI method.
    pub method: String,
    /// The volume, if the call named one.
    pub volume: String,
    /// The gRPC code.
    pub code: String,
    /// What the caller was told.
    pub message: String,
    /// How long it took.
    pub seconds: f64,
}

/// A name from outside: its beginning, on one line.
pub fn short(name: &str) -> String {
    one_line(&name[..name.floor_char_boundary(NAME_MAX)]).into_owned()
}

/// A time as RFC 3339, in whole seconds.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Seconds since a moment, in tenths.
pub fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

impl Status {
    /// Cuts every list, and counts what is left out.
    fn cut(mut self) -> Self {
        fn cut<T>(list: &mut Vec<T>) -> usize {
            let more = list.len().saturating_sub(LISTED);
            list.truncate(LISTED);
            more
        }
        self.left_out = cut(&mut self.servers)
            + cut(&mut self.exports)
            + cut(&mut self.mounts)
            + cut(&mut self.calls)
            + cut(&mut self.work)
            + cut(&mut self.locks)
            + cut(&mut self.failures);
        self
    }

    /// The status in the requested format.
    pub fn print(&self, format: Format) -> String {
        match format {
            // Every map has strings as keys, so serialization cannot fail.
            Format::Json => serde_json::to_string(self).unwrap_or_default() + "\n",
            Format::Text => text::print(self),
        }
    }
}

/// A part of the driver adds what it knows. It may read a file of the kernel, and asks no server.
type Teller = Box<dyn Fn(&mut Status) + Send + Sync>;

/// The parts that tell of themselves.
#[derive(Default)]
pub struct Board(Mutex<Vec<Teller>>);

impl Board {
    /// Adds a part.
    pub fn add(&self, teller: impl Fn(&mut Status) + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(teller));
    }

    /// Lets all parts tell, on a thread of their own. `None` if they do not within `LIMIT`.
    pub async fn tell(self: &Arc<Self>) -> Option<Status> {
        let board = Arc::clone(self);
        let told = tokio::task::spawn_blocking(move || {
            let mut status = Status { at: rfc3339(SystemTime::now()), ..Status::default() };
            for teller in board.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                teller(&mut status);
            }
            status.calls.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            status.work.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            status.locks.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            status.cut()
        });
        timeout(LIMIT, told).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests;
