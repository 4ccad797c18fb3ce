//! The flags of registration with kubelet, which belong together.

use super::args::Args;
use super::{Mode, RegistrationConfig};
use crate::error::{Error, Result};
use crate::server::socket::SocketPath;

/// `--registration-socket` with `--kubelet-socket-path`.
pub(super) fn registration(args: &Args) -> Result<Option<RegistrationConfig>> {
    const SOCKET: &str = "--registration-socket";
    const ENDPOINT: &str = "--kubelet-socket-path";
    let (socket, endpoint) = match (&args.registration_socket, &args.kubelet_socket_path) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(Error::invalid(ENDPOINT, format!("missing: set it together with {SOCKET}"))),
        (None, Some(_)) => return Err(Error::invalid(SOCKET, format!("missing: set it together with {ENDPOINT}"))),
        (Some(socket), Some(endpoint)) => (socket, endpoint),
    };
    if args.mode == Mode::Controller {
        return Err(Error::invalid(SOCKET, "only the node service registers with kubelet: use --mode node or all"));
    }
    if !endpoint.starts_with('/') {
        let reason = format!("`{}`: not an absolute path on the host", endpoint.escape_debug());
        return Err(Error::invalid(ENDPOINT, reason));
    }
    Ok(Some(RegistrationConfig {
        socket: SocketPath::parse(SOCKET, socket)?,
        endpoint: SocketPath::parse(ENDPOINT, endpoint)?,
    }))
}
