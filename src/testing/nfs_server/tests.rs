//! The driver's own client on this server, through everything that goes wrong.

use tokio::time;

use super::*;
use crate::export::fs::{Fs, Name};
use crate::export::pool::Connect as _;
use crate::export::user::{CONNECTING, LONGEST, UserFs, UserSpace};
use crate::mount::reachability::Reachability;
use crate::nfs::options::MountOptions;
use crate::nfs::source::{self, Share, Source};
use crate::nfs4::client::ENDING;

mod callers;
mod contract;
mod delays;
mod encryption;
mod exactly_once;
mod leases;
mod lies;
mod tls_front;

/// The longest time that something takes which comes at once.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text).unwrap()
}

/// A process with a name of its own.
fn process() -> UserSpace {
    UserSpace::new(Reachability::new(), UserSpace::unique_owner())
}

/// Connects a process to a server.
async fn connected(process: &UserSpace, server: SocketAddr, options: &str) -> crate::error::Result<UserFs> {
    let address = source::Server::parse("server", &server.ip().to_string()).unwrap();
    let share = Source::share(address, Share::parse("share", "/").unwrap());
    let port = format!("port={}", server.port());
    let options = MountOptions::parse("options", [options, &port]).unwrap();
    let address = process.check(&share, &options).await?;
    process.connect(&share, &options, address).await
}

/// A client of its own process.
async fn client(server: &NfsServer) -> UserFs {
    connected(&process(), server.address, "vers=4.2").await.unwrap()
}

/// Waits for something that comes at once.
async fn until(come: impl Fn() -> bool) {
    let wait = async {
        while !come() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(SOON, wait).await.expect("it does not come");
}

/// Waits until the server has got so many requests.
async fn got(server: &NfsServer, requests: u64) {
    until(|| server.requests() >= requests).await;
}

/// Lets time pass at once, on a clock that otherwise goes on as ever.
async fn pass(duration: std::time::Duration) {
    time::pause();
    time::advance(duration).await;
    time::resume();
}
