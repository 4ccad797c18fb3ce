//! Where a server is: its name's addresses, and the one of them that answers.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use crate::mount::rpc::{self, Reply};
use crate::nfs::source::Server;

/// How long a name whose address is known may take to resolve before that address is asked.
const RESOLVER_PATIENCE: Duration = Duration::from_millis(500);
/// The next address of a server is asked when this long none has answered: a dead one does not use up the limit.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one server that are asked.
const ADDRESSES: usize = 6;

/// Finds the address of one server. One question at a time.
#[derive(Debug, Default)]
pub struct Resolver {
    /// A lookup that took longer than the check it was for. getaddrinfo(3) blocks a thread and cannot be stopped, so
    /// there is never a second one for the same name.
    lookup: Option<JoinHandle<io::Result<Vec<IpAddr>>>>,
    /// What the last lookup gave; the address that answered last is the first.
    addresses: Vec<IpAddr>,
}

impl Resolver {
    /// An address at which the server answers now, or why none does. Takes `limit` at most.
    pub async fn find(&mut self, server: &Server, port: u16, limit: Duration) -> Result<IpAddr, String> {
        let deadline = Instant::now() + limit;
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
            Err(_) => "the resolver does not answer".to_owned(),
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
    let waiting = addresses.iter().take(ADDRESSES).map(|address| SocketAddr::new(*address, port));
    let mut asked = JoinSet::new();
    let mut failures = Failures::default();
    for next in waiting {
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
        Err(_) => "no answer to an RPC call".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_server::{Behaviour, Server as Fake};

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_dead_first_address_does_not_use_up_the_limit() {
        let port = Fake::on("127.0.0.2:0", Behaviour::Silent).await.address.port();
        let alive = Fake::on(&format!("127.0.0.3:{port}"), Behaviour::alive()).await.address.ip();
        let dead = "127.0.0.2".parse().unwrap();
        let started = Instant::now();
        let mut resolver = Resolver { lookup: None, addresses: vec![dead, alive] };
        assert_eq!(first_to_answer(&resolver.addresses, port, started + LIMIT).await, Ok(alive));
        assert!(started.elapsed() < Duration::from_secs(1));

        // A resolver that fails changes nothing, and the address that answered is asked first from then on.
        let name = Server::parse("server", "no-such-host.invalid").unwrap();
        assert_eq!(resolver.find(&name, port, LIMIT).await, Ok(alive));
        assert_eq!(resolver.addresses, [alive, dead]);
    }
}
