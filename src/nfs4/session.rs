//! A session (RFC 8881, section 2.10): requests are carried out exactly once, in as many slots as the server grants,
//! whatever happens to the connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::nfs::status::{FsResult, Status};
use crate::nfs4::codes::Code;
use crate::nfs4::compound::Compound;
use crate::nfs4::connection::Connection;
use crate::nfs4::results::{Failure, Outcome, Results};
use crate::nfs4::rpc::{self, Credential};
use crate::nfs4::tls::Tls;

/// Between attempts to connect, or to do what the server delays.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The slots that requests which take long leave to others.
const QUICK: u32 = 4;

/// How a server is reached, and what is said to it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address and port.
    pub address: SocketAddr,
    /// Who asks.
    pub credential: Credential,
    /// The minor version of NFSv4: 1 or 2.
    pub minor_version: u32,
    /// How every connection to it is encrypted, if it is.
    pub tls: Option<Tls>,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    server: Server,
    id: [u8; 16],
    highest_slot: u32,
    /// How long the server keeps the state of a client that it does not hear of; zero before it has said so.
    pub lease: Duration,
    slots: Semaphore,
    /// Those that requests which take long may use.
    long: Semaphore,
    /// When a request last got a slot.
    begun: Mutex<Instant>,
    /// The slots that no request uses, each with the sequence of its next request.
    free: Mutex<Vec<Slot>>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    /// When the server last confirmed the lease.
    confirmed: Mutex<Instant>,
    /// Cancelled when the state is over.
    over: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u32,
    sequence: u32,
}

/// Whoever waits for a request. One who gives up leaves it to itself if it has a slot, and otherwise takes it back.
#[derive(Debug, Clone, Default)]
pub struct Caller(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    gave_up: CancellationToken,
    for_slot: AtomicBool,
}

impl Caller {
    /// The caller gives up when this is dropped.
    pub fn gives_up(&self) -> DropGuard {
        self.0.gave_up.clone().drop_guard()
    }

    /// Whether the request has no slot yet.
    pub fn waits(&self) -> bool {
        self.0.for_slot.load(Ordering::Relaxed)
    }

    async fn acquire<'a>(&self, slots: &'a Semaphore) -> FsResult<SemaphorePermit<'a>> {
        self.0.for_slot.store(true, Ordering::Relaxed);
        let permit = tokio::select! {
            biased;
            permit = slots.acquire() => permit.map_err(|_| Status::Stale)?,
            () = self.0.gave_up.cancelled() => return Err(Status::TimedOut),
        };
        self.0.for_slot.store(false, Ordering::Relaxed);
        Ok(permit)
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
    /// # Errors
    /// None: the session has read the answer up to here.
    pub fn results(&self) -> Outcome<Results<'_>> {
        let (mut results, _) = self.read()?;
        results.sequence()?;
        Ok(results)
    }

    /// All results, that of SEQUENCE first, and the status of the last one.
    fn read(&self) -> Outcome<(Results<'_>, Code)> {
        Ok(Results::read(rpc::results(&self.reply).map_err(|_| Failure::Malformed)?)?)
    }

    /// The session, the sequence and the slot that are answered.
    fn answered(&self) -> Outcome<([u8; 16], u32, u32)> {
        self.read()?.0.sequence()
    }
}

impl Session {
    /// A session that the server has made over this connection, after a request at the time `confirmed`.
    pub fn new(server: Server, id: [u8; 16], slots: u32, connection: Connection, confirmed: Instant) -> Self {
        Self {
            server,
            id,
            highest_slot: slots - 1,
            lease: Duration::ZERO,
            slots: Semaphore::new(slots as usize),
            long: Semaphore::new(slots.saturating_sub(QUICK).max(1) as usize),
            begun: Mutex::new(confirmed),
            free: Mutex::new((0..slots).rev().map(|number| Slot { number, sequence: 1 }).collect()),
            connection: tokio::sync::Mutex::new(Some(connection)),
            confirmed: Mutex::new(confirmed),
            over: CancellationToken::new(),
        }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The session's number.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Whether the server has ended the state.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Whether every slot has a request without an answer for at least this time.
    pub fn is_stuck(&self, overdue: Duration) -> bool {
        self.slots.available_permits() == 0 && lock(&self.begun).elapsed() >= overdue
    }

    /// The connection, if there is one, for what ends the session.
    pub fn last_connection(&mut self) -> Option<Connection> {
        self.connection.get_mut().take().filter(|connection| !connection.is_lost())
    }

    /// Carries out a request in a slot, until the server has answered or the state is over. Once it has a slot, dropping
    /// this loses the slot. A caller that gives up before is answered `Status::TimedOut`, and nothing is sent.
    pub async fn settle(&self, compound: &Compound, caller: &Caller) -> FsResult<Answer> {
        let mut pauses = PAUSES.0;
        loop {
            let answer = tokio::select! {
                answer = self.exchange(compound, caller) => answer?,
                () = self.over.cancelled() => return Err(Status::Stale),
            };
            if !self.is_to_repeat(compound, &answer)? {
                return Ok(answer);
            }
            wait(&mut pauses).await;
        }
    }

    /// Whether the server asks to repeat the request, and nothing of it was done.
    fn is_to_repeat(&self, compound: &Compound, answer: &Answer) -> FsResult<bool> {
        let (results, status) = answer.read().map_err(|_| Status::Io)?;
        // SEQUENCE is the first result, and the one that failed is the last.
        let done = results.left().saturating_sub(2);
        Ok(match status {
            Code::DELAY | Code::GRACE => done <= compound.harmless(),
            // The connection was lost, and the server did not have to remember the answer.
            Code::RETRY_UNCACHED_REP => !compound.changes(),
            _ => false,
        })
    }

    /// Sends a request in a slot: the same bytes, over as many connections as it takes.
    async fn exchange(&self, compound: &Compound, caller: &Caller) -> FsResult<Answer> {
        let _long = if compound.takes_long() { Some(caller.acquire(&self.long).await?) } else { None };
        let permit = caller.acquire(&self.slots).await?;
        *lock(&self.begun) = Instant::now();
        let mut slot = Taken { of: self, slot: lock(&self.free).pop(), permit: Some(permit) };
        let Some(Slot { number, sequence }) = slot.slot else { return Err(Status::Io) };
        let first = Compound::default().sequence(&self.id, sequence, number, self.highest_slot, compound.changes());
        let arguments = first.arguments(self.server.minor_version, compound);
        let mut pauses = PAUSES.0;
        loop {
            let asked = Instant::now();
            let Ok(reply) = self.connection().await.call(&self.server.credential, &arguments).await else {
                self.pause(&mut pauses).await;
                continue;
            };
            let answer = Answer { reply };
            match answer.answered() {
                Ok(answered) if answered == (self.id, sequence, number) => {
                    *lock(&self.confirmed) = asked;
                    slot.settled(sequence.wrapping_add(1));
                    return Ok(answer);
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

    /// The connection, which is made anew if it is lost, until the lease is over.
    async fn connection(&self) -> Connection {
        let mut kept = self.connection.lock().await;
        let mut pauses = PAUSES.0;
        loop {
            if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_lost()) {
                return connection.clone();
            }
            match Connection::open(self.server.address, self.server.tls.as_ref()).await {
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
        wait(pauses).await;
    }
}

/// Waits, and doubles the next pause.
async fn wait(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = PAUSES.1.min(*pause * 2);
}

/// A slot in use. One whose request was never answered is not used again.
struct Taken<'a> {
    of: &'a Session,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
