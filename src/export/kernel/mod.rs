//! An export behind a mount of the kernel's NFS client.
//!
//! Each operation is a few system calls in one closure behind the server's [`Gate`]. So it does not slow down other
//! servers, and it ends with [`Status::TimedOut`] when this server is gone. After the caller stops waiting, the
//! operation may still be carried out.
//!
//! What this needs of its surroundings:
//! - umask(2) 0, which `main` sets: new objects get exactly the mode that was asked for.
//! - /proc, which every container has: chmod(2) of an object that is not open uses /proc/self/fd.
//! - A mount with `lookupcache=none`, so that the server is asked for a name each time: another controller may work on
//!   the same export. (The cost cannot be measured; the code here asks explicitly for listings, attributes and files.)
//!   The mount is `nodev`, since the content is hostile.
//! - One mount of an export in a network namespace, or several that share a superblock (equal options). To an NFSv4
//!   server all mounts of a namespace are one client, and it does not recall a delegation for changes by that client.
//!   Linux 7.2 shows this for versions 4.1 and 4.2 between two mounts with different superblocks: one mount finds names
//!   that were renamed or removed through the other, and both are granted a lock of the same byte.
//!
//! A handle from a lookup is a place only (O_PATH), and dropping it does not block. An open file is closed behind the
//! gate, soon after its last handle is dropped; [`Fs::commit`] has reported any error that close(2) could report.

use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use rustix::fs::{Mode, OFlags};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::export::features::{Feature, Features};
use crate::export::fs::{
    ACLS, Attr, Cookie, Fs, FsResult, FsStat, Kind, LockMode, Name, OpenMode, Page, Seek, SetAttr, Status, Step,
    check_new_mode, check_special, check_symlink_target, lock_offset,
};
use crate::mount::gate::{Gate, Held};
use crate::mount::slow;
use handle::{Descriptor, File, Mount};
use locks::Turns;

pub use handle::KernelHandle;

mod calls;
mod content;
mod handle;
mod locks;
mod objects;
mod steps;
mod xattrs;

/// An export of one server, reached through a descriptor of its mount. A clone refers to the same export.
#[derive(Debug, Clone)]
pub struct KernelFs {
    root: KernelHandle,
    mount: Mount,
    way: Way,
    locks_are_shared: bool,
    lock_turns: Turns,
    version: Option<Arc<str>>,
    features: Features,
}

/// The first and the longest pause between attempts to open a file on which another client has a lease. All pauses
/// together take two seconds.
const RECALL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(1024));

/// Where the system calls of an operation run.
#[derive(Debug, Clone)]
enum Way {
    /// On a thread of the gate.
    Gate(Gate),
    /// On the thread of the caller, which the gate provided.
    Here,
}

impl KernelFs {
    /// The export whose root directory is `root`: a descriptor of a mount, or of a directory in one (O_PATH is enough).
    /// `gate` is the gate of its server. `locks_are_shared` says whether byte-range locks reach the server.
    pub fn new(root: Held<OwnedFd>, gate: Gate, locks_are_shared: bool) -> Self {
        let mount = Arc::new(root);
        let root = KernelHandle::new(Kind::Directory, Descriptor::Root(Arc::clone(&mount)));
        let (lock_turns, version, features) = Default::default();
        Self { root, mount, way: Way::Gate(gate), locks_are_shared, lock_turns, version, features }
    }

    /// The same, whose mount has this version of NFS.
    pub fn with_version(self, version: Option<&str>) -> Self {
        Self { version: version.map(Arc::from), ..self }
    }

    /// A directory of this machine in place of an export, limited to its file system. It is for the quota agent, which
    /// runs on the server and does nothing else, so each call runs at once on the thread of the caller.
    ///
    /// # Errors
    /// What open(2) returns.
    pub async fn on_this_machine(path: PathBuf) -> FsResult<Self> {
        let gate = Gate::of_this_machine();
        let open = move || rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = gate.run(open).await??;
        Ok(Self { way: Way::Here, ..Self::new(gate.hold(root), gate, true) })
    }

    /// Runs `work` on the descriptor of an object, behind the gate, for calls that only a local file system has.
    pub async fn with<T: Send + 'static>(
        &self,
        object: &KernelHandle,
        work: impl FnOnce(BorrowedFd<'_>) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        let object = object.clone();
        self.call("with", move || work(object.as_fd())).await
    }

