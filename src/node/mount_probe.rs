//! Checks mounted volumes with calls that may block in the kernel. No caller waits longer than its deadline.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, NFS_SUPER_MAGIC, StatFs, XattrFlags};
use rustix::io::Errno;
use tokio::time::{Instant, timeout_at};

use crate::export::fs::{FsStat, Status};
use crate::mount::gate::Gates;
use crate::mount::local::Local;
use crate::mount::reachability::Reachability;
use crate::mount::slow;
use crate::mount::table::Mount;
use crate::nfs::source::Server;
use crate::node::root::Root;
use crate::node::target::Place;

/// An extended attribute that no file has. Replacing it fails, and the error says whether the server accepts changes.
const NO_ATTRIBUTE: &str = "user.csi-nfs.never-set";
/// Write permission for everyone.
const WRITABLE_BY_ALL: u32 = 0o002;

/// The time-out of calls that must answer within two seconds.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(1800);

/// Why a mounted volume did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server does not answer, for this reason.
    #[error("the server does not answer: {0}")]
    Unreachable(String),
    /// The server answers, but not for the volume.
    #[error("the server answers, but not for the volume")]
    Silent,
    /// The volume is no longer mounted there.
    #[error("the volume is no longer mounted")]
    Gone,
    /// The server or the kernel's client returned an error.
    #[error("{0}")]
    Failed(Status),
}

/// Checks mounted volumes.
#[derive(Debug, Clone)]
pub struct MountProbe {
    reachability: Arc<Reachability>,
    gates: Arc<Gates>,
}

impl MountProbe {
    /// A probe that checks servers with `reachability` first, and makes its calls through `gates`.
    pub fn new(reachability: Arc<Reachability>, gates: Arc<Gates>) -> Self {
        Self { reachability, gates }
    }

    /// The threads for work that asks no server.
    pub fn local(&self) -> &Local {
        self.gates.local()
    }

    /// Whether the server of a mount answers, at the address that the mount uses.
    pub async fn server(&self, server: &Server, port: u16, deadline: Instant) -> Result<(), Failure> {
        match timeout_at(deadline, self.reachability.check(server, port)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(crate::error::Error::Unreachable { reason, .. })) => Err(Failure::Unreachable(reason)),
            Ok(Err(other)) => Err(Failure::Unreachable(other.to_string())),
            Err(_) => Err(Failure::Unreachable("no answer in time".to_owned())),
        }
    }

    /// All addresses that a server has now; none if they are not known before `deadline`. See
    /// [`Reachability::addresses`].
    pub async fn addresses(&self, server: &Server, port: u16, deadline: Instant) -> Vec<IpAddr> {
        timeout_at(deadline, self.reachability.addresses(server, port)).await.unwrap_or_default()
    }

    /// Whether the server of a mount is dead. See [`Reachability::is_dead`].
    pub fn is_dead(&self, mount: &Mount) -> bool {
        mount.server().is_some_and(|server| self.reachability.is_dead(&server, mount.tcp_port()))
    }

    /// Reads the root of `mount`, which is at `place`, from the server.
    pub async fn root(&self, place: &Arc<Place>, mount: &Mount, deadline: Instant) -> Result<Root, Failure> {
        let root = self.call(place, mount, deadline, |path| Root::ask_at(&path)).await?;
        if root.identity.device == mount.device { Ok(root) } else { Err(Failure::Gone) }
    }

    /// Reads the statistics of the file system behind `mount`, which is at `place`, from the server.
    pub async fn statfs(&self, place: &Arc<Place>, mount: &Mount, deadline: Instant) -> Result<FsStat, Failure> {
        let stat = self.call(place, mount, deadline, rustix::fs::statfs).await?;
        if stat.f_type == NFS_SUPER_MAGIC { Ok(figures(&stat)) } else { Err(Failure::Gone) }
    }

    /// Whether the server rejects every change in a volume that is mounted read-write.
    ///
    /// This requests a change that cannot succeed. On a server without extended attributes (they need version 4.2), it
    /// checks for write permission instead. That check works only if the mode gives write permission to everyone, and
    /// misses an export that became read-only after the kernel cached the permission.
    pub async fn is_read_only(
        &self,
        place: &Arc<Place>,
        mount: &Mount,
        root: Root,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let change = move |path: PathBuf| {
            let changed = rustix::fs::lsetxattr(&path, NO_ATTRIBUTE, b"", XattrFlags::REPLACE);
            let may_write = || rustix::fs::accessat(CWD, &path, Access::WRITE_OK, AtFlags::SYMLINK_NOFOLLOW);
            Ok(match changed {
                Err(Errno::ROFS) => true,
                Err(Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) if root.mode & WRITABLE_BY_ALL != 0 => {
                    matches!(may_write(), Err(Errno::ACCESS | Errno::ROFS))
                }
                _ => false,
            })
        };
        self.call(place, mount, deadline, change).await
    }

    /// Makes a call on the path of a mount, through the gate of its server and only if the server answers.
    async fn call<T: Send + 'static>(
        &self,
        place: &Arc<Place>,
        mount: &Mount,
        deadline: Instant,
        call: impl FnOnce(PathBuf) -> rustix::io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let address = mount.address().ok_or(Failure::Gone)?;
        self.server(&address.into(), mount.tcp_port(), deadline).await?;
        let place = Arc::clone(place);
        let gate = self.gates.get(address, mount.tcp_port()).of_mount(mount);
        match timeout_at(deadline, gate.run(move || slow::calls("ask", || call(place.call_path())))).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(errno))) => Err(Failure::Failed(errno.into())),
            Ok(Err(stalled)) if stalled.export.is_some() => Err(Failure::Silent),
            Ok(Err(stalled)) => Err(Failure::Unreachable(stalled.reason)),
            Err(_) => Err(Failure::Silent),
        }
    }
}

/// Converts the result of statfs(2) to bytes.
pub(super) fn figures(stat: &StatFs) -> FsStat {
    let block = if stat.f_frsize > 0 { stat.f_frsize } else { stat.f_bsize };
    let bytes = |blocks: u64| blocks.saturating_mul(u64::try_from(block).unwrap_or(0));
    FsStat {
        total_bytes: bytes(stat.f_blocks),
        free_bytes: bytes(stat.f_bfree),
        available_bytes: bytes(stat.f_bavail),
        total_inodes: stat.f_files,
        free_inodes: stat.f_ffree,
    }
}
