//! Handles of objects.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::locked;
use crate::export::fs::{FsResult, OpenMode, Status};
use crate::testing::memory::state::{Holder, State};

/// A handle of an object on a [`MemoryServer`](super::MemoryServer), open or not. Dropping the last clone of a handle
/// closes its file.
#[derive(Clone)]
pub struct MemoryHandle {
    pub(super) fileid: u64,
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
        locked(&self.server).locks.retain(|(_, _, holder), _| *holder != self.holder);
    }
}

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.fileid)?;
        if self.open.is_some() { f.write_str(" (open)") } else { Ok(()) }
    }
}

impl MemoryHandle {
    pub(super) fn unopened(fileid: u64) -> Self {
        Self { fileid, open: None }
    }

    pub(super) fn opened(fileid: u64, mode: OpenMode, client: u64, server: &Arc<Mutex<State>>) -> Self {
        let (boot, open) = {
            let mut state = locked(server);
            (state.boot, state.number())
        };
        let holder = Holder { client, open };
        Self { fileid, open: Some(Arc::new(Open { holder, mode, boot, server: Arc::clone(server) })) }
    }

    /// The open that holds the file. Fails if the file is not open, or is not open for writing if that is needed, or
    /// has been closed by the server.
    pub(super) fn holder(&self, state: &State, writing: bool) -> FsResult<Holder> {
        let Some(open) = &self.open else {
            return Err(Status::Inval);
        };
        if open.boot != state.boot || !state.inodes.contains_key(&self.fileid) {
            return Err(Status::Stale);
        }
        if writing && open.mode == OpenMode::Read { Err(Status::Inval) } else { Ok(open.holder) }
    }
}
