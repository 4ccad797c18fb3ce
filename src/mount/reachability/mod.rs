//! Is an NFS server there? Asked before, and during, a call that could block in the kernel.
//!
//! The question is an RPC NULL call to the NFS program over TCP: it needs no privilege and no export, every server
//! answers it without looking at a disk, and one that demands TLS or Kerberos answers it too. A server used over RDMA
//! is asked over TCP all the same.
//!
//! An address answers or does not. The host name of a server is resolved again for each question, and the server
//! answers where one of its addresses does.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::mount::resolve::Resolver;
use crate::mount::rpc::{self, Reply};
use crate::nfs::source::Server;

/// How long a check takes at most, with name resolution.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// A server that nobody asked about for so long is forgotten.
const IDLE: Duration = Duration::from_secs(600);
/// A server is dead after so many questions in a row without an answer, over at least so long.
const DEAD: (u32, Duration) = (4, Duration::from_secs(30));

/// What is known of the NFS servers in use, by name and by address. Answers are shared: however many callers ask about
/// a server, by whatever names, each of its addresses gets one question at a time, and at most one a second.
#[derive(Debug, Default)]
pub struct Reachability {
    servers: Mutex<HashMap<(Server, u16), Known>>,
}

/// What the last check of a server found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// The server, as the parameters name it.
    pub server: Server,
    /// The port that was asked, TCP.
    pub port: u16,
    /// The address that answered, or why none did.
    pub result: Result<IpAddr, String>,
    /// When the server came into this state: it answers, or does not, since then.
    pub since: SystemTime,
}

/// What is known of one server.
#[derive(Debug)]
struct Known {
    /// When a caller last asked about it.
    wanted: Instant,
    /// The answer to the last question; empty while it is on its way.
    answer: watch::Receiver<Option<Answer>>,
    /// The answer before that.
    last: Option<Answer>,
    /// Of a server that has a name.
    resolver: Arc<AsyncMutex<Resolver>>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    since: SystemTime,
    result: Result<IpAddr, String>,
    /// All addresses of the server, so far as they are known.
    addresses: Vec<IpAddr>,
    misses: Option<Misses>,
}

/// What a question found, and when: see [`Answer`].
type Found = (Instant, Result<IpAddr, String>, Vec<IpAddr>);

/// Questions in a row that got no answer.
#[derive(Debug, Clone, Copy)]
struct Misses {
    count: u32,
    first: Instant,
}

impl Reachability {
    /// Nothing is known yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The address at which the server answers now (at most a second ago), or [`Error::Unreachable`] with the reason.
    /// Takes two seconds at most.
    pub async fn check(self: &Arc<Self>, server: &Server, port: u16) -> Result<IpAddr> {
        let answered = self.answer(server, port).await.and_then(|answer| answer.result);
        answered.map_err(|reason| Error::Unreachable { server: server.to_string(), port, reason })
    }

    /// All addresses that a server has now, whether they answer or not; empty where its name cannot be resolved. Takes
    /// two seconds at most.
    pub async fn addresses(self: &Arc<Self>, server: &Server, port: u16) -> Vec<IpAddr> {
        self.answer(server, port).await.map(|answer| answer.addresses).unwrap_or_default()
    }

