//! A controller's connection: its operations one at a time, and the faults that a test plans for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::locked;
use super::race::next;
use crate::export::fs::{
    Attr, Cookie, Fs, FsResult, FsStat, Kind, LockMode, Name, OpenMode, Page, Seek, SetAttr, Status, check_new_mode,
    check_special, check_symlink_target, lock_offset,
};
use crate::testing::memory::handle::MemoryHandle;
use crate::testing::memory::state::{ROOT, State};

/// A controller's connection to a [`MemoryServer`](super::MemoryServer). A clone is the same controller.
#[derive(Clone)]
pub struct MemoryFs {
    client: Arc<Client>,
}

struct Client {
    id: u64,
    server: Arc<Mutex<State>>,
    plan: Mutex<Plan>,
}

/// The faults planned for this client's operations.
#[derive(Default)]
struct Plan {
    operations: u64,
    history: Vec<String>,
    faults: HashMap<u64, Fault>,
    dead: bool,
    interleave: bool,
    /// Decides how often other tasks run before an operation.
    pace: Option<u64>,
    delay: Duration,
}

#[derive(Clone, Copy)]
enum Fault {
    Fail(Status),
    LoseAnswer,
    Crash(Crash),
}

/// When a controller dies, relative to the operation in which it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Before the server receives the operation.
    BeforeEffect,
    /// After the server has carried it out and before the controller gets the answer.
    AfterEffect,
}

impl MemoryFs {
    pub(super) fn new(server: Arc<Mutex<State>>) -> Self {
        let id = locked(&server).number();
        Self { client: Arc::new(Client { id, server, plan: Mutex::default() }) }
    }

    /// The number of operations so far, including failed ones. The next operation has this number.
    pub fn operations(&self) -> u64 {
        locked(&self.client.plan).operations
    }

    /// The operations so far as text, such as `mkdir a`. The index is the number of the operation.
    pub fn history(&self) -> Vec<String> {
        locked(&self.client.plan).history.clone()
    }

    /// Lets operation `n` (the first is 0) fail with `status` and without an effect.
    pub fn fail_at(&self, n: u64, status: Status) {
        self.plan_fault(n, Fault::Fail(status));
    }

    /// Loses the answer of operation `n`: the operation has its effect and returns [`Status::TimedOut`]. The controller
    /// continues.
    pub fn lose_answer_at(&self, n: u64) {
        self.plan_fault(n, Fault::LoseAnswer);
    }

    /// Lets the controller die in operation `n`. That operation and all later operations return [`Status::TimedOut`].
    /// The later operations have no effect. The controller's locks are released.
    pub fn crash_at(&self, n: u64, when: Crash) {
        self.plan_fault(n, Fault::Crash(when));
    }

    /// Cancels all planned faults.
    pub fn forget_faults(&self) {
        locked(&self.client.plan).faults.clear();
    }

    /// Lets the controller die now.
    pub fn crash(&self) {
        locked(&self.client.plan).dead = true;
        locked(&self.client.server).locks.retain(|(_, _, holder), _| holder.client != self.client.id);
    }

    /// Sets the limit of a directory, which statfs then reports as its size. It is not enforced.
    pub fn show_limit(&self, fileid: u64, bytes: Option<u64>) {
        let limits = &mut locked(&self.client.server).limits;
        match bytes {
            Some(bytes) => drop(limits.insert(fileid, bytes)),
            None => drop(limits.remove(&fileid)),
        }
    }

    /// Sets whether every operation first yields once to other tasks, for [`race`](super::race()).
    pub fn interleave(&self, on: bool) {
        locked(&self.client.plan).interleave = on;
    }

    /// Like [`Self::interleave`], but `seed` decides how many times each operation yields. An executor would otherwise
    /// run the tasks in turn.
    pub fn interleave_by(&self, seed: u64) {
        let mut plan = locked(&self.client.plan);
        (plan.interleave, plan.pace) = (true, Some(seed));
    }

    /// Sets how long every operation takes on tokio's clock. The clock may be paused.
    pub fn delay(&self, each: Duration) {
        locked(&self.client.plan).delay = each;
    }

    fn plan_fault(&self, n: u64, fault: Fault) {
        locked(&self.client.plan).faults.insert(n, fault);
    }

