//! The gate for blocking system calls: it bounds the number of calls and the time that callers wait.
//!
//! A call on an NFS mount ends when the server answers, which may never happen, and nothing can interrupt its thread.
//! So every such call goes through the gate of its server's address. A bounded number of threads may be in the kernel
//! for one address, and a caller waits only while the server answers there. A gate belongs to an address and not to a
//! name, because a name may have another address by now. If a server is gone, its callers get an error and the driver
//! loses a few threads. Calls to other servers are not affected.
//!
//! A server may answer, but not for one of its exports: its disk is dead, or its file system is frozen. So the calls
//! for one export leave some threads to the other exports, and calls that have been in the kernel for long stop
//! counting, except for two of each export. When all calls of an export that may be in the kernel are overdue, further
//! calls for it fail ([`Stalled`] names the export). This ends when the calls end.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::mount::local::Local;
use crate::mount::reachability::Reachability;
use crate::mount::slow;
use crate::mount::table::Mount;
use crate::mount::thread_limits::{Kind, OVERDUE, Owner};
use crate::mount::threads::{Submitted, Threads};
use crate::mount::weak_map::WeakMap;
use crate::nfs::source::{Server, Source};
use crate::nfs::status::Status;

/// The maximum number of threads in the kernel for one address.
pub const THREADS: usize = 12;

/// Makes blocking calls on one server, for one of its exports if it is known which. Clones share the gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>, Option<Export>);

/// An export, as one of those that share the threads of a server.
#[derive(Debug, Clone)]
struct Export {
    /// What identifies it among the server's exports.
    key: Owner,
    /// Its name in messages.
    name: Arc<str>,
}

struct Inner {
    server: Server,
    port: u16,
    /// Checks whether the server answers; `None` for this machine.
    reachability: Option<Arc<Reachability>>,
    threads: Threads,
    /// Calls, and values that are being closed.
    tracker: TaskTracker,
    /// How many waits of all gates were ended by force: see [`Gates::forced_waits`].
    forced: Arc<AtomicU64>,
}

/// The server stopped answering while a call was in the kernel, or waited for a thread. The call may still be carried
/// out. Or the server answers, but not for the export: then the call was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct Stalled {
    /// The server's address.
    pub server: Server,
    /// The TCP port of the check.
    pub port: u16,
    /// Why the last check got no answer.
    pub reason: String,
    /// The export, if the server answers, but not for it.
    pub export: Option<String>,
}

impl Stalled {
    fn message(&self) -> String {
        let Self { server, port, reason, export } = self;
        match export {
            Some(export) => format!("NFS server {server} answers, but not for {export}: {reason}"),
            None => format!("NFS server {server} does not answer on port {port}: {reason}"),
        }
    }
}

impl From<Stalled> for Status {
    fn from(stalled: Stalled) -> Self {
        if stalled.export.is_some() { Self::Stuck } else { Self::TimedOut }
    }
}

impl From<Stalled> for Error {
    fn from(Stalled { server, port, reason, export }: Stalled) -> Self {
        match export {
            Some(export) => Self::Export { export, action: "making calls".to_owned(), status: Status::Stuck },
            None => Self::Unreachable { server: server.to_string(), port, reason },
        }
    }
}

impl Gate {
    /// The gate of this machine's own file systems. It has [`THREADS`] threads, and checks no server.
    pub fn of_this_machine() -> Self {
        let inner = Inner {
            server: Server::this_machine(),
            port: 0,
            reachability: None,
            threads: Threads::for_owners(THREADS),
            tracker: TaskTracker::new(),
            forced: Arc::default(),
        };
        Self(Arc::new(inner), None)
    }

    /// The same gate, for the calls on the export of `source`, whatever directory of it `source` is.
    pub fn of_export(self, source: &Source) -> Self {
        let name: Arc<str> = source.export().to_string().into();
        Self(self.0, Some(Export { key: name.clone(), name }))
    }

    /// The same gate, for the calls on a mount. All mounts of an export with the same options are one file system for
    /// the kernel.
    pub fn of_mount(self, mount: &Mount) -> Self {
        let (major, minor) = mount.device;
        Self(self.0, Some(Export { key: format!("{major}:{minor}").into(), name: mount.source().into() }))
    }

