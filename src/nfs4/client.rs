//! A client of a server with one session (RFC 8881, section 2.10): requests are carried out exactly once, in as many
//! slots as the server grants, whatever happens to the connection.
//!
//! **It never recovers state.** Every request begins with SEQUENCE, so once the server has ended the lease, whatever is
//! still sent fails before it does anything. The client is over then, and with it all files and locks
//! (`Status::Stale`). Whoever uses it makes a new one.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nfs::status::{FsResult, Status};
use crate::nfs4::attributes::attribute;
use crate::nfs4::codes::Code;
use crate::nfs4::compound::{Compound, Limits};
use crate::nfs4::connection::{ANSWER_MAX, Connection};
use crate::nfs4::results::{Failure, Outcome, Results};
use crate::nfs4::rpc::{self, Credential, Refusal};

/// The most requests at a time.
const SLOTS: u32 = 64;
/// The most bytes of a request: WRITE's data, and what surrounds it.
const REQUEST_MAX: u32 = (1 << 20) + (64 << 10);
/// The most bytes of an answer that the server has to remember: that of a request which changes something.
const REMEMBERED: u32 = 4096;
/// The most operations of a request; every server takes as many.
const OPERATIONS: u32 = 16;
/// How long a caller waits for an answer. The request goes on without it.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a caller waits for a server in its grace period, which is 90 s by default.
const GRACE: Duration = Duration::from_secs(120);
/// Between attempts to connect, or to do what the server delays.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long the end of a client, or of all of a process, may take.
pub const ENDING: Duration = Duration::from_secs(1);

/// A client. The server ends its state when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Server,
    client_id: u64,
    session: [u8; 16],
    limits: Limits,
    lease: Duration,
    slots: Semaphore,
    /// The slots that no request uses, each with the sequence of its next request.
    free: Mutex<Vec<Slot>>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    /// When the server last confirmed the lease.
    confirmed: Mutex<Instant>,
    /// When the server last said that it is in its grace period.
    in_grace: Mutex<Option<Instant>>,
    /// Cancelled when the state is over.
    over: CancellationToken,
    /// Numbers of owners of open files and of locks.
    owners: AtomicU64,
    /// The tasks that end clients and close files.
    ending: TaskTracker,
}

/// How a server is reached, and what is said to it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address and port.
    pub address: SocketAddr,
    /// Who asks.
    pub credential: Credential,
    /// The minor version of NFSv4: 1 or 2.
    pub minor_version: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u32,
    sequence: u32,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// RPC.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An operation failed.
    #[error("{operation}: NFS error {}", .code.0)]
    Nfs {
        /// What was asked.
        operation: &'static str,
        /// What the server answered.
        code: Code,
    },
    /// An answer makes no sense.
    #[error("{0}: the answer is malformed")]
    Malformed(&'static str),
    /// The server ended the connection or the new session.
    #[error("the server ended the connection")]
    Lost,
}

