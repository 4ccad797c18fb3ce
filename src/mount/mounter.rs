//! Makes detached NFS mounts: finds the server, negotiates the version, and checks which options are in force.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::Result;
use crate::mount::fsmount::{Attempt, Parameter, Request};
use crate::mount::gate::{Gate, Gates, Held};
use crate::mount::in_force::InForce;
use crate::mount::new_mount::NewMount;
use crate::mount::older::PrivateDirectories;
use crate::mount::reachability::Reachability;
use crate::mount::security;
use crate::mount::slow;
use crate::mount::table::Mount;
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
    directories: Arc<PrivateDirectories>,
}

/// A detached mount. It ends with the last descriptor of its root, unless it was attached.
#[derive(Debug)]
pub struct Mounted<R = Held<OwnedFd>> {
    /// The root directory of the mount, or the result of what was done with it.
    pub root: R,
    /// The server's address that the driver gave to the kernel. The kernel may use another address of the same server.
    pub asked: IpAddr,
    /// Whether the server keeps its locks, so that other clients see them.
    pub locks_are_shared: bool,
    /// What the kernel shows of the detached mount, if the driver can read it.
    pub shown: Option<Mount>,
    /// The gate for all calls on the mount: that of the address that the kernel uses.
    pub gate: Gate,
}

impl Mounter {
    /// A mounter that checks servers with `reachability`, and makes its calls through `gates`.
    pub fn new(reachability: Arc<Reachability>, gates: Arc<Gates>) -> Self {
        Self {
            reachability,
            gates,
            versions: Remembered::default(),
            in_force: Arc::default(),
            directories: Arc::default(),
        }
    }

    /// The address at which a server answers. See [`Reachability::check`].
    pub async fn check(&self, server: &Server, port: u16) -> Result<IpAddr> {
        self.reachability.check(server, port).await
    }

    /// Makes a detached mount of `source`. The options may choose the version; otherwise it is the best that the server
    /// has.
    ///
    /// # Errors
    /// - [`Unreachable`](crate::error::Error::Unreachable) within 5 s if the server does not answer or stops answering.
    ///   Exception: if a server answers all checks but not the mount, only the caller's deadline ends the wait.
    /// - [`Mount`](crate::error::Error::Mount) if the kernel does not mount, with its message and advice.
    /// - [`Precondition`](crate::error::Error::Precondition) if the options request locks of version 3 and rpc.statd
    ///   does not run on this node, or if an option that protects data is weaker than requested.
    pub async fn mount(&self, source: &Source, options: &MountOptions, role: Role) -> Result<Mounted> {
        // Wrap the root on the mounting thread: if no one waits any more, the mount ends there.
        self.mount_then(source, options, role, |gate, mount| gate.hold(mount.into_root())).await
    }

    /// Like [`Self::mount`], but also calls `then` with the mount, on the mounting thread. `then` may block.
    pub async fn mount_then<R: Send + 'static>(
        &self,
        source: &Source,
        options: &MountOptions,
        role: Role,
        then: impl Fn(&Gate, NewMount) -> R + Clone + Send + 'static,
    ) -> Result<Mounted<R>> {
        let (server, port) = (&source.server, options.port());
        let address = self.check(server, port).await?;
        let mut options = options.for_role(role);
        let at = (address, port);
        let mut negotiation = self.versions.negotiate(at, &options);
        loop {
            let version = negotiation.version();
            let attempt = Attempted { source, options: &options, version, address };
            let failure = match self.attempt(attempt, then.clone()).await {
                Ok((root, gate, shown)) => {
                    if self.versions.keep(at, &options, &negotiation) {
                        let (wanted, _) = options.versions();
                        tracing::warn!(
                            %server, %address, %version, %wanted,
                            "using a lower version of NFS than was wanted"
                        );
                    }
                    tracing::debug!(%source, %version, %address, %options, "mounted");
                    let locks_are_shared = version != Version::V3 || options.locks();
                    return Ok(Mounted { root, asked: address, locks_are_shared, shown, gate });
                }
                Err(failure) => failure,
            };
            let errno = failure.errno();
            if let Some(apart) = apart_from_other_labels(&options, errno) {
                options = apart;
                continue;
            }
            // Another version would need rpc.gssd, too.
            let errno = errno.filter(|errno| !security::lacks_gssd(*errno, &options));
            let failure = failure.with_labels(&options);
            negotiation.failed(failure, errno).map_err(|failure| failure.into_error(source, &options))?;
        }
    }

    /// Mounts with one version, and calls `then` if the requested options are in force.
    async fn attempt<R: Send + 'static>(
        &self,
        attempt: Attempted<'_>,
        then: impl FnOnce(&Gate, NewMount) -> R + Send + 'static,
    ) -> std::result::Result<(R, Gate, Option<Mount>), Attempt> {
        let request = attempt.request().await?;
        let (asked, options) = ((attempt.address, attempt.options.port()), attempt.options.clone());
        let (gates, in_force, export) = (Arc::clone(&self.gates), Arc::clone(&self.in_force), attempt.source.clone());
        let directories = Arc::clone(&self.directories);
        let mount = move || {
            let root = NewMount::make(&directories, &request).map_err(Attempt::Refused)?;
            let (root, shown) = in_force.check(root, &request.source, &options)?;
            let gate = gate_in_use(&gates, asked, shown.as_ref().and_then(Mount::address)).of_export(&export);
            Ok((then(&gate, root), gate, shown))
        };
        self.gates
            .get(asked.0, asked.1)
            .of_export(attempt.source)
            .run(move || slow::calls("mount", mount))
            .await
            .unwrap_or_else(|stalled| Err(Attempt::Other(stalled.into())))
    }
}

