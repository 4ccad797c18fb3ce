//! Compounds: several operations in one request (RFC 8881, section 16.2). `results` reads the answers.

use crate::nfs::attributes::Kind;
use crate::nfs::name::Name;
use crate::nfs4::attributes::{Values, bitmap, number};
use crate::nfs4::codes::op;
use crate::nfs4::state::{FileHandle, StateId};
use crate::nfs4::xdr::{Read, Reader, Writer};

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub enum How<'a> {
    /// It must be there.
    NoCreate,
    /// It is made with these attributes if it is missing.
    Unchecked(&'a Values),
    /// It is made with these attributes, and must not be there.
    Guarded(&'a Values),
}

/// What CREATE makes.
#[derive(Debug, Clone, Copy)]
pub enum New<'a> {
    /// A directory, FIFO or socket.
    Plain(Kind),
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A device of this kind and number.
    Device(Kind, (u32, u32)),
}

/// The operations of a request, in the order of the calls.
#[derive(Debug, Clone, Default)]
pub struct Compound {
    operations: Writer,
    count: u32,
    /// The number of the first operation that changes something.
    changes: Option<u32>,
    takes_long: bool,
}

impl Compound {
    /// The number of operations before the first one that changes something; all of them if none does.
    pub fn harmless(&self) -> u32 {
        self.changes.unwrap_or(self.count)
    }

    /// The number of operations.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// These operations, and after them those of `rest`.
    pub fn then(mut self, rest: &Self) -> Self {
        self.changes = self.changes.or(rest.changes.map(|before| self.count + before));
        self.count += rest.count;
        self.takes_long |= rest.takes_long;
        self.operations.0.extend_from_slice(&rest.operations.0);
        self
    }

    /// The same request, for which the server may need long.
    pub fn long(self) -> Self {
        Self { takes_long: true, ..self }
    }

    /// Whether the request changes something, so that the server has to remember its answer.
    pub fn changes(&self) -> bool {
        self.changes.is_some()
    }

    /// Whether the server may need long for it.
    pub fn takes_long(&self) -> bool {
        self.takes_long
    }

    fn reads(mut self, operation: u32, arguments: impl FnOnce(&mut Writer)) -> Self {
        self.count += 1;
        self.operations.u32(operation);
        arguments(&mut self.operations);
        self
    }

    fn writes(mut self, operation: u32, arguments: impl FnOnce(&mut Writer)) -> Self {
        self.changes.get_or_insert(self.count);
        self.reads(operation, arguments)
    }

    /// PUTROOTFH.
    pub fn put_root(self) -> Self {
        self.reads(op::PUTROOTFH, |_| {})
    }

    /// PUTFH.
    pub fn put(self, handle: &FileHandle) -> Self {
        self.reads(op::PUTFH, |to| _ = to.opaque(handle.as_bytes()))
    }

    /// SAVEFH.
    pub fn save(self) -> Self {
        self.reads(op::SAVEFH, |_| {})
    }

    /// GETFH.
    pub fn handle(self) -> Self {
        self.reads(op::GETFH, |_| {})
    }

    /// GETATTR.
    pub fn attributes(self, attributes: &[u32]) -> Self {
        self.reads(op::GETATTR, |to| _ = to.list(&bitmap(attributes)))
    }

    /// LOOKUP.
    pub fn lookup(self, name: &[u8]) -> Self {
        self.reads(op::LOOKUP, |to| _ = to.opaque(name))
    }

    /// LOOKUPP.
    pub fn parent(self) -> Self {
        self.reads(op::LOOKUPP, |_| {})
    }

    /// VERIFY: fails with `Code::NOT_SAME` unless the object is of this kind.
    pub fn verify(self, kind: Kind) -> Self {
        self.reads(op::VERIFY, |to| Values::kind(kind).write(to))
    }

    /// NVERIFY: fails with `Code::SAME` if the object is of this kind.
    pub fn nverify(self, kind: Kind) -> Self {
        self.reads(op::NVERIFY, |to| Values::kind(kind).write(to))
    }

    /// SETATTR.
    pub fn set(self, state: StateId, values: &Values) -> Self {
        self.writes(op::SETATTR, |to| {
            state.write(to);
            values.write(to);
        })
    }

    /// CREATE.
    pub fn create(self, what: New<'_>, name: &Name, values: &Values) -> Self {
        self.writes(op::CREATE, |to| {
            match what {
                New::Plain(kind) => _ = to.u32(number(kind)),
                New::Symlink(target) => _ = to.u32(number(Kind::Symlink)).opaque(target),
                New::Device(kind, (major, minor)) => _ = to.u32(number(kind)).u32(major).u32(minor),
            }
            to.opaque(name.as_bytes());
            values.write(to);
        })
    }

