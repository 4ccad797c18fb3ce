//! The client that reaches an export: the kernel's, by a mount, or the driver's own.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::features::Features;
use crate::export::fs::{
    Attr, Cookie, Fs, FsResult, FsStat, Kind, LockMode, Name, OpenMode, Page, Seek, SetAttr, Status, Step,
};
use crate::export::kernel::{KernelFs, KernelHandle};
use crate::export::pool::Connect;
use crate::export::user::{UserFs, UserHandle, UserSpace};
use crate::mount::mounter::Mounter;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;

/// Which client is used (`--client`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The kernel's, for every export.
    #[default]
    Kernel,
    /// The driver's own, for every export.
    Own,
    /// The driver's own where the server and the options allow it, and otherwise the kernel's.
    Auto,
}

impl Choice {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Own, Self::Auto];

    /// The value of `--client`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Own => "own",
            Self::Auto => "auto",
        }
    }
}

/// Reaches exports by the client that was chosen.
#[derive(Debug, Clone)]
pub struct Clients {
    choice: Choice,
    mounter: Arc<Mounter>,
    own: UserSpace,
}

impl Clients {
    /// By `mounter`, by `own`, or by either.
    pub fn new(choice: Choice, mounter: Arc<Mounter>, own: UserSpace) -> Self {
        Self { choice, mounter, own }
    }

    async fn by_kernel(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Result<ExportFs> {
        self.mounter.connect(share, options, address).await.map(ExportFs::Kernel)
    }
}

impl Connect for Clients {
    type Fs = ExportFs;

    async fn check(&self, share: &Source, options: &MountOptions) -> Result<IpAddr> {
        Connect::check(&self.mounter, share, options).await
    }

    async fn connect(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Result<ExportFs> {
        if self.choice == Choice::Kernel {
            return self.by_kernel(share, options, address).await;
        }
        match self.own.connect(share, options, address).await {
            Err(error) if self.choice == Choice::Auto && !matches!(error, Error::Unreachable { .. }) => {
                tracing::info!(export = %share, reason = %error, "the kernel's client is used for this export");
                self.by_kernel(share, options, address).await
            }
            connected => connected.map(ExportFs::User),
        }
    }
}

/// An export, reached by either client. A clone refers to the same export.
#[derive(Debug, Clone)]
pub enum ExportFs {
    /// By a mount.
    Kernel(KernelFs),
    /// By the driver's own client.
    User(UserFs),
}

/// An object on it.
#[derive(Debug, Clone)]
pub enum ExportHandle {
    /// By a mount.
    Kernel(KernelHandle),
    /// By the driver's own client.
    User(UserHandle),
}

impl From<KernelHandle> for ExportHandle {
    fn from(handle: KernelHandle) -> Self {
        Self::Kernel(handle)
    }
}

impl From<UserHandle> for ExportHandle {
    fn from(handle: UserHandle) -> Self {
        Self::User(handle)
    }
}

impl ExportHandle {
    fn kernel(&self) -> Option<KernelHandle> {
        if let Self::Kernel(handle) = self { Some(handle.clone()) } else { None }
    }

    fn user(&self) -> Option<UserHandle> {
        if let Self::User(handle) = self { Some(handle.clone()) } else { None }
    }
}

/// A future whose code is in the program once, and not at each place that waits for it.
fn once<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

/// Carries out steps by the client whose handles `handle` gives.
async fn in_order_of<F: Fs>(
    fs: &F,
    steps: &[Step<ExportHandle>],
    handle: impl Fn(&ExportHandle) -> Option<F::Handle>,
) -> (usize, FsResult<()>) {
    let of_client: Option<Vec<_>> = steps.iter().map(|step| step.on(&handle)).collect();
    match of_client {
        Some(steps) => fs.in_order(&steps).await,
        None => (0, Err(Status::Stale)),
    }
}

/// Calls an operation of the client that the export and the handles are of. A handle of the other client is one of
/// another connection.
macro_rules! by {
    ($fs:expr, $($handle:ident),+ => $client:ident.$method:ident($($argument:expr),*) $(.$map:ident($either:ident))?) => {
        match ($fs, $($handle),+) {
            (ExportFs::Kernel($client), $(ExportHandle::Kernel($handle)),+) => {
                once($client.$method($($argument),*)).await$(.$map($either))?
            }
            (ExportFs::User($client), $(ExportHandle::User($handle)),+) => {
                once($client.$method($($argument),*)).await$(.$map($either))?
            }
            _ => Err(Status::Stale),
        }
    };
}

/// What was found or made, by either client.
fn either<H: Into<ExportHandle>>((handle, attr): (H, Attr)) -> (ExportHandle, Attr) {
    (handle.into(), attr)
}

impl Fs for ExportFs {
    type Handle = ExportHandle;

