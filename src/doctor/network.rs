//! The way to the server: its name, its port, and which versions of NFS it answers for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::report::{Report, Step};
use crate::mount::rpc::{self, Reply};
use crate::nfs::options::MountOptions;
use crate::nfs::source::Server;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many round trips are measured.
const ROUNDS: usize = 5;
/// A server that takes longer for a call that does nothing is slow.
const SLOW: Duration = Duration::from_millis(100);

/// Examines the way to the server. Returns the addresses at which an NFS server answers.
pub async fn examine(server: &Server, options: &MountOptions, report: &mut Report) -> Vec<IpAddr> {
    let mut answering = Vec::new();
    for address in addresses(server, options.port(), report).await {
        let to = SocketAddr::new(address, options.port());
        if is_open(to, report).await && answers(to, report).await {
            answering.push(address);
        }
    }
    answering
}

async fn addresses(server: &Server, port: u16, report: &mut Report) -> Vec<IpAddr> {
    if let Some(address) = server.address() {
        return vec![address];
    }
    let tried = format!("looking up {server}");
    let advice = "check the name, and the DNS that this machine or pod uses (/etc/resolv.conf)";
    let mut found: Vec<IpAddr> = match timeout(PATIENCE, lookup_host((server.as_str(), port))).await {
        Ok(Ok(found)) => found.map(|found| found.ip()).collect(),
        Ok(Err(error)) => {
            report.add(Step::bad("name", &tried, error.to_string(), advice));
            return Vec::new();
        }
        Err(_) => {
            report.add(Step::bad("name", &tried, format!("no answer within {} s", PATIENCE.as_secs()), advice));
            return Vec::new();
        }
    };
    found.sort();
    found.dedup();
    let text = found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    report.add(match found.is_empty() {
        true => Step::bad("name", &tried, "it has no address", advice),
        false => Step::good("name", &tried, text),
    });
    found
}

async fn is_open(to: SocketAddr, report: &mut Report) -> bool {
    let tried = format!("connecting to {to}");
    let found = match timeout(PATIENCE, TcpStream::connect(to)).await {
        Ok(Ok(_)) => {
            report.add(Step::good("port", &tried, "open"));
            return true;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    let advice = "start the NFS server, and let TCP to this port through the firewalls and network policies on the way";
    report.add(Step::bad("port", &tried, found, advice));
    false
}

/// Asks for version 4 and version 3.
async fn answers(to: SocketAddr, report: &mut Report) -> bool {
    let tried = format!("asking {to} for NFS (RPC NULL)");
    let mut took = Vec::new();
    let mut version_4 = null(to, 4, &mut took).await;
    for _ in 1..ROUNDS {
        if version_4.is_err() {
            break;
        }
        version_4 = null(to, 4, &mut took).await;
    }
    let version_3 = null(to, 3, &mut took).await;
    let step = match (version_4, version_3) {
        (Err(reason), Err(_)) => {
            Step::bad("rpc", &tried, reason, "check that an NFS server listens on this port, and that it is not stuck")
        }
        (Ok(true), Ok(version_3)) => round_trip(&tried, if version_3 { "versions 4 and 3" } else { "version 4" }, took),
        (Ok(true), Err(_)) => round_trip(&tried, "version 4", took),
        (_, Ok(true)) => Step::warning(
            "rpc",
            &tried,
            "version 3 alone",
            "turn version 4 on: with version 3, locks stay on the node, and snapshots are copied by the driver",
        ),
        _ => Step::bad("rpc", &tried, "neither version 4 nor version 3", "turn version 4 on at the server"),
    };
    let is_there = step.verdict != super::Verdict::Bad;
    report.add(step);
    is_there
}

/// Whether the server has this version, or why it does not answer.
async fn null(to: SocketAddr, version: u32, took: &mut Vec<Duration>) -> Result<bool, String> {
    let start = Instant::now();
    match timeout(PATIENCE, rpc::null(to, rpc::NFS, version)).await {
        Ok(Ok(Reply::OtherVersions { .. })) => Ok(false),
        // A server that demands other credentials has the version.
        Ok(Ok(Reply::Success(_) | Reply::Denied)) => {
            took.push(start.elapsed());
            Ok(true)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn round_trip(tried: &str, versions: &str, mut took: Vec<Duration>) -> Step {
    took.sort();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let found = format!("{versions}; an answer takes {:.1} ms", median.as_secs_f64() * 1e3);
    match median > SLOW {
        false => Step::good("rpc", tried, found),
        true => {
            Step::warning("rpc", tried, found, "look at the network and at the server's load: every call waits so long")
        }
    }
}
