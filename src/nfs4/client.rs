//! A client of a server: its name and number there, its session, its lease, and its end.
//!
//! **It never recovers state.** Every request begins with SEQUENCE, so once the server has ended the lease, whatever is
//! still sent fails before it does anything. The client is over then, and with it all files and locks
//! (`Status::Stale`). Whoever uses it makes a new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::nfs::status::FsResult;
use crate::nfs4::attributes::attribute;
use crate::nfs4::codes::Code;
use crate::nfs4::compound::{Compound, Limits};
use crate::nfs4::connection::{ANSWER_MAX, Connection, Lost, OpenError};
use crate::nfs4::results::{Failure, Outcome, Results};
use crate::nfs4::rpc::{self, Refusal};
use crate::nfs4::session::{Answer, Caller, PAUSES, Server, Session};

/// The most requests at a time. knfsd has 8 threads by default for all of its exports, and those of an export that hangs
/// answer nobody.
const SLOTS: u32 = 12;
/// The most bytes of a request: WRITE's data, and what surrounds it.
const REQUEST_MAX: u32 = (1 << 20) + (64 << 10);
/// The most bytes of an answer that the server has to remember: that of a request which changes something.
const REMEMBERED: u32 = 4096;
/// The most operations of a request. knfsd takes 50 since Linux 5.11, and 16 before.
const OPERATIONS: u32 = 64;
/// How many operations of a request every server takes.
const FEW_OPERATIONS: u32 = 16;
/// How long the end of a client, or of all of a process, may take.
pub const ENDING: Duration = Duration::from_secs(1);

/// A client. The server ends its state when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client_id: u64,
    session: Session,
    limits: Limits,
    /// Numbers of owners of open files and of locks.
    owners: AtomicU64,
    /// The tasks that end clients and close files.
    ending: TaskTracker,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection.
    #[error(transparent)]
    Open(#[from] OpenError),
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
        let connection = Connection::open(server.address, server.tls.as_ref()).await?;
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
        let verifier = uuid::Uuid::new_v4().as_u64_pair().0.to_be_bytes();
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
        let limits = Limits {
            slots: granted.slots.clamp(1, SLOTS),
            operations: granted.operations.clamp(FEW_OPERATIONS, OPERATIONS),
            ..granted
        };
        let mut session = Session::new(server, session, limits.slots, connection, begun);
        let compound = Compound::default().reclaim_complete().put_root().attributes(&[attribute::LEASE_TIME]);
        let answer = session.settle(&compound, &Caller::default()).await.map_err(|_| ConnectError::Lost)?;
        let lease = decoded_rest("RECLAIM_COMPLETE", answer.results(), |results| {
            results.reclaim_complete()?;
            results.put_root()?;
            results.attributes()?.lease_time.ok_or(Failure::Malformed)
        })?;
        session.lease = Duration::from_secs(lease.max(1).into());
        let every = session.lease / 3;
        let inner = Arc::new(Inner { client_id, session, limits, owners: AtomicU64::new(1), ending });
        tokio::spawn(keep(Arc::downgrade(&inner), every));
        Ok(Self(inner))
    }

    /// Carries out a request, however long it takes (`Session::settle`).
    ///
    /// # Errors
    /// `Status::Stale` after the end of the lease. `Status::TimedOut` if the caller gave up before it was sent.
    pub async fn settle(&self, compound: &Compound, caller: &Caller) -> FsResult<Answer> {
        self.0.session.settle(compound, caller).await
    }

    /// Whether no request has had an answer for at least this time, and no other one can be sent.
    pub fn is_stuck(&self, overdue: Duration) -> bool {
        self.0.session.is_stuck(overdue)
    }

    /// Does something that the caller does not wait for, such as closing a file: one request after the other.
    pub fn later(&self, compounds: Vec<Compound>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (inner, ending) = (self.0.clone(), self.0.ending.clone());
        let work = async move {
            for compound in compounds {
                // After an end of the lease there is nothing to close.
                let _: FsResult<Answer> = inner.session.settle(&compound, &Caller::default()).await;
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

    /// What the server granted, and this client uses.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// How long the server keeps the state of a client that it does not hear of.
    pub fn lease(&self) -> Duration {
        self.0.session.lease
    }

    /// The minor version of NFSv4.
    pub fn minor_version(&self) -> u32 {
        self.0.session.server().minor_version
    }
}

impl Drop for Inner {
    /// Ends the session and the client on the server, so that it need not wait for the end of the lease.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Some(connection) = self.session.last_connection() else { return };
        let (server, session, client_id) = (self.session.server().clone(), self.session.id(), self.client_id);
        let end = async move {
            for last in [Compound::default().destroy_session(&session), Compound::default().destroy_client(client_id)] {
                let arguments = last.arguments(server.minor_version, &Compound::default());
                connection.call(&server.credential, &arguments).await?;
            }
            Ok::<_, Lost>(())
        };
        self.ending.spawn_on(async move { drop(tokio::time::timeout(ENDING, end).await) }, &runtime);
    }
}

/// Renews the lease for as long as the client is used.
async fn keep(client: Weak<Inner>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(client) = client.upgrade() else { return };
        if client.session.is_over() {
            return;
        }
        let _: FsResult<Answer> = client.session.settle(&Compound::default(), &Caller::default()).await;
    }
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