    /// Makes the system calls of an operation, whose name is for traces.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        calls: impl FnOnce() -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        self.run(move || slow::calls(operation, calls)).await?
    }

    /// Makes system calls where those of an operation are made.
    async fn run<T: Send + 'static>(&self, calls: impl FnOnce() -> T + Send + 'static) -> FsResult<T> {
        match &self.way {
            Way::Gate(gate) => Ok(gate.run(calls).await?),
            Way::Here => Ok(calls()),
        }
    }

    fn place(&self, kind: Kind, descriptor: OwnedFd) -> KernelHandle {
        KernelHandle::new(kind, Descriptor::Place(descriptor, Arc::clone(&self.mount)))
    }

    fn file(&self, descriptor: OwnedFd, mode: OpenMode) -> KernelHandle {
        let file = match &self.way {
            Way::Gate(gate) => File::Held(gate.hold(descriptor)),
            Way::Here => File::Here(descriptor),
        };
        KernelHandle::new(Kind::File, Descriptor::File(file, mode, Arc::clone(&self.mount)))
    }
}

impl Fs for KernelFs {
    type Handle = KernelHandle;

    /// Everything runs on one thread: switching threads costs as much as an operation on a nearby server.
    async fn in_one_go<T, W>(&self, work: impl FnOnce(Self) -> W + Send + 'static) -> FsResult<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let here = Self { way: Way::Here, ..self.clone() };
        match &self.way {
            Way::Gate(gate) => Ok(gate.run_long(move || Handle::current().block_on(work(here))).await?),
            Way::Here => Ok(work(here).await),
        }
    }

    fn root(&self) -> KernelHandle {
        self.root.clone()
    }

    async fn lookup(&self, dir: &KernelHandle, name: &Name) -> FsResult<(KernelHandle, Attr)> {
        let (dir, name) = (dir.directory()?, name.clone());
        let (object, attr) = self.call("lookup", move || calls::lookup(dir.as_fd(), &name)).await?;
        Ok((self.place(attr.kind, object), attr))
    }

    async fn parent(&self, dir: &KernelHandle) -> FsResult<(KernelHandle, Attr)> {
        let (root, dir) = (self.root(), dir.directory()?);
        let (parent, attr) = self.call("parent", move || calls::parent(root.as_fd(), dir.as_fd())).await?;
        Ok((self.place(Kind::Directory, parent), attr))
    }

    async fn getattr(&self, object: &KernelHandle) -> FsResult<Attr> {
        let object = object.clone();
        self.call("getattr", move || calls::getattr(object.as_fd())).await
    }

    async fn setattr(&self, object: &KernelHandle, attr: SetAttr) -> FsResult<()> {
        attr.check()?;
        let object = if attr.size.is_some() { object.file(true)? } else { object.clone() };
        self.call("setattr", move || calls::setattr(object.as_fd(), object.0.kind, attr)).await
    }