    async fn operate<T>(&self, words: String, effect: impl FnOnce(&mut State) -> FsResult<T>) -> FsResult<T> {
        let (yields, delay) = {
            let mut plan = locked(&self.client.plan);
            let more = plan.pace.as_mut().map_or(0, |state| next(state) % 4);
            (if plan.interleave { 1 + more } else { 0 }, plan.delay)
        };
        for _ in 0..yields {
            yield_once().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let fault = {
            let mut plan = locked(&self.client.plan);
            if plan.dead {
                return Err(Status::TimedOut);
            }
            let number = plan.operations;
            plan.operations += 1;
            plan.history.push(words);
            plan.faults.remove(&number)
        };
        let effect = || effect(&mut locked(&self.client.server));
        match fault {
            None => return effect(),
            Some(Fault::Fail(status)) => return Err(status),
            Some(Fault::LoseAnswer) => drop(effect()),
            Some(Fault::Crash(Crash::BeforeEffect)) => self.crash(),
            Some(Fault::Crash(Crash::AfterEffect)) => {
                drop(effect());
                self.crash();
            }
        }
        Err(Status::TimedOut)
    }

    /// An operation that returns an object which is not open.
    async fn make(
        &self,
        words: String,
        effect: impl FnOnce(&mut State) -> FsResult<u64>,
    ) -> FsResult<(MemoryHandle, Attr)> {
        let effect = |state: &mut State| effect(state).and_then(|fileid| Ok((fileid, state.getattr(fileid)?)));
        let (fileid, attr) = self.operate(words, effect).await?;
        Ok((MemoryHandle::unopened(fileid), attr))
    }

    /// The object of this `fileid`, which may be gone.
    pub fn object(&self, fileid: u64) -> MemoryHandle {
        MemoryHandle::unopened(fileid)
    }

    /// Opens the file of this `fileid`, whoever may open it.
    pub fn opened(&self, fileid: u64, mode: OpenMode) -> MemoryHandle {
        MemoryHandle::opened(fileid, mode, self.client.id, &self.client.server)
    }
}

impl Fs for MemoryFs {
    type Handle = MemoryHandle;

    fn root(&self) -> MemoryHandle {
        MemoryHandle::unopened(ROOT)
    }

    async fn lookup(&self, dir: &MemoryHandle, name: &Name) -> FsResult<(MemoryHandle, Attr)> {
        let (fileid, attr) = self.operate(format!("lookup {name}"), |state| state.lookup(dir.fileid, name)).await?;
        Ok((MemoryHandle::unopened(fileid), attr))
    }

    async fn getattr(&self, object: &MemoryHandle) -> FsResult<Attr> {
        self.operate(format!("getattr {object:?}"), |state| state.getattr(object.fileid)).await
    }

    async fn setattr(&self, object: &MemoryHandle, attr: SetAttr) -> FsResult<()> {
        attr.check()?;
        let SetAttr { size, mode, uid, gid, atime, mtime } = attr;
        let steps = [
            SetAttr { size, ..SetAttr::default() },
            SetAttr { uid, gid, ..SetAttr::default() },
            SetAttr { mode, ..SetAttr::default() },
            SetAttr { atime, mtime, ..SetAttr::default() },
        ];
        for step in steps.into_iter().filter(|step| *step != SetAttr::default()) {
            self.operate(format!("setattr {object:?}"), |state| {
                step.size.map_or(Ok(()), |_| object.holder(state, true).map(drop))?;
                state.setattr(object.fileid, step)
            })
            .await?;
        }
        Ok(())
    }

    async fn mkdir(&self, dir: &MemoryHandle, name: &Name, mode: u32) -> FsResult<(MemoryHandle, Attr)> {
        check_new_mode(mode)?;
        self.make(format!("mkdir {name}"), |state| state.mkdir(dir.fileid, name, mode)).await
    }

    async fn create(&self, dir: &MemoryHandle, name: &Name, mode: u32) -> FsResult<(MemoryHandle, Attr)> {
        check_new_mode(mode)?;
        let (made, attr) = self.make(format!("create {name}"), |state| state.create(dir.fileid, name, mode)).await?;
        Ok((self.opened(made.fileid, OpenMode::ReadWrite), attr))
    }

    async fn open_or_create(&self, dir: &MemoryHandle, name: &Name, mode: u32) -> FsResult<(MemoryHandle, Attr)> {
        check_new_mode(mode)?;
        let open = |state: &mut State| state.open_or_create(dir.fileid, name, mode);
        let (made, attr) = self.make(format!("open_or_create {name}"), open).await?;
        Ok((self.opened(made.fileid, OpenMode::ReadWrite), attr))
    }

    async fn symlink(&self, dir: &MemoryHandle, name: &Name, target: &[u8]) -> FsResult<(MemoryHandle, Attr)> {
        check_symlink_target(target)?;
        self.make(format!("symlink {name}"), |state| state.symlink(dir.fileid, name, target)).await
    }

