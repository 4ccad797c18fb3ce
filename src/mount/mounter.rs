//! NFS mounts by system calls.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::Result;
use crate::mount::fsmount::{self, Attempt, Parameter, Request};
use crate::mount::gate::{Gate, Gates, Held};
use crate::mount::in_force::InForce;
use crate::mount::reachability::Reachability;
use crate::mount::version::Remembered;
use crate::mount::version3;
pub use crate::nfs::options::Role;
use crate::nfs::options::{MountOptions, Version};
use crate::nfs::source::{Server, Source};

/// Makes NFS mounts.
#[derive(Debug)]
pub struct Mounter {
    reachability: Arc<Reachability>,
    gates: Arc<Gates>,
    versions: Remembered,
    in_force: Arc<InForce>,
}

/// A mount that was made and is in no directory yet, or never will be. It ends with the last descriptor of its root,
/// unless it was attached.
#[derive(Debug)]
pub struct Mounted<R = Held<OwnedFd>> {
    /// The root directory of the mount, or what became of it.
    pub root: R,
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
        Self { reachability, gates, versions: Remembered::default(), in_force: Arc::default() }
    }

    /// Asks a server whether it is there; answers where. See [`Reachability::check`].
    pub async fn check(&self, server: &Server, port: u16) -> Result<IpAddr> {
        self.reachability.check(server, port).await
    }

    /// Mounts `source`, in no directory. The version is what the options say, otherwise the best that the server has.
    ///
    /// [`Unreachable`](crate::error::Error::Unreachable) within 5 s where the server does not answer, or stops to;
    /// [`Mount`](crate::error::Error::Mount) with what the kernel said and what to do where it does not mount;
    /// [`Precondition`](crate::error::Error::Precondition) where locks of version 3 were asked for and rpc.statd does
    /// not run here, and where what protects data is weaker than asked for. One exception to the 5 s: a server that answers
    /// all that it is asked and does not carry out the mount is waited for; the caller's deadline is the limit.
    pub async fn mount(&self, source: &Source, options: &MountOptions, role: Role) -> Result<Mounted> {
        // Wrapped on its thread: should nobody wait for it any more, the mount ends there.
        self.mount_then(source, options, role, |gate, root| gate.hold(root)).await
    }

    /// The same, and goes on with the root of the mount on the thread that made it, which may block there.
    pub async fn mount_then<R: Send + 'static>(
        &self,
        source: &Source,
        options: &MountOptions,
        role: Role,
        then: impl Fn(&Gate, OwnedFd) -> R + Clone + Send + 'static,
    ) -> Result<Mounted<R>> {
        let (server, port) = (&source.server, options.port());
        let address = self.check(server, port).await?;
        let gate = self.gates.get(address, port);
        let options = options.for_role(role);
        let at = (address, port);
        let mut negotiation = self.versions.negotiate(at, &options);
        loop {
            let version = negotiation.version();
            let attempt = Attempted { source, options: &options, version, address };
            let failure = match self.attempt(attempt, &gate, then.clone()).await {
                Ok(root) => {
                    if self.versions.keep(at, &options, &negotiation) {
                        let (wanted, _) = options.versions();
                        tracing::warn!(%server, %address, %version, %wanted, "using a lower version of NFS than was wanted");
                    }
                    tracing::debug!(%source, %version, %address, %options, "mounted");
                    let locks_are_shared = version != Version::V3 || options.locks();
                    return Ok(Mounted { root, version, address, options, locks_are_shared, gate });
                }
                Err(failure) => failure,
            };
            let errno = failure.errno();
            negotiation.failed(failure, errno).map_err(|failure| failure.into_error(source, &options))?;
        }
    }

    /// Mounts with one version, and goes on where everything that was asked for is in force.
    async fn attempt<R: Send + 'static>(
        &self,
        attempt: Attempted<'_>,
        gate: &Gate,
        then: impl FnOnce(&Gate, OwnedFd) -> R + Send + 'static,
    ) -> std::result::Result<R, Attempt> {
        let request = attempt.request().await?;
        let (through, in_force, options) = (gate.clone(), Arc::clone(&self.in_force), attempt.options.clone());
        let mount = move || {
            let root = fsmount::detached(&request).map_err(Attempt::Refused)?;
            let root = in_force.check(root, &request.source, &options)?;
            Ok(then(&through, root))
        };
        gate.run(mount).await.unwrap_or_else(|stalled| Err(Attempt::Other(stalled.into())))
    }
}

