//! Unpublishing a volume on this node (CSI NodeUnpublishVolume), whatever its server does.
//!
//! While the server answers, a mount is unmounted like any other, which waits until everything is written. A server
//! that does not answer is asked again, because a restart or a lost packet is no reason to let a pod move to another
//! node before its data is on the server. When the time is up, or when something still uses the mount, the mount is
//! [detached](crate::node::detach): the kernel keeps what it needs until the last user and the last write are gone.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Error, Result};
use crate::mount::gate::Stalled;
use crate::mount::table::{Mount, Table};
use crate::node::detach;
use crate::node::publisher::Publisher;
use crate::node::target::{Place, Target};

/// How long servers are waited for. Detaching afterwards takes no time.
const PATIENCE: Duration = Duration::from_secs(7);
/// The pause between two questions to a server that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

impl Publisher {
    /// Unmounts everything that is mounted at a target and removes the target: within 10 s, whatever the servers do. It
    /// is success where nothing is mounted, or where the target does not exist. A call waits for an earlier call for
    /// the same target.
    ///
    /// # Errors
    /// [`Error::Precondition`] where the target is no directory, holds data, or has a mount that is not NFS: nothing is
    /// touched then.
    pub async fn unpublish(&self, target: &Target) -> Result<()> {
        let _target = self.targets.lock(target.clone()).await;
        let found = self.gates.local().run({
            let target = target.clone();
            move || Ok((target.find()?.map(Arc::new), Table::read()?))
        });
        let (Some(place), table) = found.await? else { return Ok(()) };
        let stack = table.at(place.path());
        only_nfs(&place, &stack)?;
        let deadline = Instant::now() + PATIENCE;
        for mount in stack {
            self.unmount(&place, mount, deadline).await?;
        }
        self.intents.forget(place.path());
        self.gates.local().run(move || place.remove()).await?;
        Ok(())
    }

    async fn unmount(&self, place: &Arc<Place>, mount: &Mount, deadline: Instant) -> Result<()> {
        let why = match timeout_at(deadline, self.unmount_in_order(place, mount)).await {
            Ok(Ok(Ok(()) | Err(Errno::INVAL | Errno::NOENT))) => return Ok(()),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(stalled)) => stalled.to_string(),
            Err(_) => "the server does not answer in time".to_owned(),
        };
        tracing::warn!(target = %place, source = mount.source(), why, "cannot unmount, detaching");
        self.detach(place, mount).await
    }

    /// Unmounts as soon as the server answers.
    async fn unmount_in_order(&self, place: &Arc<Place>, mount: &Mount) -> Result<rustix::io::Result<()>, Stalled> {
        let (Some(address), port) = (mount.address(), mount.tcp_port()) else { return Ok(Err(Errno::ADDRNOTAVAIL)) };
        while self.reachability.check(&address.into(), port).await.is_err() {
            sleep(PAUSE).await;
        }
        let place = Arc::clone(place);
        let call = move || unmount(place.call_path(), UnmountFlags::NOFOLLOW);
        self.gates.get(address, port).run(call).await
    }

    /// Takes the visible mount from its place without waiting for its server.
    async fn detach(&self, place: &Arc<Place>, mount: &Mount) -> Result<()> {
        let detached = self.gates.local().run({
            let (place, mount) = (Arc::clone(place), mount.clone());
            move || detach::detach(&place, &mount)
        });
        if let Some(root) = detached.await? {
            detach::end(&self.gates, mount, root);
        }
        Ok(())
    }
}

/// Refuses to touch a mount that is not NFS: the driver did not make it.
fn only_nfs(place: &Place, stack: &[&Mount]) -> Result<()> {
    match stack.iter().find(|mount| !mount.is_nfs()) {
        Some(other) => Err(Error::Precondition(format!(
            "{place} has a mount of type {} (`{}`), which this driver did not make: unmount what does not belong there",
            other.fs_type,
            other.source()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::mounter::Mounter;
    use crate::mount::reachability::Reachability;

    async fn unpublish(path: &Path) -> Result<()> {
        let reachability = Reachability::new();
        let gates = Gates::new(Arc::clone(&reachability));
        let mounter = Arc::new(Mounter::new(Arc::clone(&reachability), Arc::clone(&gates)));
        let publisher = Publisher::new(mounter, reachability, gates, Arc::default());
        publisher.unpublish(&Target::try_from(path).unwrap()).await
    }

    #[tokio::test]
    async fn a_target_is_removed_and_a_repeated_call_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        unpublish(&target).await.unwrap();
        assert!(!target.exists());
        unpublish(&target).await.unwrap();
        unpublish(&dir.path().join("missing/target")).await.unwrap();
    }

    #[tokio::test]
    async fn data_under_a_lost_mount_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("target/data");
        std::fs::create_dir(dir.path().join("target")).unwrap();
        std::fs::write(&data, "kept").unwrap();
        assert!(matches!(unpublish(&dir.path().join("target")).await, Err(Error::Precondition(_))));
        assert_eq!(std::fs::read(data).unwrap(), b"kept");
    }

    #[tokio::test]
    async fn a_mount_of_something_else_is_left_alone() {
        // procfs is mounted wherever this runs.
        assert!(matches!(unpublish(Path::new("/proc")).await, Err(Error::Precondition(_))));
        assert!(Path::new("/proc/self").exists());
    }
}