    async fn mknod(
        &self,
        dir: &MemoryHandle,
        name: &Name,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> FsResult<(MemoryHandle, Attr)> {
        check_special(kind)?;
        check_new_mode(mode)?;
        self.make(format!("mknod {name}"), |state| state.mknod(dir.fileid, name, kind, mode, device)).await
    }

    async fn link(&self, object: &MemoryHandle, dir: &MemoryHandle, name: &Name) -> FsResult<()> {
        self.operate(format!("link {name}"), |state| state.link(object.fileid, dir.fileid, name)).await
    }

    async fn readlink(&self, link: &MemoryHandle) -> FsResult<Vec<u8>> {
        self.operate(format!("readlink {link:?}"), |state| state.readlink(link.fileid)).await
    }

    async fn parent(&self, dir: &MemoryHandle) -> FsResult<(MemoryHandle, Attr)> {
        self.make(format!("parent {dir:?}"), |state| Ok(state.directory(dir.fileid)?.parent)).await
    }

    async fn open(&self, dir: &MemoryHandle, name: &Name, mode: OpenMode) -> FsResult<(MemoryHandle, Attr)> {
        let (fileid, attr) = self.operate(format!("open {name}"), |state| state.open(dir.fileid, name, mode)).await?;
        Ok((self.opened(fileid, mode), attr))
    }

    async fn read(&self, file: &MemoryHandle, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        self.operate(format!("read {file:?}"), |state| {
            file.holder(state, false)?;
            state.read(file.fileid, offset, length)
        })
        .await
    }

    async fn write(&self, file: &MemoryHandle, offset: u64, data: Vec<u8>) -> FsResult<()> {
        self.operate(format!("write {file:?}"), |state| {
            file.holder(state, true)?;
            state.write(file.fileid, offset, &data)
        })
        .await
    }

    async fn commit(&self, file: &MemoryHandle) -> FsResult<()> {
        self.operate(format!("commit {file:?}"), |state| {
            file.holder(state, false)?;
            state.commit(file.fileid)
        })
        .await
    }

    async fn seek(&self, file: &MemoryHandle, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        self.operate(format!("seek {file:?}"), |state| {
            file.holder(state, false)?;
            state.seek(file.fileid, offset, what)
        })
        .await
    }

    async fn clone_file(&self, source: &MemoryHandle, target: &MemoryHandle) -> FsResult<u64> {
        self.operate(format!("clone {source:?} to {target:?}"), |state| {
            source.holder(state, false)?;
            target.holder(state, true)?;
            state.clone_file(source.fileid, target.fileid)
        })
        .await
    }

    async fn copy(&self, source: &MemoryHandle, target: &MemoryHandle, offset: u64, length: u64) -> FsResult<u64> {
        self.operate(format!("copy {source:?} to {target:?}"), |state| {
            source.holder(state, false)?;
            target.holder(state, true)?;
            state.copy(source.fileid, target.fileid, offset, length)
        })
        .await
    }

    async fn list_xattrs(&self, object: &MemoryHandle) -> FsResult<Vec<Vec<u8>>> {
        self.operate(format!("list_xattrs {object:?}"), |state| state.list_xattrs(object.fileid)).await
    }

    async fn get_xattr(&self, object: &MemoryHandle, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        self.operate(format!("get_xattr {object:?}"), |state| state.get_xattr(object.fileid, name)).await
    }

    async fn set_xattr(&self, object: &MemoryHandle, name: &[u8], value: &[u8]) -> FsResult<()> {
        self.operate(format!("set_xattr {object:?}"), |state| state.set_xattr(object.fileid, name, value)).await
    }

    async fn rename(&self, from_dir: &MemoryHandle, from: &Name, to_dir: &MemoryHandle, to: &Name) -> FsResult<()> {
        let rename = |state: &mut State| state.rename(from_dir.fileid, from, to_dir.fileid, to);
        self.operate(format!("rename {from} to {to}"), rename).await
    }

    async fn unlink(&self, dir: &MemoryHandle, name: &Name) -> FsResult<()> {
        self.operate(format!("unlink {name}"), |state| state.unlink(dir.fileid, name)).await
    }

    async fn rmdir(&self, dir: &MemoryHandle, name: &Name) -> FsResult<()> {
        self.operate(format!("rmdir {name}"), |state| state.rmdir(dir.fileid, name)).await
    }

    async fn readdir(&self, dir: &MemoryHandle, from: Cookie) -> FsResult<Page> {
        self.operate(format!("readdir {dir:?} from {from}"), |state| state.readdir(dir.fileid, from)).await
    }

    async fn read_file_if_lacking(
        &self,
        (dir, name, limit): (&MemoryHandle, &Name, usize),
        (lacking, names): (&MemoryHandle, &[Name]),
    ) -> FsResult<Option<FsResult<Vec<u8>>>> {
        let Page { entries, next } = self.readdir(lacking, 0).await?;
        let is_one = |entry: &Name| names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(entry.as_bytes()));
        if next.is_some() || entries.iter().any(|entry| is_one(&entry.name)) {
            return Ok(None);
        }
        Ok(Some(self.read_file(dir, name, limit).await))
    }

    async fn statfs(&self, dir: &MemoryHandle) -> FsResult<FsStat> {
        self.operate(format!("statfs {dir:?}"), |state| state.statfs(dir.fileid)).await
    }

    async fn try_lock(&self, file: &MemoryHandle, key: u64, mode: LockMode) -> FsResult<bool> {
        self.operate(format!("try_lock {file:?} at {key}, {mode:?}"), |state| {
            let holder = file.holder(state, true)?;
            state.try_lock(file.fileid, lock_offset(key), holder, mode)
        })
        .await
    }

    async fn unlock(&self, file: &MemoryHandle, key: u64) -> FsResult<()> {
        self.operate(format!("unlock {file:?} at {key}"), |state| {
            let holder = file.holder(state, true)?;
            state.unlock(file.fileid, lock_offset(key), holder)
        })
        .await
    }

    fn locks_are_shared(&self) -> bool {
        true
    }
}

/// Yields to the executor once.
pub(super) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