/// What is tried.
struct Attempted<'a> {
    source: &'a Source,
    options: &'a MountOptions,
    version: Version,
    address: IpAddr,
}

impl Attempted<'_> {
    /// What the kernel is asked for.
    async fn request(&self) -> std::result::Result<Request, Attempt> {
        let mut parameters = common(self.options, self.version, self.address);
        if self.version == Version::V3 {
            parameters.extend(version3::prepare(self.options, self.address).await?);
        }
        Ok(Request { source: self.source.to_string(), parameters, attributes: self.options.attributes() })
    }
}

/// What is known before the server is asked for more.
fn common(options: &MountOptions, version: Version, address: IpAddr) -> Vec<Parameter> {
    let mut parameters: Vec<_> = options.parameters().map(|(key, value)| (key, value.map(str::to_owned))).collect();
    parameters.push(("vers", Some(version.to_string())));
    parameters.push(("addr", Some(address.to_string())));
    if version == Version::V3 {
        // Without it the kernel uses the transport of NFS for mountd too. It has none with TLS there, and panics.
        let transport = if address.is_ipv6() { "tcp6" } else { "tcp" };
        parameters.push(("mountproto", Some(transport.to_owned())));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;
    use crate::nfs::option_table::{KNOWN, examples};
    use crate::nfs::source::Share;

    #[tokio::test]
    async fn a_server_that_refuses_is_unreachable_and_the_call_can_move_between_threads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let reachability = Reachability::new();
        let mounter = Mounter::new(Arc::clone(&reachability), Gates::new(reachability));
        let source =
            Source::share(Server::parse("server", "127.0.0.1").unwrap(), Share::parse("share", "/export").unwrap());
        let options = MountOptions::parse("mountOptions", [format!("port={port}")]).unwrap();
        let call =
            tokio::spawn(
                async move { mounter.mount(&source, &options, Role::Node).await.map(|mounted| mounted.version) },
            );
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Unreachable { port: tried, .. } if *tried == port), "{error}");
    }

    #[test]
    fn every_version_is_mounted_at_the_address_that_answered() {
        let options = MountOptions::parse("mountOptions", ["nfsvers=4.1,hard,ro"]).unwrap();
        let text = |value: &str| Some(value.to_owned());
        assert_eq!(
            common(&options, Version::V4_1, "::1".parse().unwrap()),
            [("hard", None), ("vers", text("4.1")), ("addr", text("::1"))]
        );
    }

    proptest! {
        #[test]
        fn no_options_make_the_kernel_ask_mountd_over_tls(
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            encryption in prop::sample::select(vec!["xprtsec=tls", "xprtsec=mtls"]),
            version in prop::sample::select(vec!["", "vers=3"]),
            server in prop::sample::select(vec!["127.0.0.1", "::1"]),
        ) {
            let known: Vec<String> = KNOWN.iter().flat_map(examples).collect();
            let words = picks.iter().map(|pick| pick.get(&known).as_str()).chain([version, encryption]);
            // Versions may contradict each other.
            let Ok(options) = MountOptions::parse("mountOptions", words) else { return Ok(()) };
            let (best, others) = options.versions();
            prop_assert!(!others.contains(&Version::V3), "{options}");
            for version in [best].iter().chain(others).filter(|version| **version == Version::V3) {
                let parameters = common(&options, *version, server.parse().unwrap());
                let mountproto = parameters.iter().rev().find(|(key, _)| *key == "mountproto").unwrap().1.as_deref();
                prop_assert_eq!(mountproto, Some(if server == "::1" { "tcp6" } else { "tcp" }));
            }
        }
    }
}
