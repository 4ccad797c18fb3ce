//! A small server of NFSv4.1 and NFSv4.2 on an export in memory. It speaks to the driver's own client over TCP, and
//! misbehaves as a test asks it to.
//!
//! It has what that client uses of the protocol, and is strict about it: a client that relies on more than the RFCs
//! promise fails here. A filehandle is an object's `fileid`, and never expires. State is kept until the lease is over.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::nfs4::codes::Code;
use crate::nfs4::connection::ANSWER_MAX;
use crate::nfs4::rpc::{REPLY, mark, record};
use crate::nfs4::xdr::{Malformed, Read, Reader, Writer};
use crate::testing::memory::{MemoryFs, MemoryServer};

mod attributes;
mod compound;
mod fault;
mod files;
mod names;
mod session;
mod state;
mod tests;

pub use fault::{Cut, Fault};

use fault::Faults;
use session::Sessions;

/// A server, which ends when it is dropped.
pub struct NfsServer {
    /// Where it listens.
    pub address: SocketAddr,
    service: Arc<Service>,
    #[expect(dead_code, reason = "it is held for its drop")]
    listening: AbortOnDropHandle<()>,
}

/// What all connections share.
struct Service {
    fs: MemoryFs,
    sessions: Mutex<Sessions>,
    faults: Mutex<Faults>,
    /// The number of requests so far.
    requests: AtomicU64,
    /// The number of restarts so far.
    boots: AtomicU64,
    /// Ends the connections.
    connections: Mutex<CancellationToken>,
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy)]
struct Refused(Code);

type Done<T> = Result<T, Refused>;

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        const BADXDR: Code = Code(10_036);
        Self(BADXDR)
    }
}

impl NfsServer {
    /// Serves an export.
    pub async fn start(export: &MemoryServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::new(Service {
            fs: export.client(),
            sessions: Mutex::default(),
            faults: Mutex::default(),
            requests: AtomicU64::new(0),
            boots: AtomicU64::new(0),
            connections: Mutex::default(),
        });
        let listening = AbortOnDropHandle::new(tokio::spawn(listen(service.clone(), listener)));
        Self { address, service, listening }
    }

    /// What the server does on the export.
    pub fn fs(&self) -> &MemoryFs {
        &self.service.fs
    }

    /// The number of requests so far, without the NULL procedure. The next one has this number.
    pub fn requests(&self) -> u64 {
        self.service.requests.load(Ordering::Relaxed)
    }

    /// Ends the connection that brings the request of this number.
    pub fn cut(&self, request: u64, when: Cut) {
        lock(&self.service.faults).cut(request, when);
    }

    /// Ends all faults.
    pub fn behave(&self) {
        *lock(&self.service.faults) = Faults::default();
    }

    /// Lets the next `times` operations of this number fail in the same way.
    pub fn on(&self, operation: u32, times: usize, fault: Fault) {
        self.after(0, operation, times, fault);
    }

    /// Like [`Self::on`], after `well` operations of this number.
    pub fn after(&self, well: usize, operation: u32, times: usize, fault: Fault) {
        lock(&self.service.faults).on(operation, well, times, fault);
    }

    /// The number of files that clients have open.
    pub fn opens(&self) -> usize {
        lock(&self.service.sessions).opens()
    }

    /// Loses all clients, what they have open and locked, and the connections. The export stays as it is.
    pub fn restart(&self) {
        self.service.boots.fetch_add(1, Ordering::Relaxed);
        lock(&self.service.sessions).forget();
        std::mem::take(&mut *lock(&self.service.connections)).cancel();
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        lock(&self.service.connections).cancel();
    }
}

impl Service {
    /// The verifier of what is written and not yet committed.
    fn verifier(&self) -> [u8; 8] {
        self.boots.load(Ordering::Relaxed).to_be_bytes()
    }
}

async fn listen(service: Arc<Service>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let ended = lock(&service.connections).clone();
        tokio::spawn(connection(service.clone(), stream, ended));
    }
}

/// Reads requests, and carries out each in a task of its own, whether or not the connection lasts.
async fn connection(service: Arc<Service>, stream: TcpStream, ended: CancellationToken) {
    let (reading, writing) = stream.into_split();
    let (mut reading, writing) = (BufReader::new(reading), Arc::new(tokio::sync::Mutex::new(writing)));
    loop {
        let message = tokio::select! {
            message = record(&mut reading, ANSWER_MAX) => message,
            () = ended.cancelled() => return end(&writing).await,
        };
        let Ok(message) = message else { return };
        tokio::spawn(answer(service.clone(), message, writing.clone()));
    }
}

async fn end(writing: &tokio::sync::Mutex<OwnedWriteHalf>) {
    // The client may have ended it.
    let _: std::io::Result<()> = writing.lock().await.shutdown().await;
}

async fn answer(service: Arc<Service>, message: Vec<u8>, writing: Arc<tokio::sync::Mutex<OwnedWriteHalf>>) {
    let (xid, procedure, arguments) = call(&message).unwrap();
    let mut reply = reply(xid, &[]);
    if procedure != 0 {
        let cut = lock(&service.faults).cut_of(service.requests.fetch_add(1, Ordering::Relaxed));
        if cut == Some(Cut::Before) {
            return end(&writing).await;
        }
        reply = compound::compound(&service, xid, arguments).await.unwrap();
        if cut == Some(Cut::After) {
            return end(&writing).await;
        }
    }
    // The client may have ended the connection.
    let _: std::io::Result<()> = writing.lock().await.write_all(&reply).await;
}

/// The number, the procedure and the arguments of a call (RFC 5531, section 9).
fn call(message: &[u8]) -> Read<(u32, u32, Reader<'_>)> {
    let mut reader = Reader::new(message);
    let (xid, _call, _rpc_version) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (_program, _version, procedure) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let _credential = (reader.u32()?, reader.opaque(400)?);
    let _verifier = (reader.u32()?, reader.opaque(400)?);
    Ok((xid, procedure, reader))
}

/// The record of a reply with these results.
fn reply(xid: u32, results: &[u8]) -> Vec<u8> {
    let mut message = Writer::default();
    for word in [0, xid, REPLY, 0, 0, 0, 0] {
        message.u32(word);
    }
    message.0.extend_from_slice(results);
    mark(message)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