    /// OPEN by name, without a delegation. `owner` is of this client alone.
    pub fn open(self, client_id: u64, owner: u64, writing: bool, how: How<'_>, name: &Name) -> Self {
        const BOTH: u32 = 3;
        const READ: u32 = 1;
        const WANT_NO_DELEGATION: u32 = 0x400;
        self.writes(op::OPEN, |to| {
            let access = if writing { BOTH } else { READ };
            to.u32(0).u32(access | WANT_NO_DELEGATION).u32(0);
            to.u64(client_id).opaque(&owner.to_be_bytes());
            match how {
                How::NoCreate => _ = to.u32(0),
                How::Unchecked(values) => values.write(to.u32(1).u32(0)),
                How::Guarded(values) => values.write(to.u32(1).u32(1)),
            }
            // CLAIM_NULL
            to.u32(0).opaque(name.as_bytes());
        })
    }

    /// CLOSE.
    pub fn close(self, state: StateId) -> Self {
        self.writes(op::CLOSE, |to| state.write(to.u32(0)))
    }

    /// READ.
    pub fn read(self, state: StateId, offset: u64, count: u32) -> Self {
        self.reads(op::READ, |to| {
            state.write(to);
            to.u64(offset).u32(count);
        })
    }

    /// WRITE, to stable storage if `stable`.
    pub fn write(self, state: StateId, offset: u64, stable: bool, data: &[u8]) -> Self {
        const FILE_SYNC: u32 = 2;
        self.writes(op::WRITE, |to| {
            state.write(to);
            to.u64(offset).u32(if stable { FILE_SYNC } else { 0 }).opaque(data);
        })
    }

    /// COMMIT of everything.
    pub fn commit(self) -> Self {
        self.writes(op::COMMIT, |to| _ = to.u64(0).u32(0))
    }

    /// SEEK; `what` is 0 for data and 1 for a hole.
    pub fn seek(self, state: StateId, offset: u64, what: u32) -> Self {
        self.reads(op::SEEK, |to| {
            state.write(to);
            to.u64(offset).u32(what);
        })
    }

    /// CLONE of the saved file into the current one: `length` bytes; 0 is all of it.
    pub fn clone_file(self, source: StateId, target: StateId, length: u64) -> Self {
        self.writes(op::CLONE, |to| {
            source.write(to);
            target.write(to);
            to.u64(0).u64(0).u64(length);
        })
    }

    /// COPY of a part of the saved file to the same place in the current one, before the server answers.
    pub fn copy(self, source: StateId, target: StateId, offset: u64, length: u64) -> Self {
        self.long().writes(op::COPY, |to| {
            source.write(to);
            target.write(to);
            to.u64(offset).u64(offset).u64(length).bool(true).bool(true).u32(0);
        })
    }

    /// READLINK.
    pub fn readlink(self) -> Self {
        self.reads(op::READLINK, |_| {})
    }

    /// READDIR: at most `most` bytes of entries, each with these attributes.
    pub fn readdir(self, cookie: u64, verifier: [u8; 8], most: u32, attributes: &[u32]) -> Self {
        self.reads(op::READDIR, |to| {
            to.u64(cookie).fixed(&verifier).u32(most).u32(most).list(&bitmap(attributes));
        })
    }

    /// REMOVE.
    pub fn remove(self, name: &Name) -> Self {
        self.writes(op::REMOVE, |to| _ = to.opaque(name.as_bytes()))
    }

    /// RENAME from the saved directory to the current one.
    pub fn rename(self, from: &Name, to_name: &Name) -> Self {
        self.writes(op::RENAME, |to| _ = to.opaque(from.as_bytes()).opaque(to_name.as_bytes()))
    }

    /// LINK of the saved object in the current directory.
    pub fn link(self, name: &Name) -> Self {
        self.writes(op::LINK, |to| _ = to.opaque(name.as_bytes()))
    }

    /// LOCK of one byte, by an owner that has the file open.
    pub fn lock(self, open: StateId, client_id: u64, owner: u64, offset: u64, exclusive: bool) -> Self {
        self.writes(op::LOCK, |to| {
            to.u32(if exclusive { 2 } else { 1 }).bool(false).u64(offset).u64(1);
            // A lock owner that may be new, with its open file.
            to.bool(true).u32(0);
            open.write(to);
            to.u32(0).u64(client_id).opaque(&owner.to_be_bytes());
        })
    }

