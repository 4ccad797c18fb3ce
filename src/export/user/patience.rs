//! How long callers wait for a server: for as long as it answers, as they wait for the kernel (`mount::gate`).

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::mount::reachability::Reachability;
use crate::mount::thread_limits::OVERDUE;
use crate::nfs::status::{FsResult, Status};
use crate::nfs4::client::Client;
use crate::nfs4::compound::Compound;
use crate::nfs4::session::{Answer, Caller};

/// How long a caller waits in all. After a restart a server lets nobody in for its grace period, which is 90 s by default.
pub const LONGEST: Duration = Duration::from_secs(120);
/// The same for a client that is being made.
pub const CONNECTING: Duration = Duration::from_secs(10);

/// Waits for answers of one server.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    reachability: Arc<Reachability>,
    address: IpAddr,
    port: u16,
    /// How long it waits if the server answers, but not to what it asks.
    longest: Duration,
}

/// Why a caller does not wait any longer.
#[derive(Debug)]
pub(super) enum Waited {
    /// The server is gone, for this reason.
    Gone(String),
    /// It answers, but not to this.
    InVain,
}

impl From<Waited> for Status {
    fn from(waited: Waited) -> Self {
        match waited {
            Waited::Gone(_) => Self::TimedOut,
            Waited::InVain => Self::Stuck,
        }
    }
}

impl Patience {
    /// For a client that is being made.
    pub(super) fn connecting(reachability: Arc<Reachability>, address: IpAddr, port: u16) -> Self {
        Self { reachability, address, port, longest: CONNECTING }
    }

    /// For a client that was made.
    pub(super) fn connected(self) -> Self {
        Self { longest: LONGEST, ..self }
    }

    /// Waits for something that the server has to answer, until `is_vain` says that it is in vain.
    pub(super) async fn wait<T>(&self, is_vain: impl Fn() -> bool, work: impl Future<Output = T>) -> Result<T, Waited> {
        let begun = Instant::now();
        let go_on = || match begun.elapsed() >= self.longest || is_vain() {
            true => Err(Waited::InVain),
            false => Ok(()),
        };
        self.reachability.while_it_answers((&self.address.into(), self.port), work, go_on, Waited::Gone).await
    }

    /// Lets a client carry out a request.
    pub(super) async fn call(&self, client: &Client, compound: Compound) -> FsResult<Answer> {
        self.spend(client, async move |client, caller| client.settle(&compound, &caller).await).await
    }

    /// Lets a client do something. When the caller gives up, what the server was asked for goes on: it may still do it.
    pub(super) async fn spend<T, W>(&self, client: &Client, work: impl FnOnce(Client, Caller) -> W) -> FsResult<T>
    where
        T: Send + 'static,
        W: Future<Output = FsResult<T>> + Send + 'static,
    {
        let caller = Caller::default();
        let _gives_up = caller.gives_up();
        let done = tokio::spawn(work(client.clone(), caller.clone()));
        let in_vain = || caller.waits() && client.is_stuck(OVERDUE);
        // Only the end of the runtime ends the task early.
        self.wait(in_vain, done).await?.unwrap_or(Err(Status::Io))
    }
}
