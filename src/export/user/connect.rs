//! Connects to exports from this process.

use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fnv::FnvHasher;
use rustix::io::Errno;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::handle::UserHandle;
use super::patience::{CONNECTING, Patience, Waited};
use super::{Inner, UserFs};
use crate::error::{Error, Result};
use crate::export::features::{Feature, Features};
use crate::export::fs::{Kind, Status};
use crate::export::pool::Connect;
use crate::mount::reachability::Reachability;
use crate::nfs::options::{MountOptions, Role, Transport, Version};
use crate::nfs::source::Source;
use crate::nfs4::attributes::attribute::{ACL, MAXREAD, MAXWRITE, SUPPORTED_ATTRS, XATTR_SUPPORT};
use crate::nfs4::attributes::{Attributes, OBJECT, Owner, has};
use crate::nfs4::client::{Client, ConnectError, ENDING};
use crate::nfs4::codes::Code;
use crate::nfs4::compound::Compound;
use crate::nfs4::connection::OpenError;
use crate::nfs4::rpc::Credential;
use crate::nfs4::session::Server;
use crate::nfs4::state::FileHandle;
use crate::nfs4::tls::{Tls, TlsFiles};

/// What surrounds the data of a READ or WRITE, at most.
const AROUND: u32 = 4096;
/// The least size of a request that is of use.
const LEAST: u32 = 4096;

/// Reaches exports from this process, by clients of its own.
#[derive(Debug, Clone)]
pub struct UserSpace {
    reachability: Arc<Reachability>,
    /// What the server knows this process by, until its next client of that name.
    owner: String,
    /// The certificates for exports with TLS.
    files: TlsFiles,
    ending: TaskTracker,
}

impl UserSpace {
    /// Checks servers with `reachability`. `owner` is a name that no other process has while this one lives, and that its
    /// successor may have: a server ends the locks of the former client of that name at once.
    pub fn new(reachability: Arc<Reachability>, owner: String) -> Self {
        Self { reachability, owner, files: TlsFiles::default(), ending: TaskTracker::new() }
    }

    /// The same with certificates for exports with TLS.
    pub fn with_certificates(self, files: TlsFiles) -> Self {
        Self { files, ..self }
    }

    /// A name that nobody else has.
    pub fn unique_owner() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// The same for another process of a name that nobody else has.
    pub fn another(&self) -> Self {
        Self { owner: Self::unique_owner(), ..self.clone() }
    }

    /// Waits until files are closed and clients have ended on their servers, but not for a server that is gone.
    pub async fn ended(&self) {
        self.ending.close();
        let _ = timeout(ENDING, self.ending.wait()).await;
    }

    async fn client(
        &self,
        share: &Source,
        options: &MountOptions,
        address: IpAddr,
        patience: &Patience,
    ) -> Result<Client> {
        let credential = Credential {
            machine: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        };
        let address = SocketAddr::new(address, options.port());
        let (server, mutual) = (share.server.to_string(), options.shows_certificate());
        let tls = options.encrypts().then(|| Tls { server, mutual, files: self.files.clone() });
        // Connections with other options are other clients, which must not end each other.
        let mut of_options = FnvHasher::default();
        options.for_role(Role::Controller).hash(&mut of_options);
        let owner = format!("csi-nfs/{}/{share}/{:x}", self.owner, of_options.finish());
        let mut refused = None;
        for minor_version in minor_versions(options)? {
            let server = Server { address, credential: credential.clone(), minor_version, tls: tls.clone() };
            let connect = || Client::connect(server.clone(), owner.as_bytes(), self.ending.clone());
            // Before there is a session, nothing repeats what a connection loses.
            let connected = async {
                match connect().await {
                    Err(ConnectError::Lost) => connect().await,
                    connected => connected,
                }
            };
            match patience.wait(|| false, connected).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error @ ConnectError::Nfs { code: Code::MINOR_VERS_MISMATCH, .. })) => refused = Some(error),
                Ok(Err(error)) => return Err(failed(share, options, &error)),
                Err(waited) => {
                    let reason = match waited {
                        Waited::Gone(reason) => reason,
                        Waited::InVain => format!("it does not make a session within {} s", CONNECTING.as_secs()),
                    };
                    return Err(Error::Unreachable { server: share.server.to_string(), port: options.port(), reason });
                }
            }
        }
        let refused = refused.unwrap_or(ConnectError::Lost);
        Err(failed(share, options, &refused))
    }
}

impl Connect for UserSpace {
    type Fs = UserFs;

    async fn check(&self, share: &Source, options: &MountOptions) -> Result<IpAddr> {
        self.reachability.check(&share.server, options.port()).await
    }

