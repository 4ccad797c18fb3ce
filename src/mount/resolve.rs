//! Resolves a server's name, and finds an address that answers.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use crate::nfs::source::Server;

/// How long a lookup may take before the driver uses the addresses that it knows.
const RESOLVER_PATIENCE: Duration = Duration::from_millis(500);
/// How long the address in use may take to answer before the driver asks the next one. A busy server keeps its clients.
const HEAD_START: Duration = Duration::from_millis(750);
/// How long any other address may take before the driver asks the next one. A dead address must not use up the
/// time-out.
const STAGGER: Duration = Duration::from_millis(150);
/// The maximum number of addresses of one server that the driver asks.
const ADDRESSES: usize = 6;

/// Finds the address of one named server, for one caller at a time.
#[derive(Debug, Default)]
pub struct Resolver {
    /// A lookup that outlived its check. getaddrinfo(3) blocks a thread and cannot be stopped, so there is never a
    /// second lookup of the same name.
    lookup: Option<JoinHandle<io::Result<Vec<IpAddr>>>>,
    /// The result of the last lookup. The address in use comes first.
    addresses: Vec<IpAddr>,
    /// The address that answered last. It stays in use as long as it answers and belongs to the name: to the kernel,
    /// another address is another server, so new mounts would share nothing with existing ones.
    current: Option<IpAddr>,
}

impl Resolver {
    /// Returns an address of the server that answers `ask` now, with the answer, or the reason why none does. Takes
    /// `limit` at most.
    pub async fn find<T, A>(
        &mut self,
        server: &Server,
        limit: Duration,
        ask: impl Fn(IpAddr) -> A,
    ) -> Result<(IpAddr, T), String>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, String>> + Send + 'static,
    {
        let deadline = Instant::now() + limit;
        self.resolve(server, deadline).await?;
        let found = self.first_to_answer(deadline, ask).await?;
        self.current = Some(found.0);
        self.put_current_first();
        Ok(found)
    }

    /// The addresses that the name had at the last lookup that succeeded.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    fn put_current_first(&mut self) {
        let current = self.current;
        self.addresses.sort_by_key(|address| Some(*address) != current);
    }

    /// Updates `addresses`. If the lookup fails, the known addresses stay in use.
    async fn resolve(&mut self, server: &Server, deadline: Instant) -> Result<(), String> {
        let name = server.as_str().to_owned();
        let lookup = self.lookup.get_or_insert_with(|| tokio::spawn(look_up(name)));
        let patience = if self.addresses.is_empty() { deadline } else { Instant::now() + RESOLVER_PATIENCE };
        let found = timeout_at(patience, lookup).await;
        if found.is_ok() {
            self.lookup = None;
        }
        let reason = match found {
            Ok(Ok(Ok(addresses))) if !addresses.is_empty() => {
                self.addresses = addresses;
                self.put_current_first();
                return Ok(());
            }
            Ok(Ok(Ok(_))) => "the name has no address".to_owned(),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "the driver is shutting down".to_owned(),
            Err(_) => "the resolver does not answer".to_owned(),
        };
        if self.addresses.is_empty() { Err(format!("its name cannot be resolved: {reason}")) } else { Ok(()) }
    }

    /// Asks the addresses in turn until one answers. The next one is asked after a pause, or when the one before fails.
    async fn first_to_answer<T, A>(&self, deadline: Instant, ask: impl Fn(IpAddr) -> A) -> Result<(IpAddr, T), String>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, String>> + Send + 'static,
    {
        let mut asked = JoinSet::new();
        let mut failures = Failures::default();
        for address in self.addresses.iter().take(ADDRESSES).copied() {
            let answer = ask(address);
            asked.spawn(async move {
                match timeout_at(deadline, answer).await {
                    Ok(Ok(answer)) => Ok((address, answer)),
                    Ok(Err(reason)) => Err((address, reason)),
                    Err(_) => Err((address, "no answer in time".to_owned())),
                }
            });
            let patience = if Some(address) == self.current { HEAD_START } else { STAGGER };
            match timeout(patience, asked.join_next()).await {
                Ok(Some(Ok(Ok(found)))) => return Ok(found),
                Ok(Some(Ok(Err(failure)))) => failures.0.push(failure),
                Ok(_) | Err(_) => {}
            }
        }
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(failure)) => failures.0.push(failure),
                Err(_) => {}
            }
        }
        Err(failures.to_string())
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

    const FIND_TIMEOUT: Duration = Duration::from_secs(2);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Answers for these addresses after so many milliseconds, and never for others.
    fn after(
        answers: &[(&str, u64)],
    ) -> impl Fn(IpAddr) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let answers: Vec<_> = answers.iter().map(|(text, after)| (address(text), *after)).collect();
        move |asked| {
            let after = answers.iter().find(|(known, _)| *known == asked).map(|(_, after)| *after);
            Box::pin(async move {
                match after {
                    Some(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Ok(())
                    }
                    None => std::future::pending().await,
                }
            })
        }
    }

    /// Finds a server whose addresses are known, while the lookup of its name fails.
    async fn find(resolver: &mut Resolver, answers: &[(&str, u64)]) -> Result<IpAddr, String> {
        let name = Server::parse("server", "no-such-host.invalid").unwrap();
        // A lookup that fails at once.
        resolver.lookup = Some(tokio::spawn(async { Err(io::Error::other("the resolver fails")) }));
        resolver.find(&name, FIND_TIMEOUT, after(answers)).await.map(|(found, ())| found)
    }

    fn known(addresses: &[&str]) -> Resolver {
        Resolver { addresses: addresses.iter().map(|text| address(text)).collect(), ..Resolver::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_first_address_of_any_family_does_not_use_up_the_time_out() {
        let started = Instant::now();
        let mut resolver = known(&["2001:db8::1", "10.0.0.2"]);
        assert_eq!(find(&mut resolver, &[("10.0.0.2", 5)]).await, Ok(address("10.0.0.2")));
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
        assert_eq!(resolver.addresses, [address("10.0.0.2"), address("2001:db8::1")], "the address in use comes first");
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_in_use_stays_in_use_although_another_answers_faster() {
        let mut resolver = known(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(find(&mut resolver, &[("10.0.0.1", 1), ("10.0.0.2", 1)]).await, Ok(address("10.0.0.1")));
        resolver.addresses.reverse();
        resolver.put_current_first();
        assert_eq!(find(&mut resolver, &[("10.0.0.1", 600), ("10.0.0.2", 1)]).await, Ok(address("10.0.0.1")));
        assert_eq!(
            find(&mut resolver, &[("10.0.0.2", 1)]).await,
            Ok(address("10.0.0.2")),
            "the address in use does not answer"
        );
        assert_eq!(find(&mut resolver, &[("10.0.0.1", 1), ("10.0.0.2", 1)]).await, Ok(address("10.0.0.2")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_the_name_no_longer_has_is_dropped_although_it_answers() {
        let mut resolver = known(&["10.0.0.1"]);
        let both = [("10.0.0.1", 1), ("10.0.0.2", 1)];
        assert_eq!(find(&mut resolver, &both).await, Ok(address("10.0.0.1")), "a resolver that fails changes nothing");
        let name = Server::parse("server", "nas.test").unwrap();
        resolver.lookup = Some(tokio::spawn(async { Ok(vec!["10.0.0.2".parse().unwrap()]) }));
        assert_eq!(resolver.find(&name, FIND_TIMEOUT, after(&both)).await, Ok((address("10.0.0.2"), ())));
        assert_eq!(resolver.addresses(), [address("10.0.0.2")]);
    }
}
