//! Is an NFS server there? Asked before, and during, a call that could block in the kernel.
//!
//! The question is an RPC NULL call to the NFS program over TCP: it needs no privilege and no export, every server
//! answers it without looking at a disk, and one that demands TLS or Kerberos answers it too. A server used over RDMA is
//! asked over TCP all the same.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::rpc::{self, Reply};
use super::source::Server;
use crate::error::{Error, Result};

/// How long a check takes at most, with name resolution.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long a name whose address is known may take to resolve before that address is asked.
const RESOLVER_PATIENCE: Duration = Duration::from_millis(500);
/// The next address of a server is asked when this long none has answered: a dead one does not use up the limit.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one server that are asked.
const ADDRESSES: usize = 6;
/// A server that nobody asked about for so long is forgotten.
const IDLE: Duration = Duration::from_secs(600);

/// What is known of the NFS servers in use. Answers are shared: however many callers ask about a server, it gets one
/// question at a time, and at most one a second.
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

#[derive(Debug)]
struct Known {
    asked: Instant,
    answer: watch::Receiver<Option<Answer>>,
    last: Option<Answer>,
    resolver: Arc<AsyncMutex<Resolver>>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    since: SystemTime,
    result: Result<IpAddr, String>,
}

impl Reachability {
    /// Nothing is known yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The address at which the server answers now (at most a second ago), or [`Error::Unreachable`] with the reason.
    /// Takes two seconds at most.
    pub async fn check(&self, server: &Server, port: u16) -> Result<IpAddr> {
        let unreachable = |reason| Error::Unreachable { server: server.to_string(), port, reason };
        let mut answer = self.ask(server, port);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.result.clone().map_err(unreachable),
            // The task that asks is gone, which only the end of the runtime does.
            Ok(None) | Err(_) => Err(unreachable("the driver is going down".to_owned())),
        }
    }

    /// The servers that were asked about in the last ten minutes, sorted, with what the last check found.
    pub fn known(&self) -> Vec<ServerState> {
        let mut servers = self.servers();
        servers.retain(|_, known| known.asked.elapsed() < IDLE);
        let state = |((server, port), known): (&(Server, u16), &Known)| {
            let answer = known.answer.borrow().clone().or_else(|| known.last.clone())?;
            Some(ServerState { server: server.clone(), port: *port, result: answer.result, since: answer.since })
        };
        let mut states: Vec<_> = servers.iter().filter_map(state).collect();
        states.sort_by(|a, b| (&a.server, a.port).cmp(&(&b.server, b.port)));
        states
    }

    /// The answer: a fresh one, or one that is on its way.
    fn ask(&self, server: &Server, port: u16) -> watch::Receiver<Option<Answer>> {
        let mut servers = self.servers();
        let key = (server.clone(), port);
        let (last, resolver) = match servers.get_mut(&key) {
            Some(known) => {
                known.asked = Instant::now();
                let answer = known.answer.borrow().clone();
                let usable = match &answer {
                    Some(answer) => answer.at.elapsed() < FRESH,
                    None => known.answer.has_changed().is_ok(),
                };
                if usable {
                    return known.answer.clone();
                }
                (answer.or_else(|| known.last.take()), Arc::clone(&known.resolver))
            }
            None => {
                servers.retain(|_, known| known.asked.elapsed() < IDLE);
                (None, Arc::default())
            }
        };
        let (tell, answer) = watch::channel(None);
        // A task of its own: the question goes on when the caller that began it goes away.
        tokio::spawn({
            let (server, last, resolver) = (server.clone(), last.clone(), Arc::clone(&resolver));
            async move {
                let result = resolver.lock().await.find(&server, port).await;
                tell.send_replace(Some(Answer::after(last, &server, port, result)));
            }
        });
        servers.insert(key, Known { asked: Instant::now(), answer: answer.clone(), last, resolver });
        answer
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<(Server, u16), Known>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// The answer that follows `last`; a change is logged.
    fn after(last: Option<Self>, server: &Server, port: u16, result: Result<IpAddr, String>) -> Self {
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
        Self { at: Instant::now(), since, result }
    }
}

