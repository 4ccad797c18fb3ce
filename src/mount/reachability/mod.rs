//! Checks whether an NFS server answers, before and during a call that could block in the kernel.
//!
//! A check is an RPC NULL call to the NFS program over TCP. It needs no privilege and no export. Every server answers
//! it without reading a disk, even one that requires TLS or Kerberos. A server with RDMA is checked over TCP too.
//!
//! Each check of a host name resolves the name again. The server answers if one of its addresses answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::mount::resolve::Resolver;
use crate::mount::rpc::{self, Reply};
use crate::nfs::source::Server;

/// How long a check may take, with name resolution.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a caller waits for something before each check whether the server answers. An answer may be 1 s old, and a
/// check may take 2 s, so a caller learns within 5 s that a server is gone.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// How long an answer is reused.
const FRESH: Duration = Duration::from_secs(1);
/// How long a server is remembered after a caller last asked about it.
const IDLE: Duration = Duration::from_secs(600);
/// How often each server is checked that callers asked about, besides their own checks.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A server is dead after this many checks in a row without an answer, over at least this time.
const DEAD: (u32, Duration) = (4, Duration::from_secs(30));

/// The state of the NFS servers in use, by name and by address. Callers share answers: however many callers ask about a
/// server, by whatever names, each address gets one check at a time, and at most one per second.
#[derive(Debug, Default)]
pub struct Reachability {
    servers: Mutex<HashMap<(Server, u16), Known>>,
}

/// The result of the last check of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// The server, as the parameters name it.
    pub server: Server,
    /// The TCP port of the check.
    pub port: u16,
    /// The address that answered, or the reason why none did.
    pub result: Result<IpAddr, String>,
    /// Since when the server answers, or does not answer.
    pub since: SystemTime,
    /// When that was last found.
    pub checked: SystemTime,
    /// How long the last check took that was answered, with its connection; `None` before the first.
    pub round_trip: Option<Duration>,
}

/// The state of one server.
#[derive(Debug)]
struct Known {
    /// When a caller last asked about the server.
    wanted: Instant,
    /// The answer to the last check; empty while the check runs.
    answer: watch::Receiver<Option<Answer>>,
    /// The answer to the check before that.
    last: Option<Answer>,
    /// Resolves the name, if the server has one.
    resolver: Arc<AsyncMutex<Resolver>>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    since: SystemTime,
    result: Result<IpAddr, String>,
    /// How long the last check took that was answered.
    round_trip: Option<Duration>,
    /// All known addresses of the server.
    addresses: Vec<IpAddr>,
    misses: Option<Misses>,
}

/// What a check has found: see [`Answer`].
struct Found {
    at: Instant,
    result: Result<IpAddr, String>,
    round_trip: Option<Duration>,
    addresses: Vec<IpAddr>,
}

/// Checks in a row without an answer.
#[derive(Debug, Clone, Copy)]
struct Misses {
    count: u32,
    first: Instant,
}

impl Reachability {
    /// Knows no server yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Returns the address at which the server answered at most a second ago, or [`Error::Unreachable`] with the
    /// reason. Takes two seconds at most.
    pub async fn check(self: &Arc<Self>, server: &Server, port: u16) -> Result<IpAddr> {
        let answered = self.answer(server, port).await.and_then(|answer| answer.result);
        answered.map_err(|reason| Error::Unreachable { server: server.to_string(), port, reason })
    }

