//! `csi-nfs doctor`: tries, step by step, what the driver needs of an export, from the machine that it runs on. Each step
//! says what it tried, what came, and what to do. Nothing that it makes stays.

mod export;
mod mounts;
mod network;
mod report;

use std::sync::Arc;

pub use report::{Report, Step, Verdict};

use crate::error::Result;
use crate::export::Export;
use crate::export::client::{Choice, Clients, ExportFs};
use crate::export::pool::Connect;
use crate::export::user::UserSpace;
use crate::mount::gate::Gates;
use crate::mount::mounter::Mounter;
use crate::mount::reachability::Reachability;
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Server, Source};
use crate::nfs4::tls::TlsFiles;
use crate::node::mount_probe::MountProbe;

/// What to examine.
#[derive(Debug)]
pub struct Settings {
    /// The export.
    pub export: Source,
    /// How it is mounted.
    pub mount_options: MountOptions,
    /// The client that reaches it.
    pub client: Choice,
    /// The certificates for exports with TLS, if the driver's own client reaches it.
    pub certificates: TlsFiles,
}

/// Examines an export. What fails is in the report.
pub async fn run(settings: &Settings) -> Report {
    let mounter = Mounts::new(settings);
    let report = examine(settings, &mounter).await;
    mounter.own.ended().await;
    report
}

async fn examine(settings: &Settings, mounter: &Mounts) -> Report {
    let (share, options) = (&settings.export, &settings.mount_options);
    let mut report = Report::of(share);
    let answering = network::examine(&share.server, options, &mut report).await;
    if answering.is_empty() {
        return report;
    }
    mounts::examine(share, &answering, &mounter.probe, &mut report).await;
    let tried = format!("mounting {share}{}", with(options));
    let Some(main) = report.note("mount", &tried, mounter.export(share, options).await) else { return report };
    let unshared = mounter.export(share, &options.unshared()).await;
    let Some(place) = export::examine(&main, unshared.ok().as_ref(), &mut report).await else { return report };
    // A name that leads to servers with different content makes volumes come and go.
    for address in answering.into_iter().filter(|_| share.server.address().is_none()) {
        let at_address = Source { server: Server::from(address), ..share.clone() };
        let tried = format!("finding at {address} what was just made");
        let step = match mounter.export(&at_address, options).await {
            Ok(other) => place.is_seen_by(&other, &tried).await,
            Err(error) => Step::warning("addresses", &tried, error.to_string(), "let every address serve the export"),
        };
        report.add(step);
    }
    report.add(place.remove(&main).await);
    report
}

/// The mount options, for a message.
fn with(options: &MountOptions) -> String {
    let options = options.recorded();
    if options.is_empty() { String::new() } else { format!(" with {}", options.join(",")) }
}

/// Mounts exports for this examination, and looks at what is mounted.
struct Mounts {
    choice: Choice,
    own: UserSpace,
    mounter: Arc<Mounter>,
    probe: MountProbe,
}

impl Mounts {
    fn new(settings: &Settings) -> Self {
        let reachability = Reachability::new();
        let gates = Gates::new(reachability.clone());
        let mounter = Arc::new(Mounter::new(reachability.clone(), gates.clone()));
        let own = UserSpace::new(reachability.clone(), UserSpace::unique_owner());
        let own = own.with_certificates(settings.certificates.clone());
        Self { choice: settings.client, own, mounter, probe: MountProbe::new(reachability, gates) }
    }

    /// Connects to the export, by a client that the server knows as none of the others.
    async fn export(&self, share: &Source, options: &MountOptions) -> Result<Export<ExportFs>> {
        let clients = Clients::new(self.choice, self.mounter.clone(), self.own.another());
        let address = clients.check(share, options).await?;
        let fs = clients.connect(share, options, address).await?;
        Ok(Export::new(share.clone(), fs, Arc::default()))
    }
}
