//! Is an NFS server there? Asked before, and during, a call that could block in the kernel.
//!
//! The question is an RPC NULL call to the NFS program over TCP: it needs no privilege and no export, every server
//! answers it without looking at a disk, and one that demands TLS or Kerberos answers it too. A server used over RDMA is
//! asked over TCP all the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;

use super::resolve::Resolver;
use super::source::Server;
use crate::error::{Error, Result};

/// How long a check takes at most, with name resolution.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// A server that nobody asked about for so long is forgotten.
const IDLE: Duration = Duration::from_secs(600);
/// A server is dead after so many questions in a row without an answer, over at least so long.
const DEAD: (u32, Duration) = (4, Duration::from_secs(30));

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

/// What is known of one server.
#[derive(Debug)]
struct Known {
    /// When a caller last asked about it.
    wanted: Instant,
    /// The answer to the last question; empty while it is on its way.
    answer: watch::Receiver<Option<Answer>>,
    /// The answer before that.
    last: Option<Answer>,
    resolver: Arc<AsyncMutex<Resolver>>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    since: SystemTime,
    result: Result<IpAddr, String>,
    misses: Option<Misses>,
}

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
    pub async fn check(&self, server: &Server, port: u16) -> Result<IpAddr> {
        let unreachable = |reason| Error::Unreachable { server: server.to_string(), port, reason };
        let mut answer = self.ask(server, port);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.result.clone().map_err(unreachable),
            // The task that asks is gone, which only the end of the runtime does.
            Ok(None) | Err(_) => Err(unreachable("the driver is going down".to_owned())),
        }
    }

    /// Whether a server is dead: several questions in a row, over tens of seconds, got no answer. One miss says only that it does
    /// not answer now, which fails a call; what cannot be undone is done to the mounts of a dead server alone.
    pub fn is_dead(&self, server: &Server, port: u16) -> bool {
        let servers = self.servers();
        let misses = servers.get(&(server.clone(), port)).and_then(|known| known.latest()?.misses);
        misses.is_some_and(|misses| misses.count >= DEAD.0 && misses.first.elapsed() >= DEAD.1)
    }

    /// The servers that callers asked about in the last ten minutes, each asked now, sorted. Takes two seconds at most.
    pub async fn check_known(&self) -> Vec<ServerState> {
        let answers: Vec<_> = {
            let mut servers = self.servers();
            servers.retain(|_, known| known.wanted.elapsed() < IDLE);
            servers.iter_mut().map(|((server, port), known)| known.answer(server, *port)).collect()
        };
        for mut answer in answers {
            // An error means that the runtime ends; what was known then stands.
            let _: Result<_, watch::error::RecvError> = answer.wait_for(Option::is_some).await;
        }
        self.known()
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
    fn ask(&self, server: &Server, port: u16) -> watch::Receiver<Option<Answer>> {
        let mut servers = self.servers();
        if !servers.contains_key(&(server.clone(), port)) {
            servers.retain(|_, known| known.wanted.elapsed() < IDLE);
        }
        let known = servers.entry((server.clone(), port)).or_insert_with(Known::nothing);
        known.wanted = Instant::now();
        known.answer(server, port)
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<(Server, u16), Known>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn answer(&mut self, server: &Server, port: u16) -> watch::Receiver<Option<Answer>> {
        let answer = self.answer.borrow().clone();
        let usable = match &answer {
            Some(answer) => answer.at.elapsed() < FRESH,
            None => self.answer.has_changed().is_ok(),
        };
        if !usable {
            self.last = answer.or_else(|| self.last.take());
            let (tell, answer) = watch::channel(None);
            let (server, last, resolver) = (server.clone(), self.last.clone(), Arc::clone(&self.resolver));
            // A task of its own: the question goes on when the caller that began it goes away.
            tokio::spawn(async move {
                let result = resolver.lock().await.find(&server, port, LIMIT).await;
                tell.send_replace(Some(Answer::after(last, &server, port, result)));
            });
            self.answer = answer;
        }
        self.answer.clone()
    }
}

impl Answer {
    /// The answer that follows `last`; a change is logged.
    fn after(last: Option<Self>, server: &Server, port: u16, result: Result<IpAddr, String>) -> Self {
        let now = Instant::now();
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
        Self { at: now, since, result, misses }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::super::rpc::fake::{Behaviour, Server as Fake};
    use super::*;

    fn server(name: &str) -> Server {
        Server::parse("server", name).unwrap()
    }

    async fn check(reachability: &Reachability, fake: &Fake) -> Result<IpAddr> {
        reachability.check(&server("127.0.0.1"), fake.address.port()).await
    }

    /// A port that nothing listens on.
    async fn closed_port() -> u16 {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    #[rstest]
    #[case::that_has_version_4(Behaviour::alive())]
    #[case::that_has_version_3_alone(Behaviour::Words(vec![1, 0, 0, 0, 2, 3, 3]))]
    #[case::that_wants_other_credentials(Behaviour::Words(vec![1, 1, 1, 5]))]
    #[case::that_is_slow(Behaviour::Slow(Duration::from_millis(300)))]
    #[tokio::test]
    async fn a_server_answers(#[case] behaviour: Behaviour) {
        let fake = Fake::start(behaviour).await;
        assert_eq!(check(&Reachability::new(), &fake).await.unwrap(), fake.address.ip());
    }

    #[rstest]
    #[case::silent(Behaviour::Silent, "no answer")]
    #[case::closing(Behaviour::Closing, "")]
    #[case::another_program(Behaviour::Words(vec![1, 0, 0, 0, 1]), "without this program")]
    #[case::garbage(Behaviour::Bytes(vec![0xff; 100]), "not one of an RPC server")]
    #[tokio::test]
    async fn a_server_that_is_gone_is_reported_within_the_limit(#[case] behaviour: Behaviour, #[case] why: &str) {
        let fake = Fake::start(behaviour).await;
        let started = Instant::now();
        let Err(Error::Unreachable { server, port, reason }) = check(&Reachability::new(), &fake).await else {
            panic!("reachable");
        };
        assert!(started.elapsed() < LIMIT + Duration::from_millis(500));
        assert_eq!((server.as_str(), port), ("127.0.0.1", fake.address.port()));
        assert!(reason.contains(why), "{reason}");
    }

    #[tokio::test]
    async fn a_refusing_server_is_reported_at_once() {
        let started = Instant::now();
        let error = Reachability::new().check(&server("127.0.0.1"), closed_port().await).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_reported() {
        let error = Reachability::new().check(&server("no-such-host.invalid"), 2049).await.unwrap_err();
        assert!(error.to_string().contains("cannot be resolved"), "{error}");
    }

    #[tokio::test]
    async fn many_callers_are_one_question() {
        let fake = Fake::start(Behaviour::Slow(Duration::from_millis(100))).await;
        let reachability = Reachability::new();
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            let (reachability, port) = (Arc::clone(&reachability), fake.address.port());
            callers.spawn(async move { reachability.check(&server("127.0.0.1"), port).await });
        }
        assert!(callers.join_all().await.iter().all(Result::is_ok));
        assert_eq!(fake.calls(), 1);
    }

    #[tokio::test]
    async fn a_question_outlives_the_caller_who_began_it() {
        let fake = Fake::start(Behaviour::Slow(Duration::from_millis(200))).await;
        let reachability = Reachability::new();
        timeout(Duration::from_millis(50), check(&reachability, &fake)).await.unwrap_err();
        check(&reachability, &fake).await.unwrap();
        assert_eq!(fake.calls(), 1);
    }

    #[tokio::test]
    async fn an_answer_is_good_for_a_second_either_way() {
        let fake = Fake::start(Behaviour::Closing).await;
        let reachability = Reachability::new();
        check(&reachability, &fake).await.unwrap_err();
        fake.become_(Behaviour::alive());
        check(&reachability, &fake).await.unwrap_err();
        tokio::time::sleep(FRESH).await;
        check(&reachability, &fake).await.unwrap();
        fake.become_(Behaviour::Closing);
        check(&reachability, &fake).await.unwrap();
        assert_eq!(fake.calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_dead_after_several_misses_over_tens_of_seconds_and_one_answer_makes_it_live() {
        let fake = Fake::start(Behaviour::Closing).await;
        let reachability = Reachability::new();
        let is_dead = || reachability.is_dead(&server("127.0.0.1"), fake.address.port());
        check(&reachability, &fake).await.unwrap_err();
        tokio::time::sleep(DEAD.1 * 2).await;
        check(&reachability, &fake).await.unwrap_err();
        assert!(!is_dead(), "two misses, however far apart");
        while !is_dead() {
            tokio::time::sleep(FRESH).await;
            check(&reachability, &fake).await.unwrap_err();
        }
        tokio::time::resume();
        fake.become_(Behaviour::alive());
        tokio::time::sleep(FRESH).await;
        check(&reachability, &fake).await.unwrap();
        assert!(!is_dead());
    }

    #[tokio::test]
    async fn what_is_known_tells_since_when() {
        let fake = Fake::start(Behaviour::alive()).await;
        let reachability = Reachability::new();
        assert_eq!(reachability.known(), []);
        check(&reachability, &fake).await.unwrap();
        let [first] = &reachability.known()[..] else { panic!("one server") };
        assert_eq!(first.result, Ok(fake.address.ip()));

        tokio::time::sleep(FRESH).await;
        let [second] = &reachability.check_known().await[..] else { panic!("one server") };
        assert_eq!(fake.calls(), 2, "it was asked anew");
        assert_eq!(second.since, first.since);

        fake.become_(Behaviour::Closing);
        tokio::time::sleep(FRESH).await;
        let [third] = &reachability.check_known().await[..] else { panic!("one server") };
        assert!(third.result.is_err() && third.since > first.since, "{third:?}");
    }
}
