//! The one way to a blocking system call: bounded in number and in waiting.
//!
//! A call on an NFS mount ends when the server answers, which it may never do, and no thread can be taken out of it. So
//! every such call goes through the gate of its server: a bounded number of threads may be in the kernel for one server,
//! and a caller waits only as long as the server is seen to live. A server that is gone costs its own callers an error
//! and the driver a few threads; it costs nobody else anything.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::reachability::Reachability;
use super::source::Server;
use crate::error::Error;
use crate::export::fs::Status;

/// Threads that may be in the kernel for one server.
pub const THREADS: usize = 16;
/// How long a caller waits before it asks whether the server lives, and again. With the age an answer may have (1 s) and
/// the time a question may take (2 s), a caller learns of a server's death within 5 s.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The way to blocking calls on one server. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    server: Server,
    port: u16,
    reachability: Arc<Reachability>,
    permits: Arc<Semaphore>,
}

/// The server died while a call was in the kernel, or waited to go there. The call may yet be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("NFS server {server} does not answer on port {port}: {reason}")]
pub struct Stalled {
    /// The server, as the parameters name it.
    pub server: Server,
    /// The port that was asked, TCP.
    pub port: u16,
    /// What the last question got.
    pub reason: String,
}

impl From<Stalled> for Status {
    fn from(_: Stalled) -> Self {
        Self::TimedOut
    }
}

impl From<Stalled> for Error {
    fn from(Stalled { server, port, reason }: Stalled) -> Self {
        Self::Unreachable { server: server.to_string(), port, reason }
    }
}

impl Gate {
    /// The server behind it.
    pub fn server(&self) -> &Server {
        &self.0.server
    }

    /// The server's port, TCP.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Makes a blocking call on a thread of its own and waits for it as long as the server lives: within 5 s of the
    /// server's death, [`Stalled`].
    ///
    /// When the wait ends early, by [`Stalled`] or because the returned future is dropped, the call goes on: the kernel
    /// holds it. What it gives is then dropped on its thread.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Result<T, Stalled> {
        let permit = self.while_alive(self.permit()).await?;
        let call = tokio::task::spawn_blocking(move || {
            let value = call();
            drop(permit);
            value
        });
        match self.while_alive(call).await? {
            Ok(value) => Ok(value),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.stalled("the driver is going down".to_owned())),
            },
        }
    }

    /// Wraps a value whose drop may block in the kernel, such as the last descriptor of a mount or of a written file:
    /// it is dropped on a thread of this gate.
    pub fn hold<T: Send + 'static>(&self, value: T) -> Held<T> {
        Held { value: Some(value), gate: self.clone() }
    }

    /// Waits for `work` while the server answers.
    async fn while_alive<F: Future>(&self, work: F) -> Result<F::Output, Stalled> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout(PATIENCE, &mut work).await {
                return Ok(done);
            }
            tokio::select! {
                done = &mut work => return Ok(done),
                answer = self.0.reachability.check(&self.0.server, self.0.port) => match answer {
                    Ok(_) => {}
                    Err(Error::Unreachable { reason, .. }) => return Err(self.stalled(reason)),
                    Err(other) => return Err(self.stalled(other.to_string())),
                },
            }
        }
    }

    /// The right to one thread. It keeps the gate alive, so that a thread which is stuck counts as long as it is.
    async fn permit(&self) -> Option<(OwnedSemaphorePermit, Self)> {
        // An error would mean that the semaphore was closed, which nothing does.
        Arc::clone(&self.0.permits).acquire_owned().await.ok().map(|permit| (permit, self.clone()))
    }

    fn stalled(&self, reason: String) -> Stalled {
        Stalled { server: self.0.server.clone(), port: self.0.port, reason }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}, {} of {THREADS} threads free", self.server, self.port, self.permits.available_permits())
    }
}

/// A value that is dropped on a thread of its gate, because its drop may block in the kernel.
#[derive(Debug)]
pub struct Held<T: Send + 'static> {
    /// Empty only while it is being dropped.
    value: Option<T>,
    gate: Gate,
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
        // Waits for a thread as long as it takes: it is a task, and costs nobody anything.
        runtime.spawn(async move {
            let permit = gate.permit().await;
            tokio::task::spawn_blocking(move || {
                drop(value);
                drop(permit);
            });
        });
    }
}

/// The gates of all servers in use.
#[derive(Debug)]
pub struct Gates {
    reachability: Arc<Reachability>,
    gates: Mutex<HashMap<(Server, u16), Weak<Inner>>>,
}

impl Gates {
    /// No gates yet; they ask `reachability`.
    pub fn new(reachability: Arc<Reachability>) -> Arc<Self> {
        Arc::new(Self { reachability, gates: Mutex::default() })
    }

    /// The gate of a server. It exists as long as somebody holds it or one of its threads is in the kernel.
    pub fn get(&self, server: &Server, port: u16) -> Gate {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(&(server.clone(), port)).and_then(Weak::upgrade) {
            return Gate(gate);
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(Inner {
            server: server.clone(),
            port,
            reachability: Arc::clone(&self.reachability),
            permits: Arc::new(Semaphore::new(THREADS)),
        });
        gates.insert((server.clone(), port), Arc::downgrade(&gate));
        Gate(gate)
    }
}
