//! An export behind a mount of the kernel's NFS client.
//!
//! Each operation is a few system calls in one closure behind the server's [`Gate`]: it costs no other server anything, and
//! ends with [`Status::TimedOut`] when this one is gone. When the caller no longer waits, the operation may yet be
//! carried out.
//!
//! What it needs of its surroundings:
//! - umask(2) 0, which `main` sets: the mode of what is made is the one that was asked for.
//! - /proc, as every container has it: chmod(2) of an object that is not open goes through /proc/self/fd.
//! - A mount with `lookupcache=none`, so that a name is asked of the server each time: another controller may work on the
//!   same export. (It costs nothing that can be measured; listings, attributes and files are asked for by what is done
//!   here.) And with `nodev`, since the content is hostile.
//! - One mount of an export in a network namespace, or several that share a superblock (equal options): to an NFSv4 server
//!   all mounts of a namespace are one client, and it recalls no delegation for what that client does itself. Seen with
//!   Linux 7.2, versions 4.1 and 4.2, between two mounts with different superblocks: one finds names that were renamed or
//!   removed in the other, and both are granted a lock of the same byte.
//!
//! Descriptors: a handle that was looked up is a place only (O_PATH), and letting go of it does not block. An open file
//! is closed behind the gate, soon after its last handle is gone; what closing could report, [`Fs::commit`] has
//! reported before.

use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use rustix::fs::{Mode, OFlags};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::export::fs::{
    Attr, Cookie, Fs, FsResult, FsStat, Kind, Name, OpenMode, Page, Seek, SetAttr, Status, check_new_mode,
    check_special, check_symlink_target, lock_offset,
};
use crate::mount::gate::{Gate, Held};
use handle::{Descriptor, File, Mount};

pub use handle::KernelHandle;

mod calls;
mod content;
mod handle;
mod objects;
mod xattrs;

/// An export of one server, through a descriptor of its mount. A clone is the same.
#[derive(Debug, Clone)]
pub struct KernelFs {
    root: KernelHandle,
    mount: Mount,
    way: Way,
    locks_are_shared: bool,
}

/// Between two tries to open a file that another has a lease of, at first and at most: together, two seconds.
const RECALL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(1024));

/// How a call gets to the kernel.
#[derive(Debug, Clone)]
enum Way {
    /// On a thread that the gate gives it.
    Gate(Gate),
    /// At once: the caller has such a thread.
    Here,
}

impl KernelFs {
    /// The export whose root directory is `root`: the descriptor of a mount, or of a directory in one (O_PATH is enough).
    /// `gate` is the one of its server. `locks_are_shared` says whether the mount takes byte-range locks to the server.
    pub fn new(root: Held<OwnedFd>, gate: Gate, locks_are_shared: bool) -> Self {
        let mount = Arc::new(root);
        let root = KernelHandle::new(Kind::Directory, Descriptor::Root(Arc::clone(&mount)));
        Self { root, mount, way: Way::Gate(gate), locks_are_shared }
    }

    /// A directory of this machine in an export's place, on the file system that it is on: for who works on the server itself, and
    /// does nothing else, so that each call is made at once, on the caller's own thread.
    ///
    /// # Errors
    /// What open(2) says.
    pub async fn on_this_machine(path: PathBuf) -> FsResult<Self> {
        let gate = Gate::of_this_machine();
        let open = move || rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = gate.run(open).await??;
        Ok(Self { way: Way::Here, ..Self::new(gate.hold(root), gate, true) })
    }

    /// Does `work` on the descriptor of an object, behind the gate: for what only a local file system has.
    pub async fn with<T: Send + 'static>(
        &self,
        object: &KernelHandle,
        work: impl FnOnce(BorrowedFd<'_>) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        let object = object.clone();
        self.call(move || work(object.as_fd())).await
    }