    async fn connect(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Result<UserFs> {
        let patience = Patience::connecting(self.reachability.clone(), address, options.port());
        let client = self.client(share, options, address, &patience).await?;
        let (at, attributes) =
            root(&client, &patience, share).await.map_err(|status| no_root(share, options, status))?;
        for owner in [&attributes.owner, &attributes.owner_group] {
            if let Some(Owner::Name(name)) = owner {
                return Err(Error::Precondition(format!(
                    "{share}: the server names owners (`{}`), and the driver's own client needs numbers: use `--client \
                     kernel`, or let the server use numbers (knfsd: nfs4_disable_idmapping; Ganesha: Only_Numeric_Owners)",
                    name.escape_debug()
                )));
            }
        }
        let attr = attributes.object().map_err(|_| no_root(share, options, Status::Io))?;
        if attr.kind != Kind::Directory {
            return Err(no_root(share, options, Status::NotDir));
        }
        let limit = |limit: Option<u64>, channel: u32| {
            let server = u32::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
            server.min(channel.saturating_sub(AROUND)).clamp(LEAST, 1 << 20)
        };
        let (xattrs, acls) = (attributes.xattr_support == Some(true), has(supported(&attributes), ACL));
        let features = Features::default();
        features.note(Feature::Xattrs, xattrs);
        features.note(Feature::Acls, acls);
        let limits = client.limits();
        tracing::debug!(export = %share, %address, minor_version = client.minor_version(), ?limits, "connected");
        Ok(UserFs(Arc::new(Inner {
            root: UserHandle::place(at, Kind::Directory),
            fsid: attributes.fsid.ok_or_else(|| no_root(share, options, Status::Io))?,
            read: limit(attributes.maxread, limits.response),
            write: limit(attributes.maxwrite, limits.request),
            xattrs,
            acls,
            version: format!("4.{}", client.minor_version()),
            features,
            client,
            patience: patience.connected(),
        })))
    }
}

/// The root of the export.
async fn root(
    client: &Client,
    patience: &Patience,
    share: &Source,
) -> std::result::Result<(FileHandle, Attributes), Status> {
    let names: Vec<&str> = share.share.as_str().split('/').filter(|name| !name.is_empty()).collect();
    let at = names.iter().fold(Compound::default().put_root(), |at, name| at.lookup(name.as_bytes()));
    let attributes: Vec<u32> = OBJECT.into_iter().chain([SUPPORTED_ATTRS, MAXREAD, MAXWRITE, XATTR_SUPPORT]).collect();
    let answer = patience.call(client, at.handle().attributes(&attributes)).await?;
    let mut results = answer.results()?;
    results.put_root()?;
    names.iter().try_for_each(|_| results.lookup())?;
    Ok((results.handle()?, results.attributes()?))
}

/// The attributes that the server has for the object.
fn supported(attributes: &Attributes) -> &[u32] {
    attributes.supported.as_deref().unwrap_or_default()
}

/// The minor versions to try, the best one first.
fn minor_versions(options: &MountOptions) -> Result<Vec<u32>> {
    let only_kernel = |what: &str| {
        let advice = "which the driver's own client does not have: use `--client kernel`";
        Err(Error::invalid("mountOptions", format!("`{options}` asks for {what}, {advice}")))
    };
    if options.requires_kerberos() {
        return only_kernel("Kerberos");
    }
    if options.transport() != Transport::Tcp {
        return only_kernel("RDMA");
    }
    let (best, others) = options.versions();
    let minors: Vec<u32> = [best]
        .iter()
        .chain(others)
        .filter_map(|version| match version {
            Version::V4_2 => Some(2),
            Version::V4_1 => Some(1),
            Version::V4_0 | Version::V3 => None,
        })
        .collect();
    if minors.is_empty() { only_kernel("a version of NFS below 4.1") } else { Ok(minors) }
}

fn failed(share: &Source, options: &MountOptions, error: &ConnectError) -> Error {
    match error {
        ConnectError::Open(OpenError::Io(_)) | ConnectError::Lost => {
            Error::Unreachable { server: share.server.to_string(), port: options.port(), reason: error.to_string() }
        }
        ConnectError::Nfs { code: Code::MINOR_VERS_MISMATCH, .. } => Error::Precondition(format!(
            "{share}: the server has neither NFS 4.2 nor 4.1, which the driver's own client needs: use `--client kernel`"
        )),
        error => {
            let errno = match error {
                ConnectError::Open(OpenError::Tls(error)) if error.is_of_trust() => Errno::ACCESS,
                // As the kernel's client says that a helper is missing.
                ConnectError::Open(OpenError::Tls(_)) => Errno::SRCH,
                _ => Errno::IO,
            };
            Error::Mount {
                source_name: share.to_string(),
                options: options.to_string(),
                reason: error.to_string(),
                errno: errno.raw_os_error(),
            }
        }
    }
}

/// The error of a root that cannot be used.
fn no_root(share: &Source, options: &MountOptions, status: Status) -> Error {
    let (errno, advice) = match status {
        Status::NoEnt | Status::NotDir => {
            (Errno::NOENT, "; check that the path exists and that /etc/exports on the server exports it to this client")
        }
        Status::Access | Status::Perm => (
            Errno::ACCESS,
            "; check that /etc/exports on the server exports it to this client, with `sec=sys`, with the `xprtsec=` \
             that was asked for, and with `insecure` if this process may not use a port below 1024",
        ),
        Status::TimedOut | Status::Stuck => (Errno::TIMEDOUT, "; check the server and the network to it"),
        _ => (Errno::IO, ""),
    };
    Error::Mount {
        source_name: share.to_string(),
        options: options.to_string(),
        reason: format!("the server answers: {status}{advice}"),
        errno: errno.raw_os_error(),
    }
}
