//! The driver's own client of an export, in this process.

use std::sync::Arc;

use csi_nfs::export::kernel::KernelFs;
use csi_nfs::export::pool::Connect;
use csi_nfs::mount::gate::Gates;
use csi_nfs::mount::mounter::Mounter;
use csi_nfs::mount::reachability::Reachability;
use csi_nfs::nfs::options::MountOptions;
use csi_nfs::nfs::source;
use rustix::fs::Mode;

use super::Share;

/// A new client of a share, mounted like a controller's.
pub async fn client(share: &Share, options: &str) -> KernelFs {
    // Like the driver's `main`.
    rustix::process::umask(Mode::empty());
    let reachability = Reachability::new();
    let mounter = Arc::new(Mounter::new(reachability.clone(), Gates::new(reachability)));
    let server = source::Server::parse("server", &share.server).unwrap();
    let share = source::Source::share(server, source::Share::parse("share", &share.share).unwrap());
    let options = MountOptions::parse("options", [options]).unwrap();
    let address = Connect::check(&mounter, &share, &options).await.unwrap();
    mounter.connect(&share, &options, address).await.unwrap()
}
