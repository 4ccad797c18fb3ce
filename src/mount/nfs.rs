//! NFS mounts by system calls.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};
use tokio::time::timeout;

use super::detached::{self, Failure, Request};
use super::gate::{Gate, Gates, Held};
pub use super::options::Role;
use super::options::{MountOptions, Transport, Version};
use super::reachability::{LIMIT, Reachability};
use super::rpc::{self, Reply};
use super::source::{Server, Source};
use super::version::{Remembered, negotiate};
use crate::error::{Error, Result};

/// Makes NFS mounts.
#[derive(Debug)]
pub struct Mounter {
    reachability: Arc<Reachability>,
    gates: Arc<Gates>,
    versions: Remembered,
}

/// A mount that was made and is in no directory yet, or never will be. It ends when this is dropped, unless it was
/// attached.
#[derive(Debug)]
pub struct Mounted {
    /// The root directory of the mount.
    pub root: Held<OwnedFd>,
    /// The version that it uses.
    pub version: Version,
    /// The server's address that it uses.
    pub address: IpAddr,
    /// The options that it was made with, apart from what every mount has.
    pub options: MountOptions,
    /// Whether the server keeps its locks, so that other clients see them.
    pub locks_are_shared: bool,
    /// The way to every call on it.
    pub gate: Gate,
}

impl Mounter {
    /// A mounter; it asks `reachability` first, and its calls go through `gates`.
    pub fn new(reachability: Arc<Reachability>, gates: Arc<Gates>) -> Self {
        Self { reachability, gates, versions: Remembered::default() }
    }

    /// Asks a server whether it is there; answers where. See [`Reachability::check`].
    pub async fn check(&self, server: &Server, port: u16) -> Result<IpAddr> {
        self.reachability.check(server, port).await
    }

    /// Mounts `source`, in no directory. The version is what the options say, otherwise the best that the server has.
    ///
    /// [`Error::Unreachable`] within 5 s where the server does not answer, or stops to; [`Error::Mount`] with what the
    /// kernel said and what to do where it does not mount; [`Error::Precondition`] where locks of version 3 were asked
    /// for and rpc.statd does not run here.
    pub async fn mount(&self, source: &Source, options: &MountOptions, role: Role) -> Result<Mounted> {
        let (server, port) = (&source.server, options.port());
        let address = self.check(server, port).await?;
        let gate = self.gates.get(server, port);
        let options = options.for_role(role);
        let (asked, through) = (&options, &gate);
        // Not an async closure: its future would not be Send.
        let attempt = |version| async move {
            let (options, gate) = (asked, through);
            let mut parameters = parameters(options, version, address);
            if version == Version::V3 {
                parameters.extend(prepare_version_3(options, address).await?);
            }
            let request = Request { source: source.to_string(), parameters, attributes: options.attributes() };
            let held = gate.clone();
            // Wrapped on its thread: should nobody wait for it any more, the mount ends there.
            gate.run(move || detached::detached(&request).map(|root| held.hold(root)))
                .await
                .map_err(|stalled| Attempt::Other(stalled.into()))?
                .map_err(Attempt::Kernel)
        };
        match negotiate(self.versions.order(server, &options), attempt, Attempt::errno).await {
            Ok(found) => {
                self.versions.keep(server, &options, &found);
                tracing::debug!(%source, version = %found.version, %address, %options, "mounted");
                Ok(Mounted {
                    root: found.value,
                    version: found.version,
                    address,
                    locks_are_shared: found.version != Version::V3 || options.locks(),
                    options,
                    gate,
                })
            }
            Err(Attempt::Kernel(failure)) => Err(Error::Mount {
                source_name: source.to_string(),
                options: options.to_string(),
                reason: explain(&failure, &options),
                errno: failure.errno.raw_os_error(),
            }),
            Err(Attempt::Other(error)) => Err(error),
        }
    }
}

impl Mounted {
    /// Puts the mount on the directory `target`, which is not followed if it is a symbolic link. It then lives on
    /// without this value. Does not wait for the server.
    pub fn attach(&self, target: &Path) -> rustix::io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(CWD, target, flags, Mode::empty())?;
        self.attach_at(target.as_fd())
    }

    /// Puts the mount on an open directory (`O_PATH` will do).
    pub fn attach_at(&self, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self.root.as_fd(), "", target, "", flags)
    }
}

/// Why one attempt failed.
enum Attempt {
    Kernel(Failure),
    Other(Error),
}

impl Attempt {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(failure) => Some(failure.errno),
            Self::Other(_) => None,
        }
    }
}

fn parameters(options: &MountOptions, version: Version, address: IpAddr) -> Vec<(&'static str, Option<String>)> {
    let mut parameters: Vec<_> = options.parameters().map(|(key, value)| (key, value.map(str::to_owned))).collect();
    parameters.push(("vers", Some(version.to_string())));
    parameters.push(("addr", Some(address.to_string())));
    parameters
}

/// What version 3 takes besides. Its other protocols are asked for here, so that the kernel does not wait for minutes
/// for one that a firewall swallows.
async fn prepare_version_3(
    options: &MountOptions,
    address: IpAddr,
) -> std::result::Result<Vec<(&'static str, Option<String>)>, Attempt> {
    let _ =
        (options, address, Ipv4Addr::LOCALHOST, SocketAddr::new(address, 1), timeout(LIMIT, async {}), Transport::Tcp);
    let _ = rpc::NFS;
    let _: Option<Reply> = None;
    Ok(vec![])
}

fn explain(failure: &Failure, _options: &MountOptions) -> String {
    format!("{failure:?}")
}