    async fn call<T: Send + 'static>(&self, call: impl FnOnce() -> FsResult<T> + Send + 'static) -> FsResult<T> {
        match &self.way {
            Way::Gate(gate) => gate.run(call).await?,
            Way::Here => call(),
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

    /// All on one thread: a change of threads costs as much as an operation on a server nearby.
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
        let (object, attr) = self.call(move || calls::lookup(dir.as_fd(), &name)).await?;
        Ok((self.place(attr.kind, object), attr))
    }

    async fn parent(&self, dir: &KernelHandle) -> FsResult<(KernelHandle, Attr)> {
        let (root, dir) = (self.root(), dir.directory()?);
        let (parent, attr) = self.call(move || calls::parent(root.as_fd(), dir.as_fd())).await?;
        Ok((self.place(Kind::Directory, parent), attr))
    }

    async fn getattr(&self, object: &KernelHandle) -> FsResult<Attr> {
        let object = object.clone();
        self.call(move || calls::getattr(object.as_fd())).await
    }

    async fn setattr(&self, object: &KernelHandle, attr: SetAttr) -> FsResult<()> {
        attr.check()?;
        let object = if attr.size.is_some() { object.file(true)? } else { object.clone() };
        self.call(move || calls::setattr(object.as_fd(), object.0.kind, attr)).await
    }

    async fn mkdir(&self, dir: &KernelHandle, name: &Name, mode: u32) -> FsResult<(KernelHandle, Attr)> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let (made, attr) = self.call(move || calls::mkdir(dir.as_fd(), &name, mode)).await?;
        Ok((self.place(Kind::Directory, made), attr))
    }

    async fn create(&self, dir: &KernelHandle, name: &Name, mode: u32) -> FsResult<(KernelHandle, Attr)> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let (file, attr) = self.call(move || calls::create(dir.as_fd(), &name, mode)).await?;
        Ok((self.file(file, OpenMode::ReadWrite), attr))
    }

    async fn open_or_create(&self, dir: &KernelHandle, name: &Name, mode: u32) -> FsResult<(KernelHandle, Attr)> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        let (file, attr) = self.call(move || calls::open_or_create(dir.as_fd(), &name, mode)).await?;
        Ok((self.file(file, OpenMode::ReadWrite), attr))
    }

    async fn symlink(&self, dir: &KernelHandle, name: &Name, target: &[u8]) -> FsResult<(KernelHandle, Attr)> {
        check_symlink_target(target)?;
        let (dir, name, target) = (dir.directory()?, name.clone(), target.to_vec());
        let (made, attr) = self.call(move || objects::symlink(dir.as_fd(), &name, &target)).await?;
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
        let (made, attr) = self.call(move || objects::mknod(dir.as_fd(), &name, kind, mode, device)).await?;
        Ok((self.place(attr.kind, made), attr))
    }

    async fn link(&self, object: &KernelHandle, dir: &KernelHandle, name: &Name) -> FsResult<()> {
        let (object, dir, name) = (object.clone(), dir.directory()?, name.clone());
        self.call(move || objects::link(object.as_fd(), object.0.kind, dir.as_fd(), &name)).await
    }

    async fn readlink(&self, link: &KernelHandle) -> FsResult<Vec<u8>> {
        let link = link.clone();
        self.call(move || objects::readlink(link.as_fd(), link.0.kind)).await
    }

    async fn open(&self, dir: &KernelHandle, name: &Name, mode: OpenMode) -> FsResult<(KernelHandle, Attr)> {
        let (dir, name) = (dir.directory()?, name.clone());
        let mut pause = RECALL.0;
        loop {
            let (dir, name) = (dir.clone(), name.clone());
            match self.call(move || calls::open(dir.as_fd(), &name, mode)).await {
                // On the server itself: a client has a delegation of the file, and is asked to give it back.
                Err(Status::Other(libc::EAGAIN)) if pause <= RECALL.1 => sleep(pause).await,
                opened => return opened.map(|(file, attr)| (self.file(file, mode), attr)),
            }
            pause *= 2;
        }
    }

    async fn read(&self, file: &KernelHandle, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        let file = file.file(false)?;
        self.call(move || calls::read(file.as_fd(), offset, length)).await
    }

    async fn write(&self, file: &KernelHandle, offset: u64, data: Vec<u8>) -> FsResult<()> {
        let file = file.file(true)?;
        self.call(move || calls::write(file.as_fd(), offset, &data)).await
    }

    async fn commit(&self, file: &KernelHandle) -> FsResult<()> {
        let file = file.file(false)?;
        self.call(move || calls::commit(file.as_fd())).await
    }

    async fn seek(&self, file: &KernelHandle, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        let file = file.file(false)?;
        self.call(move || content::seek(file.as_fd(), offset, what)).await
    }

    async fn clone_file(&self, source: &KernelHandle, target: &KernelHandle) -> FsResult<u64> {
        let (source, target) = (source.file(false)?, target.file(true)?);
        self.call(move || content::clone_file(source.as_fd(), target.as_fd())).await
    }

    async fn copy(&self, source: &KernelHandle, target: &KernelHandle, offset: u64, length: u64) -> FsResult<u64> {
        let (source, target) = (source.file(false)?, target.file(true)?);
        self.call(move || content::copy(source.as_fd(), target.as_fd(), offset, length)).await
    }

    async fn list_xattrs(&self, object: &KernelHandle) -> FsResult<Vec<Vec<u8>>> {
        let object = object.clone();
        self.call(move || object.xattrs()?.list()).await
    }

    async fn get_xattr(&self, object: &KernelHandle, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        let (object, name) = (object.clone(), name.to_vec());
        self.call(move || object.xattrs()?.get(&name)).await
    }

    async fn set_xattr(&self, object: &KernelHandle, name: &[u8], value: &[u8]) -> FsResult<()> {
        let (object, name, value) = (object.clone(), name.to_vec(), value.to_vec());
        self.call(move || object.xattrs()?.set(&name, &value)).await
    }

    /// In one go, so that the call pays for one thread, and the file is closed when this answers.
    async fn read_file(&self, dir: &KernelHandle, name: &Name, limit: usize) -> FsResult<Vec<u8>> {
        let (dir, name) = (dir.directory()?, name.clone());
        self.call(move || {
            let (file, attr) = calls::open(dir.as_fd(), &name, OpenMode::Read)?;
            if attr.size > limit as u64 { Err(Status::FBig) } else { calls::read(file.as_fd(), 0, limit) }
        })
        .await
    }

    /// In one go, so that the call pays for one thread, and the file is closed when this answers.
    async fn write_file(&self, dir: &KernelHandle, name: &Name, mode: u32, content: Vec<u8>) -> FsResult<()> {
        check_new_mode(mode)?;
        let (dir, name) = (dir.directory()?, name.clone());
        self.call(move || {
            let (file, _) = calls::create(dir.as_fd(), &name, mode)?;
            calls::write(file.as_fd(), 0, &content)?;
            calls::commit(file.as_fd())
        })
        .await
    }

    async fn rename(&self, from_dir: &KernelHandle, from: &Name, to_dir: &KernelHandle, to: &Name) -> FsResult<()> {
        let (from_dir, from) = (from_dir.directory()?, from.clone());
        let (to_dir, to) = (to_dir.directory()?, to.clone());
        self.call(move || calls::rename(from_dir.as_fd(), &from, to_dir.as_fd(), &to)).await
    }

    async fn unlink(&self, dir: &KernelHandle, name: &Name) -> FsResult<()> {
        let (dir, name) = (dir.directory()?, name.clone());
        self.call(move || calls::unlink(dir.as_fd(), &name)).await
    }

    async fn rmdir(&self, dir: &KernelHandle, name: &Name) -> FsResult<()> {
        let (dir, name) = (dir.directory()?, name.clone());
        self.call(move || calls::rmdir(dir.as_fd(), &name)).await
    }

    async fn readdir(&self, dir: &KernelHandle, from: Cookie) -> FsResult<Page> {
        let dir = dir.directory()?;
        self.call(move || calls::readdir(dir.as_fd(), from)).await
    }

    async fn statfs(&self, dir: &KernelHandle) -> FsResult<FsStat> {
        let dir = dir.directory()?;
        self.call(move || calls::statfs(dir.as_fd())).await
    }

    async fn try_lock(&self, file: &KernelHandle, key: u64) -> FsResult<bool> {
        let (file, byte) = (file.file(true)?, lock_offset(key));
        self.call(move || calls::lock(file.as_fd(), byte)).await
    }

    async fn unlock(&self, file: &KernelHandle, key: u64) -> FsResult<()> {
        let (file, byte) = (file.file(true)?, lock_offset(key));
        self.call(move || calls::unlock(file.as_fd(), byte)).await
    }

    fn locks_are_shared(&self) -> bool {
        self.locks_are_shared
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