impl Client {
    /// Makes the server's client of the name `owner`. If the server knows a client of that name, its state ends: its
    /// locks are free, and its requests fail. `ending` gets the tasks that end the client.
    ///
    /// # Errors
    /// Why the server cannot be used.
    pub async fn connect(server: Server, owner: &[u8], ending: TaskTracker) -> Result<Self, ConnectError> {
        let connection = Connection::open(server.address).await?;
        let alone = async |compound: Compound| -> Result<Vec<u8>, ConnectError> {
            let arguments = compound.arguments(server.minor_version, &Compound::default());
            loop {
                let reply = connection.call(&server.credential, &arguments).await.map_err(|_| ConnectError::Lost)?;
                // The server may still work on a request of the former client of that name.
                if Results::read(rpc::results(&reply)?).is_ok_and(|(_, status)| status == Code::DELAY) {
                    tokio::time::sleep(PAUSES.0).await;
                } else {
                    return Ok(reply);
                }
            }
        };
        let begun = Instant::now();
        let verifier: [u8; 8] = std::array::from_fn(|n| uuid::Uuid::new_v4().as_bytes()[n]);
        let answer = alone(Compound::default().exchange_id(owner, verifier)).await?;
        let (client_id, sequence) = decoded("EXCHANGE_ID", &answer, |results| results.exchange_id())?;
        let wanted = Limits {
            request: REQUEST_MAX,
            response: ANSWER_MAX as u32,
            cached: REMEMBERED,
            operations: OPERATIONS,
            slots: SLOTS,
        };
        let answer = alone(Compound::default().create_session(client_id, sequence, wanted)).await?;
        let (session, granted) = decoded("CREATE_SESSION", &answer, |results| results.create_session())?;
        let slots = granted.slots.clamp(1, SLOTS);
        let mut inner = Inner {
            server,
            client_id,
            session,
            limits: granted,
            lease: Duration::ZERO,
            slots: Semaphore::new(slots as usize),
            free: Mutex::new((0..slots).rev().map(|number| Slot { number, sequence: 1 }).collect()),
            connection: tokio::sync::Mutex::new(Some(connection)),
            confirmed: Mutex::new(begun),
            in_grace: Mutex::default(),
            over: CancellationToken::new(),
            owners: AtomicU64::new(1),
            ending,
        };
        let compound = Compound::default().reclaim_complete().put_root().attributes(&[attribute::LEASE_TIME]);
        let answer = inner.settle(&compound).await.map_err(|_| ConnectError::Lost)?;
        let lease = decoded_rest("RECLAIM_COMPLETE", answer.results(), |results| {
            results.reclaim_complete()?;
            results.put_root()?;
            results.attributes()?.lease_time.ok_or(Failure::Malformed)
        })?;
        inner.lease = Duration::from_secs(lease.max(1).into());
        let inner = Arc::new(inner);
        tokio::spawn(keep(Arc::downgrade(&inner), inner.lease / 3));
        Ok(Self(inner))
    }

    /// Carries out a request. When the caller gives up, or after `PATIENCE` without an answer, it goes on: the server
    /// may still do it. A request that the server delays is repeated, unless a part of it was done.
    ///
    /// # Errors
    /// `Status::TimedOut` without an answer in time. `Status::Stale` after the end of the lease.
    pub async fn call(&self, compound: Compound) -> FsResult<Answer> {
        let client = self.clone();
        self.patiently(async move { client.settle(compound).await }).await
    }

    /// Like `Self::call`, for work of several steps.
    pub async fn patiently<T: Send + 'static>(
        &self,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
    ) -> FsResult<T> {
        let (begun, mut work) = (Instant::now(), tokio::spawn(work));
        loop {
            match tokio::time::timeout(PATIENCE, &mut work).await {
                Ok(Ok(answer)) => return answer,
                // The runtime is ending.
                Ok(Err(_)) => return Err(Status::Io),
                // A server that has restarted lets nobody in for a minute or two, and answers meanwhile.
                Err(_) if self.is_in_grace() && begun.elapsed() < GRACE => {}
                Err(_) => return Err(Status::TimedOut),
            }
        }
    }

    fn is_in_grace(&self) -> bool {
        lock(&self.0.in_grace).is_some_and(|said| said.elapsed() < PATIENCE)
    }

    /// Carries out a request, however long it takes. The caller must not give up: the slot would be lost.
    pub async fn settle(&self, compound: Compound) -> FsResult<Answer> {
        self.0.settle(&compound).await
    }

    /// Does something that the caller does not wait for, such as closing a file: one request after the other.
    pub fn later(&self, compounds: Vec<Compound>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (inner, ending) = (self.0.clone(), self.0.ending.clone());
        let work = async move {
            for compound in compounds {
                // After an end of the lease there is nothing to close.
                let _: FsResult<Answer> = inner.settle(&compound).await;
            }
        };
        ending.spawn_on(work, &runtime);
    }

    /// The server's number of this client.
    pub fn client_id(&self) -> u64 {
        self.0.client_id
    }

    /// A number that this client has not used for an owner yet.
    pub fn new_owner(&self) -> u64 {
        self.0.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// What the server granted.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// How many requests it takes at a time.
    pub fn slots(&self) -> u32 {
        self.0.limits.slots.clamp(1, SLOTS)
    }

    /// How long the server keeps the state of a client that it does not hear of.
    pub fn lease(&self) -> Duration {
        self.0.lease
    }

    /// The minor version of NFSv4.
    pub fn minor_version(&self) -> u32 {
        self.0.server.minor_version
    }
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    reply: Vec<u8>,
}

