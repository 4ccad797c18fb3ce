//! Finds mounts whose server has moved: its name no longer has the address that they use, since the kernel never looks
//! a name up again.

use std::net::IpAddr;

use tokio::time::Instant;

use crate::mount::table::Mount;
use crate::nfs::source::Server;
use crate::node::mount_probe::MountProbe;

/// The address that a mount uses, and where its server is now, as text; `None` where the server has not moved, or where
/// that is not known before `deadline`. `server` is the server by the name that the volume was asked for with; without
/// it, the name in the mount counts. `asked` is the address that this process mounted it at: the kernel may use another
/// address of the same server, which its name need not have.
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
    Some(format!("{from}, and {server} is at {} by now", now.join(", ")))
}
