//! A proxy for the connections of NFS clients, which breaks them where a test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{self, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::lab::Share;
use super::wait;

/// NFSPROC4_COMPOUND.
const COMPOUND: u32 = 1;

/// What becomes of a request and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The connection ends on both sides, and the request does not reach the server.
    CutBefore,
    /// The connection ends on both sides when the server has been sent the request.
    CutDuring,
    /// The connection ends on both sides when the server has answered, and the client does not get the answer.
    CutAfter,
    /// Neither the request nor what comes after it reaches the server before the test lets it pass.
    Held,
    /// Neither the answer nor what comes after it reaches the client.
    Silenced,
}

/// A proxy on a port of its own. It and its connections end when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    plan: Plan,
    _task: AbortOnDropHandle<()>,
}

/// What is to come.
#[derive(Debug, Clone)]
struct Plan(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    /// A fate, and how many requests pass before the one that meets it.
    coming: Option<(usize, Fate)>,
    has_come: bool,
}

impl Proxy {
    /// Starts a proxy for the server of a share. All connections pass.
    pub async fn of(share: &Share) -> Self {
        let server = SocketAddr::new(share.server.parse().unwrap(), 2049);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Plan(Arc::default());
        let _task = AbortOnDropHandle::new(tokio::spawn(accept(listener, server, plan.clone())));
        Self { port, plan, _task }
    }

    /// The argument by which a driver uses the proxy.
    pub fn option(&self) -> String {
        format!("--mount-options=port={}", self.port)
    }

    /// Lets `pass` requests pass from now on; the next one meets `fate`. Only COMPOUND counts: the driver checks a
    /// server by NULL, at times of its own.
    pub fn after(&self, pass: usize, fate: Fate) {
        self.plan.0.send_replace(State { coming: Some((pass, fate)), has_come: false });
    }

    /// Waits until a request is held, or its answer is.
    pub async fn has_come(&self) {
        let mut plan = self.plan.0.subscribe();
        let come = plan.wait_for(|state| state.has_come);
        wait::within("the request that the proxy waits for", Duration::from_secs(20), come).await.unwrap();
    }

    /// Lets everything pass from now on, also what is held. Returns whether a request has met its fate.
    pub fn pass(&self) -> bool {
        self.plan.0.send_replace(State::default()).coming.is_none()
    }
}

impl Plan {
    /// The fate of a request, if it is none like others.
    fn of(&self, request: &[u8]) -> Option<Fate> {
        let mut fate = None;
        self.0.send_if_modified(|state| {
            if word(request, PROCEDURE) == COMPOUND
                && let Some((pass, coming)) = state.coming
            {
                fate = (pass == 0).then_some(coming);
                state.coming = pass.checked_sub(1).map(|pass| (pass, coming));
            }
            false
        });
        fate
    }

    fn has_come(&self) {
        self.0.send_modify(|state| state.has_come = true);
    }

    /// Waits until what is held may pass.
    async fn release(&self) {
        let _ = self.0.subscribe().wait_for(|state| !state.has_come).await;
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, plan: Plan) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(carry(client, server, plan.clone()));
    }
}

/// Carries records both ways, until either side or the plan ends that.
async fn carry(mut client: TcpStream, server: SocketAddr, plan: Plan) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    // The number of the request whose answer the client does not get.
    let unanswered = Mutex::new(None);
    let requests = async {
        loop {
            let request = record(&mut from_client).await?;
            match plan.of(&request) {
                None => {}
                Some(Fate::CutBefore) => return Ok(()),
                Some(Fate::CutDuring) => return to_server.write_all(&request).await,
                Some(Fate::Held) => {
                    plan.has_come();
                    plan.release().await;
                }
                Some(fate @ (Fate::CutAfter | Fate::Silenced)) => {
                    *unanswered.lock().unwrap() = Some((word(&request, XID), fate));
                }
            }
            to_server.write_all(&request).await?;
        }
    };
    let answers = async {
        loop {
            let answer = record(&mut from_server).await?;
            let unanswered = *unanswered.lock().unwrap();
            match unanswered.filter(|(xid, _)| *xid == word(&answer, XID)) {
                Some((_, Fate::Silenced)) => {
                    plan.has_come();
                    std::future::pending().await
                }
                Some(_) => return Ok(()),
                None => to_client.write_all(&answer).await?,
            }
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}

/// Where a record has the number of the call, and a call its procedure (RFC 5531, section 9): after the mark, and after
/// five words more.
const XID: usize = 4;
const PROCEDURE: usize = 24;

fn word(record: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(record[at..at + 4].try_into().unwrap())
}

/// Reads a record with its mark. Neither the driver nor the servers send records of more than one fragment.
async fn record(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    const LAST: u32 = 1 << 31;
    let mark = from.read_u32().await?;
    assert!(mark & LAST != 0, "a record of several fragments");
    let mut record = mark.to_be_bytes().to_vec();
    record.resize(XID + (mark & !LAST) as usize, 0);
    from.read_exact(&mut record[XID..]).await?;
    Ok(record)
}