    async fn mkdir(&self, dir: &KernelHandle, name: &Name, mode: u32) -> FsResult<(KernelHandle, Attr)> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let make = move || {
            calls::mkdir(dir.as_fd(), &name, mode)?;
            calls::directory(dir.as_fd(), &name)
        };
        let (made, attr) = self.call("mkdir", make).await?;
        Ok((self.place(Kind::Directory, made), attr))
    }

    async fn create(&self, dir: &KernelHandle, name: &Name, mode: u32) -> FsResult<(KernelHandle, Attr)> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let (file, attr) = self.call("create", move || calls::create(dir.as_fd(), &name, mode)).await?;
        Ok((self.file(file, OpenMode::ReadWrite), attr))
    }

    async fn open_or_create(&self, dir: &KernelHandle, name: &Name, mode: u32) -> FsResult<(KernelHandle, Attr)> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let (file, attr) = self.call("open_or_create", move || calls::open_or_create(dir.as_fd(), &name, mode)).await?;
        Ok((self.file(file, OpenMode::ReadWrite), attr))
    }

    async fn symlink(&self, dir: &KernelHandle, name: &Name, target: &[u8]) -> FsResult<(KernelHandle, Attr)> {
        check_symlink_target(target)?;
        let (dir, name, target) = (dir.directory()?, name.clone(), target.to_vec());
        let (made, attr) = self.call("symlink", move || objects::symlink(dir.as_fd(), &name, &target)).await?;
        Ok((self.place(attr.kind, made), attr))
    }

    async fn mknod(
        &self,
        dir: &KernelHandle,
        name: &Name,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> FsResult<(KernelHandle, Attr)> {
        check_special(kind)?;
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let (made, attr) = self.call("mknod", move || objects::mknod(dir.as_fd(), &name, kind, mode, device)).await?;
        Ok((self.place(attr.kind, made), attr))
    }

    async fn link(&self, object: &KernelHandle, dir: &KernelHandle, name: &Name) -> FsResult<()> {
        let (object, dir, name) = (object.clone(), dir.directory()?, name.clone());
        self.call("link", move || objects::link(object.as_fd(), object.0.kind, dir.as_fd(), &name)).await
    }

    async fn readlink(&self, link: &KernelHandle) -> FsResult<Vec<u8>> {
        let link = link.clone();
        self.call("readlink", move || objects::readlink(link.as_fd(), link.0.kind)).await
    }

    async fn open(&self, dir: &KernelHandle, name: &Name, mode: OpenMode) -> FsResult<(KernelHandle, Attr)> {
        let (dir, name) = (dir.directory()?, name.clone());
        let mut pause = RECALL.0;
        loop {
            let (dir, name) = (dir.clone(), name.clone());
            match self.call("open", move || calls::open(dir.as_fd(), &name, mode)).await {
                // This machine is the server: a client has a delegation of the file and is asked to return it.
                Err(Status::Other(libc::EAGAIN)) if pause <= RECALL.1 => sleep(pause).await,
                opened => return opened.map(|(file, attr)| (self.file(file, mode), attr)),
            }
            pause *= 2;
        }
    }

    async fn read(&self, file: &KernelHandle, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        let file = file.file(false)?;
        self.call("read", move || calls::read(file.as_fd(), offset, length)).await
    }

    async fn write(&self, file: &KernelHandle, offset: u64, data: Vec<u8>) -> FsResult<()> {
        let file = file.file(true)?;
        self.call("write", move || calls::write(file.as_fd(), offset, &data)).await
    }

    async fn commit(&self, file: &KernelHandle) -> FsResult<()> {
        let file = file.file(false)?;
        self.call("commit", move || calls::commit(file.as_fd())).await
    }

    async fn seek(&self, file: &KernelHandle, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        let file = file.file(false)?;
        self.call("seek", move || content::seek(file.as_fd(), offset, what)).await
    }

    async fn clone_file(&self, source: &KernelHandle, target: &KernelHandle) -> FsResult<u64> {
        let (source, target) = (source.file(false)?, target.file(true)?);
        let cloned = self.call("clone_file", move || content::clone_file(source.as_fd(), target.as_fd())).await;
        self.features.noted(Feature::Clone, cloned)
    }

    async fn copy(&self, source: &KernelHandle, target: &KernelHandle, offset: u64, length: u64) -> FsResult<u64> {
        let (source, target) = (source.file(false)?, target.file(true)?);
        self.call("copy", move || content::copy(source.as_fd(), target.as_fd(), offset, length)).await
    }

    async fn list_xattrs(&self, object: &KernelHandle) -> FsResult<Vec<Vec<u8>>> {
        let object = object.clone();
        let listed = self.call("list_xattrs", move || object.xattrs()?.list()).await;
        for name in listed.iter().flatten() {
            let is_list = ACLS.contains(&name.as_slice());
            self.features.note(if is_list { Feature::Acls } else { Feature::Xattrs }, true);
        }
        if listed == Err(Status::NotSupp) {
            self.features.note(Feature::Xattrs, false);
        }
        listed
    }

    async fn get_xattr(&self, object: &KernelHandle, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        let (object, name) = (object.clone(), name.to_vec());
        self.call("get_xattr", move || object.xattrs()?.get(&name)).await
    }

    async fn set_xattr(&self, object: &KernelHandle, name: &[u8], value: &[u8]) -> FsResult<()> {
        let (object, name, value) = (object.clone(), name.to_vec(), value.to_vec());
        self.call("set_xattr", move || object.xattrs()?.set(&name, &value)).await
    }

    /// In one go: the call needs one thread, and the file is closed when it returns.
    async fn read_file(&self, dir: &KernelHandle, name: &Name, limit: usize) -> FsResult<Vec<u8>> {
        let (dir, name) = (dir.directory()?, name.clone());
        self.call("read_file", move || {
            let (file, attr) = calls::open(dir.as_fd(), &name, OpenMode::Read)?;
            if attr.size > limit as u64 { Err(Status::FBig) } else { calls::read(file.as_fd(), 0, limit) }
        })
        .await
    }

    /// In one go: the call needs one thread, and the file is closed when it returns.
    async fn write_file(&self, dir: &KernelHandle, name: &Name, mode: u32, content: Vec<u8>) -> FsResult<()> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        self.call("write_file", move || steps::write_file(dir.as_fd(), &name, mode, &content)).await
    }

    /// All steps run on one thread, as in [`Self::in_one_go`].
    async fn in_order(&self, steps: &[Step<KernelHandle>]) -> (usize, FsResult<()>) {
        let steps = steps.to_vec();
        self.run(move || steps::in_order(&steps)).await.unwrap_or_else(|status| (0, Err(status)))
    }

    async fn rename(&self, from_dir: &KernelHandle, from: &Name, to_dir: &KernelHandle, to: &Name) -> FsResult<()> {
        let (from_dir, from) = (from_dir.directory()?, from.clone());
        let (to_dir, to) = (to_dir.directory()?, to.clone());
        self.call("rename", move || calls::rename(from_dir.as_fd(), &from, to_dir.as_fd(), &to)).await
    }

    async fn unlink(&self, dir: &KernelHandle, name: &Name) -> FsResult<()> {
        let (dir, name) = (dir.directory()?, name.clone());
        self.call("unlink", move || calls::unlink(dir.as_fd(), &name)).await
    }

    async fn rmdir(&self, dir: &KernelHandle, name: &Name) -> FsResult<()> {
        let (dir, name) = (dir.directory()?, name.clone());
        self.call("rmdir", move || calls::rmdir(dir.as_fd(), &name)).await
    }

    async fn readdir(&self, dir: &KernelHandle, from: Cookie) -> FsResult<Page> {
        let dir = dir.directory()?;
        self.call("readdir", move || calls::readdir(dir.as_fd(), from)).await
    }

    async fn statfs(&self, dir: &KernelHandle) -> FsResult<FsStat> {
        let dir = dir.directory()?;
        self.call("statfs", move || calls::statfs(dir.as_fd())).await
    }

    async fn try_lock(&self, file: &KernelHandle, key: u64, mode: LockMode) -> FsResult<bool> {
        let (file, byte) = (file.file(true)?, lock_offset(key));
        let _turn = self.lock_turns.next().await;
        self.call("try_lock", move || locks::lock(file.as_fd(), byte, mode)).await
    }

    async fn unlock(&self, file: &KernelHandle, key: u64) -> FsResult<()> {
        let (file, byte) = (file.file(true)?, lock_offset(key));
        let _turn = self.lock_turns.next().await;
        self.call("unlock", move || locks::unlock(file.as_fd(), byte)).await
    }

    fn locks_are_shared(&self) -> bool {
        self.locks_are_shared
    }

    fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn features(&self) -> Features {
        self.features.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::gate::Gates;
    use crate::mount::reachability::Reachability;

    fn root_of(path: &str) -> KernelFs {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let gate = Gates::new(Reachability::new()).get([127, 0, 0, 1].into(), 2049);
        KernelFs::new(gate.hold(root), gate, false)
    }

    #[tokio::test]
    async fn a_mount_below_the_export_is_not_entered() {
        let fs = root_of("/");
        let proc = Name::new("proc").unwrap();
        assert_eq!(fs.lookup(&fs.root(), &proc).await.unwrap_err(), Status::XDev);
        assert_eq!(fs.open(&fs.root(), &proc, OpenMode::Read).await.unwrap_err(), Status::XDev);
        assert!(!fs.locks_are_shared());
    }

    #[tokio::test]
    async fn a_link_of_proc_is_not_followed() {
        let fs = root_of("/proc/self");
        for name in ["exe", "cwd", "root"] {
            let name = Name::new(name).unwrap();
            assert_eq!(fs.lookup(&fs.root(), &name).await.unwrap().1.kind, Kind::Symlink, "{name}");
            assert_eq!(fs.open(&fs.root(), &name, OpenMode::Read).await.unwrap_err(), Status::Symlink, "{name}");
        }
    }

    #[tokio::test]
    async fn a_handle_outlives_the_export_it_came_from() {
        let (place, fs) = crate::testing::local_directory::local();
        let (file, _) = fs.create(&fs.root(), &Name::new("f").unwrap(), 0o600).await.unwrap();
        let other = crate::testing::local_directory::export(&place);
        drop(fs);
        other.write(&file, 0, b"content".to_vec()).await.unwrap();
        assert_eq!(std::fs::read(place.path().join("f")).unwrap(), b"content");
    }
}