    /// LOCKU of one byte.
    pub fn unlock(self, locks: StateId, offset: u64) -> Self {
        self.writes(op::LOCKU, |to| {
            to.u32(2).u32(0);
            locks.write(to);
            to.u64(offset).u64(1);
        })
    }

    /// GETXATTR; the name has no `user.` before it.
    pub fn get_xattr(self, name: &[u8]) -> Self {
        self.reads(op::GETXATTR, |to| _ = to.opaque(name))
    }

    /// SETXATTR of an attribute that may be there.
    pub fn set_xattr(self, name: &[u8], value: &[u8]) -> Self {
        self.writes(op::SETXATTR, |to| _ = to.u32(0).opaque(name).opaque(value))
    }

    /// LISTXATTRS: at most `most` bytes of names.
    pub fn list_xattrs(self, cookie: u64, most: u32) -> Self {
        self.reads(op::LISTXATTRS, |to| _ = to.u64(cookie).u32(most))
    }

    /// EXCHANGE_ID for a client of this name, which a new verifier makes a new one. Without pNFS, and without protection
    /// of its state.
    pub fn exchange_id(self, owner: &[u8], verifier: [u8; 8]) -> Self {
        const NON_PNFS: u32 = 0x1_0000;
        self.writes(op::EXCHANGE_ID, |to| {
            to.fixed(&verifier).opaque(owner).u32(NON_PNFS).u32(0).u32(0);
        })
    }

    /// CREATE_SESSION with these limits of the fore channel, and no back channel in use.
    pub fn create_session(self, client_id: u64, sequence: u32, limits: Limits) -> Self {
        self.writes(op::CREATE_SESSION, |to| {
            to.u64(client_id).u32(sequence).u32(0);
            let Limits { request, response, cached, operations, slots } = limits;
            to.u32(0).u32(request).u32(response).u32(cached).u32(operations).u32(slots).u32(0);
            // Servers look at the back channel even if nobody asks for one.
            to.u32(0).u32(4096).u32(4096).u32(0).u32(2).u32(1).u32(0);
            // A program for callbacks, which nobody calls, by AUTH_NONE.
            to.u32(0x4000_0000).u32(1).u32(0);
        })
    }

    /// RECLAIM_COMPLETE of all file systems: this client never reclaims.
    pub fn reclaim_complete(self) -> Self {
        self.writes(op::RECLAIM_COMPLETE, |to| _ = to.bool(false))
    }

    /// DESTROY_SESSION.
    pub fn destroy_session(self, session: &[u8; 16]) -> Self {
        self.writes(op::DESTROY_SESSION, |to| _ = to.fixed(session))
    }

    /// DESTROY_CLIENTID.
    pub fn destroy_client(self, client_id: u64) -> Self {
        self.writes(op::DESTROY_CLIENTID, |to| _ = to.u64(client_id))
    }

    /// SEQUENCE. `cached` asks the server to remember the answer.
    pub fn sequence(self, session: &[u8; 16], sequence: u32, slot: u32, highest_slot: u32, cached: bool) -> Self {
        self.reads(op::SEQUENCE, |to| {
            to.fixed(session).u32(sequence).u32(slot).u32(highest_slot).bool(cached);
        })
    }

    /// The arguments of COMPOUND: these operations, and after them those of `rest`.
    pub fn arguments(self, minor_version: u32, rest: &Self) -> Vec<u8> {
        let mut arguments = Writer::default();
        arguments.opaque(b"").u32(minor_version).u32(self.count + rest.count);
        arguments.0.extend_from_slice(&self.operations.0);
        arguments.0.extend_from_slice(&rest.operations.0);
        arguments.0
    }
}

/// The limits of a channel (`channel_attrs4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a request.
    pub request: u32,
    /// The most bytes of a response.
    pub response: u32,
    /// The most bytes of a response that the server remembers.
    pub cached: u32,
    /// The most operations of a request.
    pub operations: u32,
    /// The number of requests at a time.
    pub slots: u32,
}

impl Limits {
    /// Reads `channel_attrs4`.
    pub fn read(from: &mut Reader<'_>) -> Read<Self> {
        let _padding = from.u32()?;
        let (request, response, cached) = (from.u32()?, from.u32()?, from.u32()?);
        let limits = Self { request, response, cached, operations: from.u32()?, slots: from.u32()? };
        let _rdma = from.list(1)?;
        Ok(limits)
    }
}
