//! A TCP connection to a server, with or without TLS, which carries any number of calls at a time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::nfs4::rpc::{self, Credential};
use crate::nfs4::tls::{Tls, TlsError};

/// The most bytes of an answer: READ's data, and what surrounds it.
pub const ANSWER_MAX: usize = (1 << 20) + (64 << 10);
/// The ports that a server takes for root's, without those that other services are known by (as Linux: `min_resvport`).
const PRIVILEGED: std::ops::Range<u16> = 665..1024;
/// How long a server may take to accept a connection, with the handshake of TLS, and to confirm what was sent.
const ALIVE: Duration = Duration::from_secs(5);
/// The calls that wait to be written.
const QUEUE: usize = 64;
/// The buffer for answers, and for what is written together.
const BUFFER: usize = 64 << 10;

/// A connection. It ends when the last clone is dropped, or when the server ends it.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    xid: AtomicU32,
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
    #[expect(dead_code, reason = "they are held for their drop")]
    tasks: [AbortOnDropHandle<()>; 2],
}

/// The calls that are not answered yet.
#[derive(Debug, Default)]
struct Waiting(Mutex<Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>>);

/// The connection ended before the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// TCP.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Connection {
    /// Connects to a server, from a port that `secure` exports take, if this process may use one. With `tls`, nothing is
    /// sent in clear text but the request for it.
    ///
    /// # Errors
    /// What connect(2) returns, or a time-out; why TLS failed.
    pub async fn open(to: SocketAddr, tls: Option<&Tls>) -> Result<Self, OpenError> {
        let until = Instant::now() + ALIVE;
        let stream = timeout_at(until, connect(to)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        watch(&stream)?;
        let Some(tls) = tls else {
            let (reading, writing) = stream.into_split();
            return Ok(Self::over(reading, writing));
        };
        let stream = timeout_at(until, tls.start(stream)).await.map_err(|_| {
            let slow = "it did not finish the handshake of TLS in time; check that tlshd answers on it";
            io::Error::new(io::ErrorKind::TimedOut, slow)
        })??;
        let (reading, writing) = tokio::io::split(stream);
        Ok(Self::over(reading, writing))
    }

    fn over(
        reading: impl AsyncRead + Unpin + Send + 'static,
        writing: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        let tasks =
            [spawn(waiting.clone(), read(reading, waiting.clone())), spawn(waiting.clone(), write(writing, messages))];
        Self(Arc::new(Inner { xid: AtomicU32::new(rpc::fresh_xid()), outgoing, waiting, tasks }))
    }

    /// Calls COMPOUND with these arguments, and waits for the answer for as long as the connection lasts.
    ///
    /// # Errors
    /// The connection ended. Whether the server has carried out the call is not known.
    pub async fn call(&self, credential: &Credential, arguments: &[u8]) -> Result<Vec<u8>, Lost> {
        let xid = self.0.xid.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.0.waiting.lock().as_mut().ok_or(Lost)?.insert(xid, answer);
        self.0.outgoing.send(rpc::call(xid, credential, arguments)).await.map_err(|_| Lost)?;
        answered.await.map_err(|_| Lost)
    }

    /// Whether it has ended.
    pub fn is_lost(&self) -> bool {
        self.0.waiting.lock().is_none()
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one direction of the connection. Its end is that of the connection.
fn spawn(waiting: Arc<Waiting>, work: impl Future<Output = io::Result<()>> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, "the connection to the NFS server has ended");
        }
        *waiting.lock() = None;
    }))
}

/// What waits to be written goes out together: a system call costs about as much as the rest of a small request.
async fn write(mut to: impl AsyncWrite + Unpin, mut messages: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut waiting = Vec::new();
    while messages.recv_many(&mut waiting, QUEUE).await > 0 {
        let mut together = Vec::new();
        for message in waiting.drain(..) {
            if together.is_empty() {
                together = message;
            } else {
                together.extend_from_slice(&message);
            }
            if together.len() >= BUFFER {
                to.write_all(&together).await?;
                together.clear();
            }
        }
        to.write_all(&together).await?;
        // TLS may still hold a part of it.
        to.flush().await?;
    }
    Ok(())
}

async fn read(from: impl AsyncRead + Unpin, waiting: Arc<Waiting>) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    loop {
        let message = rpc::record(&mut from, ANSWER_MAX).await?;
        // Nobody may wait for it any more: then it is of a call that gave up.
        let answer = rpc::answers(&message).and_then(|xid| waiting.lock().as_mut()?.remove(&xid));
        if let Some(answer) = answer {
            let _ = answer.send(message);
        }
    }
}

/// Lets the kernel notice a server that is gone, whether or not something is sent to it.
fn watch(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_user_timeout(stream, ALIVE.as_millis() as u32)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, ALIVE)?;
    sockopt::set_tcp_keepintvl(stream, ALIVE / 5)?;
    Ok(())
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let first = rpc::fresh_xid() as u16;
    for n in PRIVILEGED {
        let port = PRIVILEGED.start + (n - PRIVILEGED.start).wrapping_add(first) % PRIVILEGED.len() as u16;
        let socket = socket()?;
        match socket.bind(SocketAddr::new(any, port)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            // This process may not use such a port.
            Err(_) => break,
        }
        match socket.connect(to).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
            connected => return connected,
        }
    }
    socket()?.connect(to).await
}
