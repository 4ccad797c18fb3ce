//! Handles of objects: filehandles, and the state of files that are open.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::export::fs::{FsResult, Kind, OpenMode, Status};
use crate::export::keyed_mutex::KeyedMutex;
use crate::nfs4::client::Client;
use crate::nfs4::compound::Compound;
use crate::nfs4::state::{FileHandle, StateId};

/// An object on an export.
#[derive(Clone)]
pub struct UserHandle(pub(super) Arc<Object>);

pub(super) struct Object {
    pub(super) at: FileHandle,
    pub(super) kind: Kind,
    open: Option<Open>,
}

/// A file that is open on the server. It is closed when the last handle is dropped.
pub(super) struct Open {
    client: Client,
    pub(super) state: StateId,
    mode: OpenMode,
    /// The number of the owner of the locks, which is of this file alone.
    pub(super) owner: u64,
    /// One request at a time for each byte: a lock that was asked for first is granted first.
    pub(super) turns: KeyedMutex<u64>,
    held: Mutex<Held>,
    /// What the server said of what it has not committed yet. Another verifier in the commit means that it is lost.
    written: Mutex<Written>,
}

/// The locks of an open file.
#[derive(Default)]
struct Held {
    state: Option<StateId>,
    bytes: BTreeSet<u64>,
}

#[derive(Default)]
struct Written {
    verifier: Option<[u8; 8]>,
    lost: bool,
}

/// How many operations of one kind a request carries; each server takes as many.
const AT_ONCE: usize = 8;

impl fmt::Debug for UserHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.0.kind, self.0.at)
    }
}

impl UserHandle {
    pub(super) fn place(at: FileHandle, kind: Kind) -> Self {
        Self(Arc::new(Object { at, kind, open: None }))
    }

    pub(super) fn file(at: FileHandle, client: Client, state: StateId, mode: OpenMode) -> Self {
        let owner = client.new_owner();
        let (turns, held, written) = Default::default();
        let open = Some(Open { client, state, mode, owner, turns, held, written });
        Self(Arc::new(Object { at, kind: Kind::File, open }))
    }

    /// The directory.
    pub(super) fn directory(&self) -> FsResult<&FileHandle> {
        if self.0.kind == Kind::Directory { Ok(&self.0.at) } else { Err(Status::NotDir) }
    }

    /// The open file. Returns an error if `writing` is needed and it is not open for writing.
    pub(super) fn opened(&self, writing: bool) -> FsResult<&Open> {
        self.0.open.as_ref().filter(|open| !writing || open.mode == OpenMode::ReadWrite).ok_or(Status::Inval)
    }
}

impl Open {
    /// Notes what a server said of data that it has not committed.
    pub(super) fn wrote(&self, verifier: [u8; 8]) {
        let mut written = lock(&self.written);
        written.lost |= written.verifier.replace(verifier).is_some_and(|earlier| earlier != verifier);
    }

    /// Whether a commit that was answered with this verifier has committed all that was written before.
    pub(super) fn committed(&self, verifier: [u8; 8]) -> FsResult<()> {
        let written = std::mem::take(&mut *lock(&self.written));
        let kept = !written.lost && written.verifier.is_none_or(|earlier| earlier == verifier);
        if kept { Ok(()) } else { Err(Status::Io) }
    }

    pub(super) fn locked(&self, state: StateId, byte: u64) {
        let mut held = lock(&self.held);
        held.state = Some(state);
        held.bytes.insert(byte);
    }

    pub(super) fn unlocked(&self, byte: u64) {
        lock(&self.held).bytes.remove(&byte);
    }

    /// The state of the locks; `None` if there never was one.
    pub(super) fn locks(&self) -> Option<StateId> {
        lock(&self.held).state
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        let held = std::mem::take(&mut *lock(&open.held));
        // Some servers do not close a file with locks.
        let bytes: Vec<u64> = held.bytes.into_iter().collect();
        let unlocks = bytes.chunks(AT_ONCE).filter_map(|bytes| {
            let state = held.state?;
            Some(bytes.iter().fold(Compound::default().put(&self.at), |all, byte| all.unlock(state, *byte)))
        });
        let close = Compound::default().put(&self.at).close(open.state);
        open.client.later(unlocks.chain([close]).collect());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