    async fn answer(self: &Arc<Self>, server: &Server, port: u16) -> Result<Answer, String> {
        let mut answer = self.ask(server, port);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => Ok(answer.clone()),
            // The task that asks is gone, which only the end of the runtime does.
            Ok(None) | Err(_) => Err("the driver is going down".to_owned()),
        }
    }

    /// Whether a server is dead: several questions in a row, over tens of seconds, got no answer. One question without
    /// an answer only fails a call. Steps that cannot be undone are taken on the mounts of dead servers alone.
    pub fn is_dead(&self, server: &Server, port: u16) -> bool {
        let servers = self.servers();
        let misses = servers.get(&(key(server), port)).and_then(|known| known.latest()?.misses);
        misses.is_some_and(|misses| misses.count >= DEAD.0 && misses.first.elapsed() >= DEAD.1)
    }

    /// The servers that callers asked about in the last ten minutes, sorted, with what the last check found.
    pub fn known(&self) -> Vec<ServerState> {
        let mut servers = self.servers();
        servers.retain(|_, known| known.wanted.elapsed() < IDLE);
        let state = |((server, port), known): (&(Server, u16), &Known)| {
            let answer = known.latest()?;
            Some(ServerState { server: server.clone(), port: *port, result: answer.result, since: answer.since })
        };
        let mut states: Vec<_> = servers.iter().filter_map(state).collect();
        states.sort_by(|a, b| (&a.server, a.port).cmp(&(&b.server, b.port)));
        states
    }

    /// What is asked of a server: its answer, fresh or on its way.
    fn ask(self: &Arc<Self>, server: &Server, port: u16) -> watch::Receiver<Option<Answer>> {
        let server = key(server);
        let mut servers = self.servers();
        if !servers.contains_key(&(server.clone(), port)) {
            servers.retain(|_, known| known.wanted.elapsed() < IDLE);
        }
        let known = servers.entry((server.clone(), port)).or_insert_with(Known::nothing);
        known.wanted = Instant::now();
        known.answer(self, &server, port)
    }

    /// Asks an address, or the addresses of a name.
    async fn question(self: Arc<Self>, server: &Server, port: u16, resolver: Arc<AsyncMutex<Resolver>>) -> Found {
        if let Some(address) = server.address() {
            let result = null(SocketAddr::new(address, port)).await;
            return (Instant::now(), result, vec![address]);
        }
        let ask = |address: IpAddr| {
            let reachability = Arc::clone(&self);
            async move {
                let answer = reachability.answer(&Server::from(address), port).await?;
                answer.result.map(|_| answer.at)
            }
        };
        let mut resolver = resolver.lock().await;
        // What is known of a name is as old as what is known of its address.
        let (at, result) = match resolver.find(server, LIMIT, ask).await {
            Ok((address, at)) => (at, Ok(address)),
            Err(reason) => (Instant::now(), Err(reason)),
        };
        (at, result, resolver.addresses().to_vec())
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<(Server, u16), Known>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address may be written in several ways.
fn key(server: &Server) -> Server {
    server.address().map_or_else(|| server.clone(), Server::from)
}

async fn null(to: SocketAddr) -> Result<IpAddr, String> {
    match timeout(LIMIT, rpc::null(to, rpc::NFS, 4)).await {
        // Any answer of an RPC server that has the program is life: version 3 alone, or other credentials asked for.
        Ok(Ok(Reply::Success(_) | Reply::OtherVersions { .. } | Reply::Denied)) => Ok(to.ip()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer to an RPC call".to_owned()),
    }
}

impl Known {
    /// Of a server that was never asked.
    fn nothing() -> Self {
        // Its sender is gone at once: nothing is on its way.
        let (_, answer) = watch::channel(None);
        Self { wanted: Instant::now(), answer, last: None, resolver: Arc::default() }
    }

    /// The last answer that has come.
    fn latest(&self) -> Option<Answer> {
        self.answer.borrow().clone().or_else(|| self.last.clone())
    }

    /// The answer, which may be on its way; a new question where it is neither that nor fresh.
    fn answer(
        &mut self,
        reachability: &Arc<Reachability>,
        server: &Server,
        port: u16,
    ) -> watch::Receiver<Option<Answer>> {
        let answer = self.answer.borrow().clone();
        let usable = match &answer {
            Some(answer) => answer.at.elapsed() < FRESH,
            None => self.answer.has_changed().is_ok(),
        };
        if !usable {
            self.last = answer.or_else(|| self.last.take());
            let (tell, answer) = watch::channel(None);
            let (server, last, resolver) = (server.clone(), self.last.clone(), Arc::clone(&self.resolver));
            let reachability = Arc::clone(reachability);
            // A task of its own: the question goes on when the caller that began it goes away.
            tokio::spawn(async move {
                let found = reachability.question(&server, port, resolver).await;
                tell.send_replace(Some(Answer::after(last, &server, port, found)));
            });
            self.answer = answer;
        }
        self.answer.clone()
    }
}

impl Answer {
    /// The answer that follows `last`; a change is logged.
    fn after(last: Option<Self>, server: &Server, port: u16, (at, result, addresses): Found) -> Self {
        let now = Instant::now();
        if let (Some(Ok(from)), Ok(to)) = (last.as_ref().map(|last| &last.result), &result)
            && from != to
        {
            tracing::info!(%server, port, %from, %to, "NFS server is used at another address");
        }
        let before = last.as_ref().and_then(|last| last.misses).unwrap_or(Misses { count: 0, first: now });
        let misses = result.is_err().then_some(Misses { count: before.count.saturating_add(1), ..before });
        let since = match last {
            Some(last) if last.result.is_ok() == result.is_ok() => last.since,
            last => {
                match &result {
                    Err(reason) => tracing::warn!(%server, port, reason, "NFS server does not answer"),
                    Ok(address) if last.is_some() => {
                        tracing::info!(%server, port, %address, "NFS server answers again")
                    }
                    Ok(address) => tracing::debug!(%server, port, %address, "NFS server answers"),
                }
                SystemTime::now()
            }
        };
        Self { at, since, result, addresses, misses }
    }
}

#[cfg(test)]
mod tests;