    /// Makes a blocking call on a thread of the gate, and waits for it while the server answers. Returns [`Stalled`]
    /// within 5 s after the server has stopped answering, and within 10 s if calls for the export have.
    ///
    /// If the wait ends early, by [`Stalled`] or because the returned future is dropped, a call in the kernel
    /// continues, and its thread drops the result.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Result<T, Stalled> {
        self.perform(call, false).await
    }

    /// Like [`Self::run`], for many calls in one closure, which take long. Long calls leave some threads to other
    /// calls.
    pub async fn run_long<T: Send + 'static>(&self, calls: impl FnOnce() -> T + Send + 'static) -> Result<T, Stalled> {
        self.perform(calls, true).await
    }

    async fn perform<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
        takes_long: bool,
    ) -> Result<T, Stalled> {
        let (call, token) = (slow::queued(self.kept_by(call)), self.0.tracker.token());
        // The token ends after the result, which the thread drops if nobody waits for it any more.
        let submitted = self.0.threads.submit(self.kind(takes_long), move || (call(), token));
        let done = self.while_alive(submitted).await;
        if done.is_err() {
            self.0.forced.fetch_add(1, Ordering::Relaxed);
        }
        done?.map(|(result, _)| result).ok_or_else(|| self.going_down())
    }

    fn kind(&self, takes_long: bool) -> Kind {
        Kind { owner: self.1.as_ref().map(|export| export.key.clone()), takes_long }
    }

    /// Makes the call keep the gate alive, so that a thread that hangs counts as long as it hangs.
    fn kept_by<T, F: FnOnce() -> T>(&self, call: F) -> impl FnOnce() -> T + use<T, F> {
        let gate = self.clone();
        move || {
            let value = call();
            drop(gate);
            value
        }
    }

    /// Wraps a value whose drop may block in the kernel, such as the last descriptor of a mount or of a written file.
    /// A thread of this gate drops it.
    pub fn hold<T: Send + 'static>(&self, value: T) -> Held<T> {
        Held { value: Some(value), gate: self.clone() }
    }

    /// Waits for a call while the server answers, and answers for the export.
    async fn while_alive<T>(&self, mut call: Submitted<T>) -> Result<Option<T>, Stalled> {
        let Some(reachability) = &self.0.reachability else { return Ok(call.result().await) };
        let has_begun = call.begun();
        let go_on = || {
            self.0.threads.start_waiting();
            self.check_export(has_begun())
        };
        let server = (&self.0.server, self.0.port);
        reachability.while_it_answers(server, call.result(), go_on, |reason| self.stalled(reason)).await
    }

    /// Returns [`Stalled`] for a call that waits in vain.
    fn check_export(&self, has_begun: bool) -> Result<(), Stalled> {
        match &self.1 {
            Some(export) if !has_begun && self.0.threads.is_stuck(&export.key) => {
                let reason = format!("its earlier calls have no answer for more than {} s", OVERDUE.as_secs());
                Err(Stalled { export: Some(export.name.to_string()), ..self.stalled(reason) })
            }
            _ => Ok(()),
        }
    }

    fn going_down(&self) -> Stalled {
        self.stalled("the driver is shutting down".to_owned())
    }

    fn stalled(&self, reason: String) -> Stalled {
        Stalled { server: self.0.server.clone(), port: self.0.port, reason, export: None }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}, {:?}", self.server, self.port, self.threads)
    }
}

/// A value that is dropped on a thread of its gate, because its drop may block in the kernel.
#[derive(Debug)]
pub struct Held<T: Send + 'static> {
    /// `None` only during the drop.
    value: Option<T>,
    gate: Gate,
}

impl<T: Send + 'static> Held<T> {
    /// The value, for a caller on a thread of the gate, which drops it.
    pub fn release(mut self) -> T {
        match self.value.take() {
            Some(value) => value,
            None => unreachable!("nothing can release a value that is being dropped"),
        }
    }
}

impl<T: Send + 'static> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("nothing can refer to a value that is being dropped"),
        }
    }
}

impl<T: Send + 'static> Drop for Held<T> {
    fn drop(&mut self) {
        let (Some(value), Ok(runtime)) = (self.value.take(), Handle::try_current()) else { return };
        let gate = self.gate.clone();
        // The task may wait long for a free thread. The caller does not wait for the task.
        let tracker = gate.0.tracker.clone();
        tracker.spawn_on(
            async move {
                let kept = gate.clone();
                let close = move || {
                    drop(value);
                    drop(kept);
                };
                gate.0.threads.submit(gate.kind(false), close).result().await
            },
            &runtime,
        );
    }
}

/// The gates of all servers in use.
#[derive(Debug)]
pub struct Gates {
    reachability: Arc<Reachability>,
    gates: WeakMap<(IpAddr, u16), Inner>,
    /// Calls, and values that are being closed.
    tracker: TaskTracker,
    local: Local,
    forced: Arc<AtomicU64>,
}

impl Gates {
    /// A set of gates that check servers with `reachability`. It is empty at first.
    pub fn new(reachability: Arc<Reachability>) -> Arc<Self> {
        Arc::new(Self {
            reachability,
            gates: WeakMap::default(),
            tracker: TaskTracker::new(),
            local: Local::default(),
            forced: Arc::default(),
        })
    }

    /// The threads for work that asks no server.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Waits until every call has ended, also one that nobody waits for, and until the threads have closed every dropped
    /// [`Held`] value, for `limit` at most. Call this before the process ends. If the end of the process cuts a call
    /// off, the server still works on it: the kernel then cannot end its session there, and tries again for 10 s before
    /// it lets the process go. A thread that is closing something on an unreachable server ends at once with the
    /// process. If the end of the process had to close it, the kernel would wait for the server.
    pub async fn ended(&self, limit: Duration) {
        self.tracker.close();
        if timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::info!("a server does not answer; the driver stops without waiting for its calls there");
        }
    }

    /// The gate of a server's address. It exists while a caller holds it or one of its threads is in the kernel.
    pub fn get(&self, address: IpAddr, port: u16) -> Gate {
        let gate = self.gates.get_or_insert_with((address, port), || Inner {
            server: address.into(),
            port,
            reachability: Some(Arc::clone(&self.reachability)),
            threads: Threads::for_owners(THREADS),
            tracker: self.tracker.clone(),
            forced: self.forced.clone(),
        });
        Gate(gate, None)
    }

    /// How many threads are stuck in the kernel, by the address of the server: those of the gates in use.
    pub fn stuck(&self) -> BTreeMap<IpAddr, usize> {
        let mut stuck = BTreeMap::new();
        for ((address, _), gate) in self.gates.held() {
            *stuck.entry(address).or_default() += gate.threads.stuck();
        }
        stuck
    }

    /// How many waits were ended by force, because the server or the export stopped answering, since the process
    /// started.
    pub fn forced_waits(&self) -> u64 {
        self.forced.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