impl Answer {
    /// The results of the request's operations.
    ///
    /// # Panics
    /// Never: the answer was read before.
    pub fn results(&self) -> Outcome<Results<'_>> {
        let (mut results, _) = Results::read(rpc::results(&self.reply).map_err(|_| Failure::Malformed)?)?;
        results.sequence()?;
        Ok(results)
    }
}

impl Inner {
    /// Carries out a request in a slot, until the server has answered or the client is over.
    async fn settle(&self, compound: &Compound) -> FsResult<Answer> {
        let mut pauses = PAUSES.0;
        loop {
            let answer = tokio::select! {
                answer = self.exchange(compound) => answer?,
                () = self.over.cancelled() => return Err(Status::Stale),
            };
            if !self.is_to_repeat(compound, &answer)? {
                return Ok(answer);
            }
            tokio::time::sleep(pauses).await;
            pauses = PAUSES.1.min(pauses * 2);
        }
    }

    /// Whether the server asks to repeat the request, and nothing of it was done.
    fn is_to_repeat(&self, compound: &Compound, answer: &Answer) -> FsResult<bool> {
        let results = rpc::results(&answer.reply).map_err(|_| Status::Io)?;
        let (results, status) = Results::read(results).map_err(|_| Status::Io)?;
        // SEQUENCE is the first result, and the one that failed is the last.
        let done = results.left().saturating_sub(2);
        if status == Code::GRACE {
            *lock(&self.in_grace) = Some(Instant::now());
        }
        Ok(match status {
            Code::DELAY | Code::GRACE => done <= compound.harmless(),
            // The connection was lost, and the server did not have to remember the answer.
            Code::RETRY_UNCACHED_REP => !compound.changes(),
            _ => false,
        })
    }

    /// Sends a request in a slot: the same bytes, over as many connections as it takes.
    async fn exchange(&self, compound: &Compound) -> FsResult<Answer> {
        let permit = self.slots.acquire().await.map_err(|_| Status::Stale)?;
        let mut slot = Taken { of: self, slot: lock(&self.free).pop(), permit: Some(permit) };
        let Some(Slot { number, sequence }) = slot.slot else { return Err(Status::Io) };
        let highest = self.slots_granted() - 1;
        let first = Compound::default().sequence(&self.session, sequence, number, highest, compound.changes());
        let arguments = first.arguments(self.server.minor_version, compound);
        let mut pauses = PAUSES.0;
        loop {
            let asked = Instant::now();
            let Ok(reply) = self.connection().await.call(&self.server.credential, &arguments).await else {
                self.pause(&mut pauses).await;
                continue;
            };
            match answered(&reply) {
                Ok(answered) if answered == (self.session, sequence, number) => {
                    *lock(&self.confirmed) = asked;
                    slot.settled(sequence.wrapping_add(1));
                    return Ok(Answer { reply });
                }
                // The server still works on the request that the lost connection has brought.
                Err(Failure::Code(Code::DELAY)) => tokio::time::sleep(PAUSES.0).await,
                // The session or the client is over; or the server has lost count.
                unanswered => {
                    tracing::debug!(?unanswered, "the session with the NFS server is over");
                    self.over.cancel();
                    return Err(Status::Stale);
                }
            }
        }
    }

