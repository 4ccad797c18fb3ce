//! The driver's own client of an export, in this process.

use std::sync::Arc;

use csi_nfs::e2e::{
    Connect, Gates, KernelFs, MountOptions, Mounter, Reachability, Server, Share as NfsShare, Source, UserFs, UserSpace,
};
use rustix::fs::Mode;

use super::Share;

/// A new client of a share, mounted like a controller's.
pub async fn client(share: &Share, options: &str) -> KernelFs {
    // The driver's `main` clears the umask, too.
    rustix::process::umask(Mode::empty());
    let reachability = Reachability::new();
    connected(&Arc::new(Mounter::new(reachability.clone(), Gates::new(reachability))), share, options).await
}

/// A new client of a share that needs no mount. No two of them are the same client to a server.
pub async fn own_client(share: &Share, options: &str) -> UserFs {
    connected(&UserSpace::new(Reachability::new(), UserSpace::unique_owner()), share, options).await
}

async fn connected<C: Connect>(connect: &C, share: &Share, options: &str) -> C::Fs {
    let server = Server::parse("server", &share.server).unwrap();
    let share = Source::share(server, NfsShare::parse("share", &share.share).unwrap());
    let options = MountOptions::parse("options", [options]).unwrap();
    let address = connect.check(&share, &options).await.unwrap();
    connect.connect(&share, &options, address).await.unwrap()
}
