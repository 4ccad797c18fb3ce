//! Checks the services that NFSv3 needs: the MOUNT protocol, found through rpcbind, and rpc.statd for locks.
//!
//! The driver checks them with a time-out before the kernel mounts. The kernel would wait for minutes for a mountd that
//! is behind a firewall, and its message says little.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::timeout;

use crate::error::Error;
use crate::mount::fsmount::{Attempt, Failure, Parameter};
use crate::mount::rpc::{self, Reply};
use crate::nfs::options::{MountOptions, Transport};

/// How long each check may take.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the additional parameters of a mount with version 3, or the reason why the mount is not possible.
pub async fn prepare(options: &MountOptions, server: IpAddr) -> Result<Vec<Parameter>, Attempt> {
    let mut parameters = Vec::new();
    if options.locks() {
        statd().await.map_err(Attempt::Other)?;
    } else {
        parameters.push(("nolock", None));
    }
    nfs(SocketAddr::new(server, options.port())).await.map_err(Attempt::Refused)?;
    if options.transport() == Transport::Tcp {
        // Without `port`, the kernel asks rpcbind for this port too.
        parameters.push(("port", Some(options.port().to_string())));
    }
    let mount_port = mountd(server, options.mount_port()).await.map_err(Attempt::Refused)?;
    parameters.push(("mountaddr", Some(server.to_string())));
    parameters.push(("mountport", Some(mount_port.to_string())));
    Ok(parameters)
}

/// Checks that rpc.statd runs on this node. Without it, a restart of the server loses locks of version 3.
async fn statd() -> Result<(), Error> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let reason = match limited(rpc::port_of(here, rpc::STATUS, 1)).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => "rpc.statd is not registered with rpcbind".to_owned(),
        Err(error) => format!("rpcbind: {error}"),
    };
    Err(Error::Precondition(format!(
        "the options request locks of NFS version 3, but rpc.statd does not run on this node ({reason}); start it, or \
         use version 4 or `nolock`"
    )))
}

/// Checks that the server has version 3.
async fn nfs(server: SocketAddr) -> Result<(), Failure> {
    match limited(rpc::null(server, rpc::NFS, 3)).await {
        Ok(Reply::Success(_) | Reply::Denied) => Ok(()),
        Ok(Reply::OtherVersions { low, high }) => {
            Err(refused("NFS version 3", Errno::PROTONOSUPPORT, format!("the server has versions {low} to {high}")))
        }
        Err(error) => Err(refused("NFS version 3", Errno::TIMEDOUT, error.to_string())),
    }
}

/// Returns the port of the server's mountd after mountd has answered there.
async fn mountd(server: IpAddr, given: Option<u16>) -> Result<u16, Failure> {
    let port = match given {
        Some(port) => port,
        None => match limited(rpc::port_of(server, rpc::MOUNT, 3)).await {
            Ok(Some(port)) => port,
            Ok(None) => return Err(refused("rpcbind", Errno::OPNOTSUPP, "mountd is not registered".to_owned())),
            Err(error) => {
                let said =
                    format!("{error}; NFS version 3 needs port 111/tcp of the server, or the option `mountport=`");
                return Err(refused("rpcbind", Errno::TIMEDOUT, said));
            }
        },
    };
    match limited(rpc::null(SocketAddr::new(server, port), rpc::MOUNT, 3)).await {
        Ok(Reply::Success(_) | Reply::Denied) => Ok(port),
        Ok(Reply::OtherVersions { low, high }) => Err(refused(
            "mountd",
            Errno::PROTONOSUPPORT,
            format!("the server has versions {low} to {high} of the MOUNT protocol"),
        )),
        Err(error) => {
            let said = format!("{error}; NFS version 3 needs port {port}/tcp of the server");
            Err(refused("mountd", Errno::TIMEDOUT, said))
        }
    }
}

fn refused(call: &str, errno: Errno, log: String) -> Failure {
    Failure { log, ..Failure::of(call)(errno) }
}

async fn limited<T>(question: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(SERVICE_TIMEOUT, question).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", SERVICE_TIMEOUT.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::testing::fake_server::{Behaviour, Server};

    const VERSION_4_ALONE: [u32; 7] = [1, 0, 0, 0, 2, 4, 4];

    #[tokio::test]
    async fn a_server_with_version_3_and_mountd_is_mounted_at_those_ports() {
        let (nfs, mountd) = (Server::start(Behaviour::alive()).await, Server::start(Behaviour::alive()).await);
        let (port, mount_port) = (nfs.address.port().to_string(), mountd.address.port().to_string());
        let options = format!("port={port},mountport={mount_port}");
        let options = MountOptions::parse("mountOptions", [options]).unwrap();
        let expected = [
            ("nolock", None),
            ("port", Some(port)),
            ("mountaddr", Some("127.0.0.1".to_owned())),
            ("mountport", Some(mount_port)),
        ];
        assert_eq!(prepare(&options, nfs.address.ip()).await.unwrap(), expected);
    }

    #[rstest]
    #[case::without_version_3(Behaviour::Words(VERSION_4_ALONE.to_vec()), Errno::PROTONOSUPPORT, "versions 4 to 4")]
    #[case::silent(Behaviour::Silent, Errno::TIMEDOUT, "no answer")]
    #[tokio::test]
    async fn a_server_without_version_3_fails_before_the_kernel_mounts(
        #[case] behaviour: Behaviour,
        #[case] errno: Errno,
        #[case] said: &str,
    ) {
        let server = Server::start(behaviour).await;
        let failure = nfs(server.address).await.unwrap_err();
        assert_eq!(failure.errno, errno);
        assert!(failure.to_string().contains(said), "{failure}");
    }

    #[tokio::test]
    async fn a_mountd_behind_a_firewall_is_named_with_its_port() {
        let server = Server::start(Behaviour::Silent).await;
        let port = server.address.port();
        let failure = mountd(server.address.ip(), Some(port)).await.unwrap_err();
        assert!(failure.to_string().contains(&format!("needs port {port}/tcp")), "{failure}");
    }
}