    fn slots_granted(&self) -> u32 {
        self.limits.slots.clamp(1, SLOTS)
    }

    /// The connection, which is made anew if it is lost, until the lease is over.
    async fn connection(&self) -> Connection {
        let mut kept = self.connection.lock().await;
        let mut pauses = PAUSES.0;
        loop {
            if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_lost()) {
                return connection.clone();
            }
            match Connection::open(self.server.address).await {
                Ok(connection) => *kept = Some(connection),
                Err(error) => {
                    tracing::debug!(%error, server = %self.server.address, "connecting to the NFS server");
                    self.pause(&mut pauses).await;
                }
            }
        }
    }

    /// Waits after a connection was lost or not made, until the lease is over.
    async fn pause(&self, pauses: &mut Duration) {
        if self.lease > Duration::ZERO && lock(&self.confirmed).elapsed() > self.lease {
            self.over.cancel();
        }
        tokio::time::sleep(*pauses).await;
        *pauses = PAUSES.1.min(*pauses * 2);
    }
}

impl Drop for Inner {
    /// Ends the session and the client on the server, so that it need not wait for the end of the lease.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Some(connection) = self.connection.get_mut().take().filter(|connection| !connection.is_lost()) else {
            return;
        };
        let (server, session, client_id) = (self.server.clone(), self.session, self.client_id);
        let end = async move {
            for last in [Compound::default().destroy_session(&session), Compound::default().destroy_client(client_id)] {
                let arguments = last.arguments(server.minor_version, &Compound::default());
                connection.call(&server.credential, &arguments).await?;
            }
            Ok::<_, crate::nfs4::connection::Lost>(())
        };
        self.ending.spawn_on(async move { drop(tokio::time::timeout(ENDING, end).await) }, &runtime);
    }
}

/// A slot in use. One whose request was never answered is not used again.
struct Taken<'a> {
    of: &'a Inner,
    slot: Option<Slot>,
    permit: Option<SemaphorePermit<'a>>,
}

impl Taken<'_> {
    fn settled(&mut self, sequence: u32) {
        if let Some(slot) = self.slot.take() {
            lock(&self.of.free).push(Slot { sequence, ..slot });
        }
        self.permit.take();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.forget();
        }
    }
}

/// Renews the lease for as long as the client is used.
async fn keep(client: Weak<Inner>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(client) = client.upgrade() else { return };
        if client.over.is_cancelled() {
            return;
        }
        let _: FsResult<Answer> = client.settle(&Compound::default()).await;
    }
}

/// The session, the sequence and the slot that a reply is for.
fn answered(reply: &[u8]) -> Outcome<([u8; 16], u32, u32)> {
    let (mut results, _) = Results::read(rpc::results(reply).map_err(|_| Failure::Malformed)?)?;
    results.sequence()
}

fn decoded<T>(
    operation: &'static str,
    reply: &[u8],
    read: impl FnOnce(&mut Results<'_>) -> Outcome<T>,
) -> Result<T, ConnectError> {
    let results = Results::read(rpc::results(reply)?).map_err(|_| ConnectError::Malformed(operation))?;
    if results.1 == Code::MINOR_VERS_MISMATCH {
        return Err(ConnectError::Nfs { operation, code: results.1 });
    }
    decoded_rest(operation, Ok(results.0), read)
}

fn decoded_rest<T>(
    operation: &'static str,
    results: Outcome<Results<'_>>,
    read: impl FnOnce(&mut Results<'_>) -> Outcome<T>,
) -> Result<T, ConnectError> {
    results.and_then(|mut results| read(&mut results)).map_err(|failure| match failure {
        Failure::Code(code) => ConnectError::Nfs { operation, code },
        Failure::Malformed => ConnectError::Malformed(operation),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