/// Finds the address of one server. One question at a time.
#[derive(Debug, Default)]
struct Resolver {
    /// A lookup that took longer than the check it was for. getaddrinfo(3) blocks a thread and cannot be stopped, so
    /// there is never a second one for the same name.
    lookup: Option<JoinHandle<io::Result<Vec<IpAddr>>>>,
    /// What the last lookup gave; the address that answered last is the first.
    addresses: Vec<IpAddr>,
}

impl Resolver {
    async fn find(&mut self, server: &Server, port: u16) -> Result<IpAddr, String> {
        let deadline = Instant::now() + LIMIT;
        self.resolve(server, deadline).await?;
        let address = first_to_answer(&self.addresses, port, deadline).await?;
        // Stays with it: the kernel takes another address for another server, and would not share what is mounted.
        self.addresses.sort_by_key(|other| *other != address);
        Ok(address)
    }

    /// Brings `addresses` up to date. A resolver that fails does not make a server dead whose address is known.
    async fn resolve(&mut self, server: &Server, deadline: Instant) -> Result<(), String> {
        if let Some(address) = server.address() {
            self.addresses = vec![address];
            return Ok(());
        }
        let name = server.as_str().to_owned();
        let lookup = self.lookup.get_or_insert_with(|| tokio::spawn(look_up(name)));
        let patience = if self.addresses.is_empty() { deadline } else { Instant::now() + RESOLVER_PATIENCE };
        let found = timeout_at(patience, lookup).await;
        if found.is_ok() {
            self.lookup = None;
        }
        let reason = match found {
            Ok(Ok(Ok(mut addresses))) if !addresses.is_empty() => {
                if let Some(favourite) = self.addresses.first() {
                    addresses.sort_by_key(|address| address != favourite);
                }
                self.addresses = addresses;
                return Ok(());
            }
            Ok(Ok(Ok(_))) => "it has no address".to_owned(),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "the driver is going down".to_owned(),
            Err(_) => format!("the resolver did not answer within {} s", LIMIT.as_secs()),
        };
        if self.addresses.is_empty() { Err(format!("its name cannot be resolved: {reason}")) } else { Ok(()) }
    }
}

async fn look_up(name: String) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((name, 0)).await? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(addresses)
}

/// Asks the addresses, each a moment after the one before it or when that one has failed, until one answers.
async fn first_to_answer(addresses: &[IpAddr], port: u16, deadline: Instant) -> Result<IpAddr, String> {
    let mut waiting = addresses.iter().take(ADDRESSES).map(|address| SocketAddr::new(*address, port));
    let mut asked = JoinSet::new();
    let mut failures = Failures::default();
    loop {
        let Some(next) = waiting.next() else { break };
        asked.spawn(ask(next, deadline));
        match timeout(STAGGER, asked.join_next()).await {
            Ok(Some(Ok(Ok(address)))) => return Ok(address),
            Ok(Some(Ok(Err(failure)))) => failures.0.push(failure),
            Ok(_) | Err(_) => {}
        }
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(address)) => return Ok(address),
            Ok(Err(failure)) => failures.0.push(failure),
            Err(_) => {}
        }
    }
    Err(failures.to_string())
}

async fn ask(to: SocketAddr, deadline: Instant) -> Result<IpAddr, (IpAddr, String)> {
    let reason = match timeout_at(deadline, rpc::null(to, rpc::NFS, 4)).await {
        // Any answer of an RPC server that has the program is life: version 3 alone, or other credentials asked for.
        Ok(Ok(Reply::Success(_) | Reply::OtherVersions { .. } | Reply::Denied)) => return Ok(to.ip()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer to an RPC call within {} s", LIMIT.as_secs()),
    };
    Err((to.ip(), reason))
}

/// Why no address answered: `10.0.0.1: connection refused, 10.0.0.2: …`.
#[derive(Default)]
struct Failures(Vec<(IpAddr, String)>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, reason)) in self.0.iter().enumerate() {
            write!(f, "{}{address}: {reason}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
