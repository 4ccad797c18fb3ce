//! Unpublishes a volume on this node (CSI NodeUnpublishVolume), even if its server does not answer.
//!
//! If the server answers, the driver unmounts normally, which waits until all data is written. If it does not answer,
//! the driver retries for some seconds: after a server's restart or a lost packet, a pod must not move to another node
//! before its data is on the server. After this time, or if something still uses the mount, the driver
//! [detaches](crate::node::detach) the mount. The kernel then keeps it until the last user and the last write are done.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Error, Result};
use crate::mount::gate::Stalled;
use crate::mount::slow;
use crate::mount::table::Mount;
use crate::node::detach;
use crate::node::publisher::Publisher;
use crate::node::target::{Place, Target};

/// How long to wait for servers. Detaching afterwards takes no time.
const PATIENCE: Duration = Duration::from_secs(7);
/// The pause between two checks of a server that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

impl Publisher {
    /// Unmounts all mounts at a target and removes the target, within 10 s, even if servers do not answer. Succeeds if
    /// nothing is mounted, or if the target does not exist. A call waits for earlier calls for the same target.
    ///
    /// # Errors
    /// [`Error::Precondition`] if the target is not a directory, contains data, or has a mount that is not NFS. Such a
    /// mount stays.
    pub async fn unpublish(&self, target: &Target) -> Result<()> {
        let leaves = self.leaving.enter(target.clone());
        let _target = self.targets.lock(target.clone()).await;
        drop(leaves);
        let (find, intents) = (target.clone(), Arc::clone(&self.intents));
        let found = self.gates.local().run(move || {
            let Some(place) = find.find()?.map(Arc::new) else { return Ok(None) };
            let known = intents.known_mount(&place);
            Ok(Some((place, known)))
        });
        let Some((place, known)) = found.await? else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        // Usually this process made the mount, and it is the only one.
        if let Some(mount) = known {
            self.unmount(&place, &mount, deadline).await?;
        }
        if self.may_be_mount(&place).await? {
            let table = self.gates.local().table().await?;
            let stack = table.at(place.path());
            only_nfs(&place, &stack)?;
            for mount in stack {
                self.unmount(&place, mount, deadline).await?;
            }
        }
        self.intents.forget(place.path());
        self.gates.local().run(move || place.remove()).await?;
        Ok(())
    }

    async fn may_be_mount(&self, place: &Arc<Place>) -> Result<bool> {
        let place = Arc::clone(place);
        self.gates.local().run(move || Ok(place.may_be_mount())).await
    }

    async fn unmount(&self, place: &Arc<Place>, mount: &Mount, deadline: Instant) -> Result<()> {
        let why = match timeout_at(deadline, self.unmount_in_order(place, mount)).await {
            Ok(Ok(Ok(()) | Err(Errno::INVAL | Errno::NOENT))) => return Ok(()),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(stalled)) => stalled.to_string(),
            Err(_) => "the server does not answer in time".to_owned(),
        };
        tracing::warn!(target = %place, source = mount.source(), why, "cannot unmount; detaching the mount");
        self.detach(place, mount).await
    }

    /// Unmounts once the server answers.
    async fn unmount_in_order(&self, place: &Arc<Place>, mount: &Mount) -> Result<rustix::io::Result<()>, Stalled> {
        let (Some(address), port) = (mount.address(), mount.tcp_port()) else { return Ok(Err(Errno::ADDRNOTAVAIL)) };
        while self.reachability.check(&address.into(), port).await.is_err() {
            sleep(PAUSE).await;
        }
        let place = Arc::clone(place);
        let call = move || unmount(place.call_path(), UnmountFlags::NOFOLLOW);
        self.gates.get(address, port).of_mount(mount).run(move || slow::calls("umount", call)).await
    }

    /// Detaches the visible mount without waiting for its server.
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

/// Returns an error for a mount that is not NFS: the driver did not make it.
fn only_nfs(place: &Place, stack: &[&Mount]) -> Result<()> {
    match stack.iter().find(|mount| !mount.is_nfs()) {
        Some(other) => Err(Error::Precondition(format!(
            "{place} has a mount of type {} (`{}`), which this driver did not make: unmount it",
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
    async fn a_mount_that_is_no_nfs_mount_stays() {
        // /proc is a mount on every machine that runs this test.
        assert!(matches!(unpublish(Path::new("/proc")).await, Err(Error::Precondition(_))));
        assert!(Path::new("/proc/self").exists());
    }
}