    /// Waits for something that a server has to answer, for as long as the server answers. Before each check, `go_on` says
    /// whether to wait any longer.
    ///
    /// # Errors
    /// What `go_on` returns, or what `gone` makes of the reason why the server does not answer.
    pub async fn while_it_answers<T, E>(
        self: &Arc<Self>,
        (server, port): (&Server, u16),
        work: impl Future<Output = T>,
        mut go_on: impl FnMut() -> Result<(), E>,
        gone: impl FnOnce(String) -> E,
    ) -> Result<T, E> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout(PATIENCE, &mut work).await {
                return Ok(done);
            }
            go_on()?;
            tokio::select! {
                done = &mut work => return Ok(done),
                answer = self.answer(server, port) => if let Err(reason) = answer.and_then(|answer| answer.result) {
                    return Err(gone(reason));
                },
            }
        }
    }

    /// Returns all addresses that a server has now, whether they answer or not, or none if its name cannot be resolved.
    /// Takes two seconds at most.
    pub async fn addresses(self: &Arc<Self>, server: &Server, port: u16) -> Vec<IpAddr> {
        self.answer(server, port).await.map(|answer| answer.addresses).unwrap_or_default()
    }

    async fn answer(self: &Arc<Self>, server: &Server, port: u16) -> Result<Answer, String> {
        let mut answer = self.ask(server, port);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => Ok(answer.clone()),
            // Only the end of the runtime ends the checking task early.
            Ok(None) | Err(_) => Err("the driver is shutting down".to_owned()),
        }
    }

    /// Whether a server is dead: several checks in a row, over tens of seconds, got no answer. A single failed check
    /// only fails a call. The driver takes steps that it cannot undo only on the mounts of dead servers.
    pub fn is_dead(&self, server: &Server, port: u16) -> bool {
        let servers = self.servers();
        let misses = servers.get(&(key(server), port)).and_then(|known| known.latest()?.misses);
        misses.is_some_and(|misses| misses.count >= DEAD.0 && misses.first.elapsed() >= DEAD.1)
    }

    /// The servers that callers asked about in the last ten minutes, sorted, with what the last check found. Asks no
    /// server.
    pub fn states(&self) -> Vec<ServerState> {
        let now = SystemTime::now();
        let state = |((server, port), known): (&(Server, u16), &Known)| {
            let answer = known.latest().filter(|_| known.wanted.elapsed() < IDLE)?;
            Some(ServerState {
                server: server.clone(),
                port: *port,
                result: answer.result,
                since: answer.since,
                checked: now.checked_sub(answer.at.elapsed()).unwrap_or(now),
                round_trip: answer.round_trip,
            })
        };
        let mut states: Vec<_> = self.servers().iter().filter_map(state).collect();
        states.sort_by(|a, b| (&a.server, a.port).cmp(&(&b.server, b.port)));
        states
    }

    /// Checks the servers that callers asked about in the last ten minutes, whether or not anybody calls, without end.
    pub async fn keep_checking(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let mut servers = self.servers();
            servers.retain(|_, known| known.wanted.elapsed() < IDLE);
            for ((server, port), known) in servers.iter_mut() {
                // Nobody waits for it.
                let _begun = known.answer(self, server, *port);
            }
        }
    }

    /// Notes that a server is in use, as a call that asks about it does, and does not wait for an answer.
    pub fn in_use(self: &Arc<Self>, server: &Server, port: u16) {
        let _begun = self.ask(server, port);
    }

    /// The answer of a server: a fresh one, or that of a running check.
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

    /// Checks an address, or the addresses of a name.
    async fn question(self: Arc<Self>, server: &Server, port: u16, resolver: Arc<AsyncMutex<Resolver>>) -> Found {
        if let Some(address) = server.address() {
            let begun = Instant::now();
            let result = null(SocketAddr::new(address, port)).await;
            let round_trip = result.is_ok().then(|| begun.elapsed());
            return Found { at: Instant::now(), result, round_trip, addresses: vec![address] };
        }
        let ask = |address: IpAddr| {
            let reachability = Arc::clone(&self);
            async move {
                let answer = reachability.answer(&Server::from(address), port).await?;
                answer.result.map(|_| (answer.at, answer.round_trip))
            }
        };
        let mut resolver = resolver.lock().await;
        // The answer for a name is as old as the answer for its address.
        let (at, result, round_trip) = match resolver.find(server, CHECK_TIMEOUT, ask).await {
            Ok((address, (at, round_trip))) => (at, Ok(address), round_trip),
            Err(reason) => (Instant::now(), Err(reason), None),
        };
        Found { at, result, round_trip, addresses: resolver.addresses().to_vec() }
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<(Server, u16), Known>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a server. All spellings of an address have the same key.
fn key(server: &Server) -> Server {
    server.address().map_or_else(|| server.clone(), Server::from)
}

async fn null(to: SocketAddr) -> Result<IpAddr, String> {
    match timeout(CHECK_TIMEOUT, rpc::null(to, rpc::NFS, 4)).await {
        // Any answer from an RPC server with this program counts, even with version 3 only or for other credentials.
        Ok(Ok(Reply::Success(_) | Reply::OtherVersions { .. } | Reply::Denied)) => Ok(to.ip()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer to an RPC call".to_owned()),
    }
}

impl Known {
    /// The state of a server that was never checked.
    fn nothing() -> Self {
        // The sender is dropped at once, which means that no check runs.
        let (_, answer) = watch::channel(None);
        Self { wanted: Instant::now(), answer, last: None, resolver: Arc::default() }
    }

    /// The last answer that arrived.
    fn latest(&self) -> Option<Answer> {
        self.answer.borrow().clone().or_else(|| self.last.clone())
    }

    /// The answer, which may still be on its way. Starts a new check if no check runs and the answer is not fresh.
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
            // The check has its own task, so it continues if its caller goes away.
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
    /// Makes the answer that follows `last`, and logs a change.
    fn after(last: Option<Self>, server: &Server, port: u16, found: Found) -> Self {
        let Found { at, result, round_trip, addresses } = found;
        let now = Instant::now();
        let round_trip = round_trip.or_else(|| last.as_ref()?.round_trip);
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
        Self { at, since, result, round_trip, addresses, misses }
    }
}

#[cfg(test)]
mod tests;
