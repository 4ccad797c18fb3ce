//! Mounts from an address that the name of their server no longer has: the kernel never looks a name up again.

use tokio::time::Instant;

use crate::mount::table::Mount;
use crate::nfs::source::Server;
use crate::node::mount_probe::MountProbe;

/// The address that a mount is from, and where its server is by now, as text; `None` where that is the same, or is not known
/// before `deadline`. `server` is the server by the name that the volume was asked for with; without it, the mount's own counts.
pub async fn moved(probe: &MountProbe, mount: &Mount, server: Option<&Server>, deadline: Instant) -> Option<String> {
    let (from, server) = (mount.address()?, server.cloned().or_else(|| mount.named_server())?);
    if server.address().is_some() {
        // An address does not move.
        return None;
    }
    let addresses = probe.addresses(&server, mount.tcp_port(), deadline).await;
    if addresses.is_empty() || addresses.contains(&from) {
        return None;
    }
    let now: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Some(format!("{from}, and {server} is at {} by now", now.join(", ")))
}
