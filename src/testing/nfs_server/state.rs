//! What a client has open and locked. Each open file is an open of the export in memory, and so is each owner of locks:
//! its drop ends the locks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Done, Refused};
use crate::nfs4::codes::Code;
use crate::nfs4::xdr::{Read, Reader, Writer};
use crate::testing::memory::MemoryHandle;

const LOCKS_HELD: Code = Code(10_037);

/// What a client has open and locked, by the numbers in state IDs.
#[derive(Default)]
pub(super) struct Held {
    opens: BTreeMap<u64, MemoryHandle>,
    locks: BTreeMap<u64, Locks>,
}

/// The locks of an owner on an open file.
struct Locks {
    open: u64,
    owner: Vec<u8>,
    file: MemoryHandle,
    bytes: BTreeSet<u64>,
}

impl Held {
    /// A file that was opened.
    pub(super) fn open(&mut self, number: u64, file: MemoryHandle) {
        self.opens.insert(number, file);
    }

    /// The number of open files.
    pub(super) fn opens(&self) -> usize {
        self.opens.len()
    }

    /// An open file.
    pub(super) fn opened(&self, number: u64) -> Done<MemoryHandle> {
        self.opens.get(&number).cloned().ok_or(Refused(Code::BAD_STATEID))
    }

    /// Closes a file. Like some servers, this one does not do so while there are locks.
    pub(super) fn close(&mut self, number: u64) -> Done<()> {
        if self.locks.values().any(|locks| locks.open == number && !locks.bytes.is_empty()) {
            return Err(Refused(LOCKS_HELD));
        }
        self.locks.retain(|_, locks| locks.open != number);
        self.opens.remove(&number).map(drop).ok_or(Refused(Code::BAD_STATEID))
    }

    /// The state of an owner's locks on an open file. If there is none, it gets this number and this file.
    pub(super) fn owner(&mut self, open: u64, owner: &[u8], number: u64, file: MemoryHandle) -> Done<u64> {
        self.opened(open)?;
        let known = self.locks.iter().find(|(_, locks)| (locks.open, &*locks.owner) == (open, owner));
        if let Some((number, _)) = known {
            return Ok(*number);
        }
        self.locks.insert(number, Locks { open, owner: owner.to_vec(), file, bytes: BTreeSet::new() });
        Ok(number)
    }

    /// The file of an owner of locks.
    pub(super) fn locks(&self, number: u64) -> Done<MemoryHandle> {
        self.locks.get(&number).map(|locks| locks.file.clone()).ok_or(Refused(Code::BAD_STATEID))
    }

    /// A byte was locked.
    pub(super) fn locked(&mut self, number: u64, byte: u64) {
        self.locks.entry(number).and_modify(|locks| _ = locks.bytes.insert(byte));
    }

    /// A byte is not locked any more.
    pub(super) fn unlocked(&mut self, number: u64, byte: u64) {
        self.locks.entry(number).and_modify(|locks| _ = locks.bytes.remove(&byte));
    }
}

/// A state ID in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateId {
    /// The special one that stands for no open file.
    Anonymous,
    /// The special one that stands for the last one of the same request.
    Current,
    /// One that the server gave out.
    Number(u64),
}

impl StateId {
    pub(super) fn read(from: &mut Reader<'_>) -> Read<Self> {
        let (seqid, number, _rest) = (from.u32()?, from.u64()?, from.u32()?);
        Ok(match (seqid, number) {
            (0, 0) => Self::Anonymous,
            (1, 0) => Self::Current,
            _ => Self::Number(number),
        })
    }
}

/// Writes the state ID of a number.
pub(super) fn write(number: u64, to: &mut Writer) {
    to.u32(1).u64(number).u32(0);
}