    async fn in_one_go<T, W>(&self, work: impl FnOnce(Self) -> W + Send + 'static) -> FsResult<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        match self {
            Self::Kernel(fs) => fs.in_one_go(|fs| work(Self::Kernel(fs))).await,
            Self::User(fs) => fs.in_one_go(|fs| work(Self::User(fs))).await,
        }
    }

    fn root(&self) -> ExportHandle {
        match self {
            Self::Kernel(fs) => fs.root().into(),
            Self::User(fs) => fs.root().into(),
        }
    }

    async fn lookup(&self, dir: &ExportHandle, name: &Name) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.lookup(dir, name).map(either))
    }

    async fn parent(&self, dir: &ExportHandle) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.parent(dir).map(either))
    }

    async fn getattr(&self, object: &ExportHandle) -> FsResult<Attr> {
        by!(self, object => fs.getattr(object))
    }

    async fn setattr(&self, object: &ExportHandle, attr: SetAttr) -> FsResult<()> {
        by!(self, object => fs.setattr(object, attr))
    }

    async fn mkdir(&self, dir: &ExportHandle, name: &Name, mode: u32) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.mkdir(dir, name, mode).map(either))
    }

    async fn create(&self, dir: &ExportHandle, name: &Name, mode: u32) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.create(dir, name, mode).map(either))
    }

    async fn open_or_create(&self, dir: &ExportHandle, name: &Name, mode: u32) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.open_or_create(dir, name, mode).map(either))
    }

    async fn symlink(&self, dir: &ExportHandle, name: &Name, target: &[u8]) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.symlink(dir, name, target).map(either))
    }

    async fn mknod(
        &self,
        dir: &ExportHandle,
        name: &Name,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.mknod(dir, name, kind, mode, device).map(either))
    }

    async fn link(&self, object: &ExportHandle, dir: &ExportHandle, name: &Name) -> FsResult<()> {
        by!(self, object, dir => fs.link(object, dir, name))
    }

    async fn readlink(&self, link: &ExportHandle) -> FsResult<Vec<u8>> {
        by!(self, link => fs.readlink(link))
    }

    async fn open(&self, dir: &ExportHandle, name: &Name, mode: OpenMode) -> FsResult<(ExportHandle, Attr)> {
        by!(self, dir => fs.open(dir, name, mode).map(either))
    }

    async fn read(&self, file: &ExportHandle, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        by!(self, file => fs.read(file, offset, length))
    }

    async fn write(&self, file: &ExportHandle, offset: u64, data: Vec<u8>) -> FsResult<()> {
        by!(self, file => fs.write(file, offset, data))
    }

    async fn commit(&self, file: &ExportHandle) -> FsResult<()> {
        by!(self, file => fs.commit(file))
    }

    async fn seek(&self, file: &ExportHandle, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        by!(self, file => fs.seek(file, offset, what))
    }

    async fn clone_file(&self, source: &ExportHandle, target: &ExportHandle) -> FsResult<u64> {
        by!(self, source, target => fs.clone_file(source, target))
    }

    async fn copy(&self, source: &ExportHandle, target: &ExportHandle, offset: u64, length: u64) -> FsResult<u64> {
        by!(self, source, target => fs.copy(source, target, offset, length))
    }

    async fn clone_entries(
        &self,
        from: &ExportHandle,
        to: &ExportHandle,
        names: &[Name],
    ) -> Vec<FsResult<Option<Attr>>> {
        match (self, from, to) {
            (Self::User(fs), ExportHandle::User(from), ExportHandle::User(to)) => {
                once(fs.clone_entries(from, to, names)).await
            }
            _ => Vec::new(),
        }
    }

    async fn list_xattrs(&self, object: &ExportHandle) -> FsResult<Vec<Vec<u8>>> {
        by!(self, object => fs.list_xattrs(object))
    }

    async fn get_xattr(&self, object: &ExportHandle, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        by!(self, object => fs.get_xattr(object, name))
    }

    async fn set_xattr(&self, object: &ExportHandle, name: &[u8], value: &[u8]) -> FsResult<()> {
        by!(self, object => fs.set_xattr(object, name, value))
    }

    async fn read_file(&self, dir: &ExportHandle, name: &Name, limit: usize) -> FsResult<Vec<u8>> {
        by!(self, dir => fs.read_file(dir, name, limit))
    }

    async fn read_file_if_lacking(
        &self,
        (dir, name, limit): (&ExportHandle, &Name, usize),
        (lacking, names): (&ExportHandle, &[Name]),
    ) -> FsResult<Option<FsResult<Vec<u8>>>> {
        by!(self, dir, lacking => fs.read_file_if_lacking((dir, name, limit), (lacking, names)))
    }

    async fn write_file(&self, dir: &ExportHandle, name: &Name, mode: u32, content: Vec<u8>) -> FsResult<()> {
        by!(self, dir => fs.write_file(dir, name, mode, content))
    }

    async fn in_order(&self, steps: &[Step<ExportHandle>]) -> (usize, FsResult<()>) {
        match self {
            Self::Kernel(fs) => once(in_order_of(fs, steps, ExportHandle::kernel)).await,
            Self::User(fs) => once(in_order_of(fs, steps, ExportHandle::user)).await,
        }
    }

    async fn rename(&self, from_dir: &ExportHandle, from: &Name, to_dir: &ExportHandle, to: &Name) -> FsResult<()> {
        by!(self, from_dir, to_dir => fs.rename(from_dir, from, to_dir, to))
    }

    async fn unlink(&self, dir: &ExportHandle, name: &Name) -> FsResult<()> {
        by!(self, dir => fs.unlink(dir, name))
    }

    async fn rmdir(&self, dir: &ExportHandle, name: &Name) -> FsResult<()> {
        by!(self, dir => fs.rmdir(dir, name))
    }

    async fn remove(&self, dir: &ExportHandle, names: &[Name]) -> (usize, FsResult<()>) {
        match (self, dir) {
            (Self::Kernel(fs), ExportHandle::Kernel(dir)) => once(fs.remove(dir, names)).await,
            (Self::User(fs), ExportHandle::User(dir)) => once(fs.remove(dir, names)).await,
            _ => (0, Err(Status::Stale)),
        }
    }

    async fn readdir(&self, dir: &ExportHandle, from: Cookie) -> FsResult<Page> {
        by!(self, dir => fs.readdir(dir, from))
    }

    async fn statfs(&self, dir: &ExportHandle) -> FsResult<FsStat> {
        by!(self, dir => fs.statfs(dir))
    }

    async fn try_lock(&self, file: &ExportHandle, key: u64, mode: LockMode) -> FsResult<bool> {
        by!(self, file => fs.try_lock(file, key, mode))
    }

    async fn unlock(&self, file: &ExportHandle, key: u64) -> FsResult<()> {
        by!(self, file => fs.unlock(file, key))
    }

    fn locks_are_shared(&self) -> bool {
        match self {
            Self::Kernel(fs) => fs.locks_are_shared(),
            Self::User(fs) => fs.locks_are_shared(),
        }
    }

    fn version(&self) -> Option<&str> {
        match self {
            Self::Kernel(fs) => fs.version(),
            Self::User(fs) => fs.version(),
        }
    }

    fn features(&self) -> Features {
        match self {
            Self::Kernel(fs) => fs.features(),
            Self::User(fs) => fs.features(),
        }
    }

    fn connection(&self) -> Option<String> {
        match self {
            Self::Kernel(fs) => fs.connection(),
            Self::User(fs) => fs.connection(),
        }
    }

    fn client(&self) -> &'static str {
        match self {
            Self::Kernel(fs) => fs.client(),
            Self::User(fs) => fs.client(),
        }
    }
}