/// The options with which to mount again if the kernel may have refused a mount because one with other labels exists.
/// Since Linux 5.13, the kernel gives each label a superblock of its own; before, it answers EINVAL, and only
/// `nosharecache` keeps the two apart.
fn apart_from_other_labels(options: &MountOptions, errno: Option<Errno>) -> Option<MountOptions> {
    (errno == Some(Errno::INVAL) && options.labels() && options.shares_cache()).then(|| options.unshared())
}

/// The gate of a mount that was requested at the address and port `asked`, and for which the kernel uses the address
/// `used`.
fn gate_in_use(gates: &Gates, asked: (IpAddr, u16), used: Option<IpAddr>) -> Gate {
    let (address, port) = asked;
    if let Some(used) = used.filter(|used| *used != address) {
        tracing::debug!(asked = %address, %used, "the kernel uses another address of the server");
    }
    gates.get(used.unwrap_or(address), port)
}

/// One attempt at a mount.
struct Attempted<'a> {
    source: &'a Source,
    options: &'a MountOptions,
    version: Version,
    address: IpAddr,
}

impl Attempted<'_> {
    /// The arguments for the kernel.
    async fn request(&self) -> std::result::Result<Request, Attempt> {
        let mut parameters = common(self.options, self.version, self.address);
        if self.version == Version::V3 {
            parameters.extend(version3::prepare(self.options, self.address).await?);
        }
        let below = self.source.sub_dir.clone().filter(|_| self.version == Version::V3);
        let parts = below.map(|below| (self.source.export().to_string(), below));
        Ok(Request { source: self.source.to_string(), parts, parameters, attributes: self.options.attributes() })
    }
}

/// The parameters that need no answer from the server.
fn common(options: &MountOptions, version: Version, address: IpAddr) -> Vec<Parameter> {
    let mut parameters: Vec<_> = options.parameters().map(|(key, value)| (key, value.map(str::to_owned))).collect();
    parameters.push(("vers", Some(version.to_string())));
    parameters.push(("addr", Some(address.to_string())));
    if version == Version::V3 {
        // Without `mountproto`, the kernel uses the transport of NFS for mountd too. For TLS, it has none and panics.
        let transport = if address.is_ipv6() { "tcp6" } else { "tcp" };
        parameters.push(("mountproto", Some(transport.to_owned())));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::error::Error;
    use crate::mount::table::Table;
    use crate::nfs::option_table::{KNOWN, examples};
    use crate::nfs::source::Share;
    use crate::testing::fake_server::{self, Behaviour};

    #[tokio::test]
    async fn a_server_that_refuses_connections_is_unreachable_and_the_call_can_move_between_threads() {
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
                async move { mounter.mount(&source, &options, Role::Node).await.map(|mounted| mounted.asked) },
            );
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Unreachable { port: tried, .. } if *tried == port), "{error}");
    }

    #[rstest]
    #[case::the_address_that_the_kernel_uses(Some("127.0.0.9"), Some("127.0.0.9"))]
    #[case::the_address_that_was_asked(None, None)]
    #[tokio::test]
    async fn a_call_on_a_mount_waits_while_this_address_answers(
        #[case] used: Option<&str>,
        #[case] stalled: Option<&str>,
    ) {
        let asked = fake_server::Server::start(Behaviour::alive()).await.address;
        let _gone = fake_server::Server::on(&format!("127.0.0.9:{}", asked.port()), Behaviour::Closing).await;
        let gates = Gates::new(Reachability::new());
        let used = used.map(|address| {
            let line = format!("26 25 0:26 / /t rw - nfs4 nfs:/e rw,vers=4.2,addr={address}");
            Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap().address().unwrap()
        });
        let gate = gate_in_use(&gates, (asked.ip(), asked.port()), used);
        let (release, released) = mpsc::channel::<()>();
        let call = gate.run(move || released.recv().is_ok());
        // Wait longer than the driver needs to notice that a server is gone.
        let ended = tokio::time::timeout(Duration::from_secs(4), call).await;
        let by = ended.ok().and_then(Result::err).map(|stalled| stalled.server.to_string());
        assert_eq!(by.as_deref(), stalled);
        drop(release);
    }

    #[rstest]
    #[case::without_labels("hard", Some(Errno::INVAL), None)]
    #[case::another_label_on_the_superblock("context=u:r:t", Some(Errno::INVAL), Some("context=u:r:t,nosharecache"))]
    #[case::refused_apart_too("context=u:r:t,nosharecache", Some(Errno::INVAL), None)]
    #[case::another_error("context=u:r:t", Some(Errno::ACCESS), None)]
    fn a_mount_with_labels_is_tried_again_apart_from_others(
        #[case] options: &str,
        #[case] errno: Option<Errno>,
        #[case] again: Option<&str>,
    ) {
        let options = MountOptions::parse("mountOptions", [options]).unwrap();
        let apart = apart_from_other_labels(&options, errno);
        assert_eq!(apart.map(|options| options.to_string()).as_deref(), again);
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
