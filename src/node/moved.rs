//! Finds mounts whose server has moved: the server's name no longer has the address that the mount uses. The kernel
//! never looks a name up again.

use std::net::IpAddr;

use tokio::time::Instant;

use crate::mount::table::Mount;
use crate::nfs::source::Server;
use crate::node::mount_probe::MountProbe;

/// Returns the address that a mount uses and the server's current addresses, as text. Returns `None` if the server has
/// not moved, or if this is not known before `deadline`. `server` is the server that the volume's request names;
/// without it, the name in the mount counts. `asked` is the address that this process gave to the kernel: the kernel
/// may use another address of the same server, which the name need not have.
pub async fn moved(
    probe: &MountProbe,
    mount: &Mount,
    server: Option<&Server>,
    asked: Option<IpAddr>,
    deadline: Instant,
) -> Option<String> {
    let (from, server) = (mount.address()?, server.cloned().or_else(|| mount.named_server())?);
    if server.address().is_some() {
        // An address does not move.
        return None;
    }
    let addresses = probe.addresses(&server, mount.tcp_port(), deadline).await;
    if addresses.is_empty() || addresses.contains(&from) || asked.is_some_and(|asked| addresses.contains(&asked)) {
        return None;
    }
    let now: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Some(format!("{from}, but the address of {server} is now {}", now.join(", ")))
}
