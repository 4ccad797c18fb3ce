//! Exports of the kernel's server with other options and other file systems than those of `e2e/vm/servers`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;

use super::lab::{Away, Lab, Share, run};
use super::{Driver, csi, requests};

/// The options of an export, and what is exported.
#[derive(Debug, Clone)]
pub struct Kind {
    options: &'static str,
    mounted: Option<&'static str>,
    owner: u32,
    snapshots: bool,
}

impl Kind {
    /// A tmpfs that is exported with these options (exports(5)).
    pub fn of(options: &'static str) -> Self {
        Self { options, mounted: Some("size=64M"), owner: 0, snapshots: false }
    }

    /// The same, where the tmpfs is mounted with these options (tmpfs(5)).
    pub fn mounted(self, mounted: &'static str) -> Self {
        Self { mounted: Some(mounted), ..self }
    }

    /// The same, with a directory of an XFS in place of a tmpfs.
    pub fn on_xfs(self) -> Self {
        Self { mounted: None, ..self }
    }

    /// The same, where the exported directory belongs to this user.
    pub fn owned_by(self, owner: u32) -> Self {
        Self { owner, ..self }
    }

    /// The same, with a directory `.snapshot` of the server's own in the root of the export, as appliances have it: on
    /// a file system of its own that nobody can write to.
    pub fn with_snapshots(self) -> Self {
        Self { snapshots: true, ..self }
    }

    /// Whether it has `.snapshot`.
    pub fn has_snapshots(&self) -> bool {
        self.snapshots
    }
}

/// An export of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Served {
    share: Share,
    kind: Kind,
    fsid: u32,
}

impl Lab {
    /// Exports a file system of this kind.
    pub fn serve(&self, kind: &Kind) -> Served {
        static NEXT: AtomicU32 = AtomicU32::new(100);
        self.assert_alone();
        let fsid = NEXT.fetch_add(2, Ordering::Relaxed);
        let share = format!("/kind-{fsid}");
        let path = Path::new("/srv").join(&share[1..]);
        let at = path.to_str().unwrap();
        fs::create_dir(&path).unwrap();
        match kind.mounted {
            Some(options) => run("mount", ["-t", "tmpfs", "-o", options, "kind.e2e", at]),
            None => {
                let directory = format!("/srv/xfs{share}");
                fs::create_dir(&directory).unwrap();
                run("mount", ["--bind", &directory, at]);
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(kind.owner), Some(kind.owner)).unwrap();
        export(fsid, kind.options, &share);
        if kind.snapshots {
            let below = path.join(".snapshot");
            fs::create_dir(&below).unwrap();
            run("mount", ["-t", "tmpfs", "-o", "ro,size=1M", "snapshots.e2e", below.to_str().unwrap()]);
            export(fsid + 1, "ro,insecure,no_subtree_check", &format!("{share}/.snapshot"));
        }
        Served { share: Share { server: "127.0.0.1".to_owned(), share, path }, kind: kind.clone(), fsid }
    }

    /// Leaves the kernel's server with NFS version 4.1 alone until the returned value is dropped.
    pub fn with_version_4_1_alone(&self) -> Away {
        self.assert_alone();
        run("rpc.nfsd", ["0"]);
        let only = ["-N", "3", "-N", "4.0", "-N", "4.2", "--grace-time", "10", "--lease-time", "10", "8"];
        run("rpc.nfsd", only);
        Away::until(|| {
            run("rpc.nfsd", ["0"]);
            run("rpc.nfsd", ["--grace-time", "10", "--lease-time", "10", "8"]);
        })
    }

    /// Lets the kernel's server say `root@e2e` for an owner of version 4, and not `0`, until the returned value is
    /// dropped.
    pub fn with_names_of_owners(&self) -> Away {
        self.assert_alone();
        fs::write(NUMBERS, "N").unwrap();
        Away::until(|| fs::write(NUMBERS, "Y").unwrap())
    }
}

/// What [`Served::with_another_fsid`] adds.
const ANOTHER: u32 = 10_000;

/// An export that has another fsid. It has its own again when this is dropped.
#[must_use]
#[derive(Debug)]
pub struct AnotherFsid<'a>(&'a Served);

impl Drop for AnotherFsid<'_> {
    fn drop(&mut self) {
        self.0.export_with(self.0.fsid);
    }
}

/// Whether the server says numbers.
const NUMBERS: &str = "/sys/module/nfsd/parameters/nfs4_disable_idmapping";

impl Served {
    /// The share.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Exports it with another fsid until the returned value is dropped. An export without `fsid=` may get another one
    /// when its server is set up anew. Mounts do not end before they have their export again.
    pub fn with_another_fsid(&self) -> AnotherFsid<'_> {
        self.export_with(self.fsid + ANOTHER);
        AnotherFsid(self)
    }

    fn export_with(&self, fsid: u32) {
        unexport(&self.share.share);
        export(fsid, self.kind.options, &self.share.share);
    }

    /// What is in the export's root besides volumes.
    pub fn foreign(&self) -> Vec<String> {
        if self.kind.snapshots { vec![".snapshot".to_owned()] } else { Vec::new() }
    }

    /// CreateVolume with mount options.
    pub async fn create(&self, driver: &Driver, name: &str, flags: &[&str]) -> csi::Volume {
        let volume_capabilities = vec![requests::mounted(Mode::MultiNodeMultiWriter, flags)];
        let request = csi::CreateVolumeRequest { volume_capabilities, ..requests::create(&self.share, name) };
        driver.create(request).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let path = self.share.path.to_str().unwrap();
        if self.kind.snapshots {
            unexport(&format!("{}/.snapshot", self.share.share));
        }
        unexport(&self.share.share);
        run("umount", ["--recursive", "--lazy", path]);
    }
}

fn export(fsid: u32, options: &str, path: &str) {
    run("exportfs", ["-i", "-o", &format!("fsid={fsid},{options}"), &format!("*:{path}")]);
}

/// exportfs(8) complains that it finds no path to end the state of, because it does not know `rootdir` there.
fn unexport(path: &str) {
    let output = Command::new("exportfs").args(["-u", &format!("*:{path}")]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
