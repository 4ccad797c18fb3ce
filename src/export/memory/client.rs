//! A controller's side: the operations one at a time, and what goes wrong with them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::locked;
use super::state::{Holder, ROOT, State};
use crate::export::fs::{
    Attr, Cookie, Fs, FsResult, FsStat, Name, OpenMode, Page, SetAttr, Status, check_new_mode, lock_offset,
};

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

/// What happens to this client's operations.
#[derive(Default)]
struct Plan {
    operations: u64,
    history: Vec<String>,
    faults: HashMap<u64, Fault>,
    dead: bool,
    interleave: bool,
    delay: Duration,
}

#[derive(Clone, Copy)]
enum Fault {
    Fail(Status),
    LoseAnswer,
    Crash(Crash),
}

/// When a controller dies, seen from the operation it dies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The server never hears of the operation.
    BeforeEffect,
    /// The server has done it; nobody hears the answer.
    AfterEffect,
}

/// An object on a [`MemoryServer`](super::MemoryServer), open or not; an open file closes with the last clone.
#[derive(Clone)]
pub struct MemoryHandle {
    fileid: u64,
    open: Option<Arc<Open>>,
}

struct Open {
    holder: Holder,
    mode: OpenMode,
    boot: u64,
    server: Arc<Mutex<State>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        locked(&self.server).locks.retain(|_, holder| *holder != self.holder);
    }
}

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.fileid)?;
        if self.open.is_some() { f.write_str(" (open)") } else { Ok(()) }
    }
}

impl MemoryFs {
    pub(super) fn new(server: Arc<Mutex<State>>) -> Self {
        let id = locked(&server).number();
        Self { client: Arc::new(Client { id, server, plan: Mutex::default() }) }
    }

    /// How many operations were tried, the failed ones included; the next one has this number.
    pub fn operations(&self) -> u64 {
        locked(&self.client.plan).operations
    }

    /// The operations so far in words, such as `mkdir a`: its index is the operation's number.
    pub fn history(&self) -> Vec<String> {
        locked(&self.client.plan).history.clone()
    }

    /// Operation `n` (the first is 0) answers `status` and has no effect.
    pub fn fail_at(&self, n: u64, status: Status) {
        self.plan_fault(n, Fault::Fail(status));
    }

    /// Operation `n` has its effect, but its answer is lost: [`Status::TimedOut`]. The controller lives on.
    pub fn lose_answer_at(&self, n: u64) {
        self.plan_fault(n, Fault::LoseAnswer);
    }

    /// The controller dies in operation `n`: that one and all later ones answer [`Status::TimedOut`], the later ones
    /// without effect, and its locks end.
    pub fn crash_at(&self, n: u64, when: Crash) {
        self.plan_fault(n, Fault::Crash(when));
    }

    /// The controller dies now.
    pub fn crash(&self) {
        locked(&self.client.plan).dead = true;
        locked(&self.client.server).locks.retain(|_, holder| holder.client != self.client.id);
    }

    /// Whether every operation lets others run first, once: with [`race`](super::race()), or on any executor.
    pub fn interleave(&self, on: bool) {
        locked(&self.client.plan).interleave = on;
    }

    /// How long every operation takes, on tokio's clock (which may be paused).
    pub fn delay(&self, each: Duration) {
        locked(&self.client.plan).delay = each;
    }

    fn plan_fault(&self, n: u64, fault: Fault) {
        locked(&self.client.plan).faults.insert(n, fault);
    }

    async fn operate<T>(&self, words: String, effect: impl FnOnce(&mut State) -> FsResult<T>) -> FsResult<T> {
        let (interleave, delay) = {
            let plan = locked(&self.client.plan);
            (plan.interleave, plan.delay)
        };
        if interleave {
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

    fn opened(&self, fileid: u64, mode: OpenMode) -> MemoryHandle {
        let server = Arc::clone(&self.client.server);
        let (boot, open) = {
            let mut state = locked(&server);
            (state.boot, state.number())
        };
        let holder = Holder { client: self.client.id, open };
        MemoryHandle { fileid, open: Some(Arc::new(Open { holder, mode, boot, server })) }
    }
}

impl MemoryHandle {
    fn unopened(fileid: u64) -> Self {
        Self { fileid, open: None }
    }

    /// Who has the file open: an error where it is not open, not for writing where that is needed, or no longer.
    fn holder(&self, state: &State, writing: bool) -> FsResult<Holder> {
        let Some(open) = &self.open else {
            return Err(Status::Inval);
        };
        if open.boot != state.boot || !state.inodes.contains_key(&self.fileid) {
            return Err(Status::Stale);
        }
        if writing && open.mode == OpenMode::Read { Err(Status::Inval) } else { Ok(open.holder) }
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
        let SetAttr { mode, uid, gid, atime, mtime } = attr;
        let steps = [
            SetAttr { uid, gid, ..SetAttr::default() },
            SetAttr { mode, ..SetAttr::default() },
            SetAttr { atime, mtime, ..SetAttr::default() },
        ];
        for step in steps.into_iter().filter(|step| *step != SetAttr::default()) {
            self.operate(format!("setattr {object:?}"), |state| state.setattr(object.fileid, step)).await?;
        }
        Ok(())
    }

    async fn mkdir(&self, dir: &MemoryHandle, name: &Name, mode: u32) -> FsResult<MemoryHandle> {
        check_new_mode(mode)?;
        let made = self.operate(format!("mkdir {name}"), |state| state.mkdir(dir.fileid, name, mode)).await?;
        Ok(MemoryHandle::unopened(made))
    }

    async fn create(&self, dir: &MemoryHandle, name: &Name, mode: u32) -> FsResult<MemoryHandle> {
        check_new_mode(mode)?;
        let made = self.operate(format!("create {name}"), |state| state.create(dir.fileid, name, mode)).await?;
        Ok(self.opened(made, OpenMode::ReadWrite))
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

    async fn statfs(&self, dir: &MemoryHandle) -> FsResult<FsStat> {
        self.operate(format!("statfs {dir:?}"), |state| state.statfs(dir.fileid)).await
    }

    async fn try_lock(&self, file: &MemoryHandle, key: u64) -> FsResult<bool> {
        self.operate(format!("try_lock {file:?} at {key}"), |state| {
            let holder = file.holder(state, true)?;
            state.try_lock(file.fileid, lock_offset(key), holder)
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

/// Lets whoever else the executor has run first, once.
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
