//! The driver's own client of an export, in this process.

use std::sync::Arc;

use csi_nfs::e2e::{Connect, Gates, KernelFs, MountOptions, Mounter, Reachability, Server, Share as NfsShare, Source};
use rustix::fs::Mode;

use super::Share;

/// A new client of a share, mounted like a controller's.
pub async fn client(share: &Share, options: &str) -> KernelFs {
    // The driver's `main` clears the umask, too.
    rustix::process::umask(Mode::empty());
    let reachability = Reachability::new();
    let mounter = Arc::new(Mounter::new(reachability.clone(), Gates::new(reachability)));
    let server = Server::parse("server", &share.server).unwrap();
    let share = Source::share(server, NfsShare::parse("share", &share.share).unwrap());
    let options = MountOptions::parse("options", [options]).unwrap();
    let address = Connect::check(&mounter, &share, &options).await.unwrap();
    mounter.connect(&share, &options, address).await.unwrap()
}
