//! The answers to compounds: the result of each operation, read in the order of the request.

use crate::nfs::name::Name;
use crate::nfs4::attributes::Attributes;
use crate::nfs4::codes::{Code, op};
use crate::nfs4::compound::Limits;
use crate::nfs4::state::{FileHandle, StateId};
use crate::nfs4::xdr::{Malformed, Read, Reader};

/// The most bytes of a tag, which servers return as it was sent: it is empty.
const TAG: usize = 1024;

/// Why an operation of a compound has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server says so.
    Code(Code),
    /// The answer is not one to this request.
    Malformed,
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A part of a directory's listing.
#[derive(Debug, Clone)]
pub struct Listed<'a> {
    /// Some entries, in the server's order.
    pub entries: Vec<Listing<'a>>,
    /// Whether they are the last.
    pub last: bool,
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct Listing<'a> {
    /// Where the listing goes on after it.
    pub cookie: u64,
    /// Its name.
    pub name: &'a [u8],
    /// The attributes that were asked for.
    pub attributes: Attributes,
}

/// The results of a compound, which are read in the order of its operations.
#[derive(Debug, Clone)]
pub struct Results<'a> {
    reader: Reader<'a>,
    left: u32,
}

/// The result of an operation.
pub type Outcome<T> = Result<T, Failure>;

impl<'a> Results<'a> {
    /// The results in the answer to COMPOUND, and the status of the last operation.
    pub fn read(answer: &'a [u8]) -> Read<(Self, Code)> {
        let mut reader = Reader::new(answer);
        let status = Code(reader.u32()?);
        reader.opaque(TAG)?;
        let left = reader.u32()?;
        Ok((Self { reader, left }, status))
    }

    /// The number of results that are left.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// The result of the next operation: a reader of what it returned.
    fn of(&mut self, operation: u32) -> Outcome<&mut Reader<'a>> {
        self.left = self.left.checked_sub(1).ok_or(Malformed)?;
        let (answered, status) = (self.reader.u32()?, self.reader.u32()?);
        // What the version lacks is answered under another number.
        if answered != operation && (answered, status) != (Code::OP_ILLEGAL.0, Code::OP_ILLEGAL.0) {
            return Err(Failure::Malformed);
        }
        match status {
            0 => Ok(&mut self.reader),
            code => Err(Failure::Code(Code(code))),
        }
    }

    /// Operations without results: PUTFH, LOOKUP, CLOSE's kin.
    fn done(&mut self, operation: u32) -> Outcome<()> {
        self.of(operation).map(drop)
    }

    /// PUTFH.
    pub fn put(&mut self) -> Outcome<()> {
        self.done(op::PUTFH)
    }

    /// PUTROOTFH.
    pub fn put_root(&mut self) -> Outcome<()> {
        self.done(op::PUTROOTFH)
    }

    /// SAVEFH.
    pub fn save(&mut self) -> Outcome<()> {
        self.done(op::SAVEFH)
    }

    /// LOOKUP.
    pub fn lookup(&mut self) -> Outcome<()> {
        self.done(op::LOOKUP)
    }

    /// LOOKUPP.
    pub fn parent(&mut self) -> Outcome<()> {
        self.done(op::LOOKUPP)
    }

    /// VERIFY.
    pub fn verify(&mut self) -> Outcome<()> {
        self.done(op::VERIFY)
    }

    /// NVERIFY.
    pub fn nverify(&mut self) -> Outcome<()> {
        self.done(op::NVERIFY)
    }

    /// RECLAIM_COMPLETE.
    pub fn reclaim_complete(&mut self) -> Outcome<()> {
        self.done(op::RECLAIM_COMPLETE)
    }

    /// GETFH.
    pub fn handle(&mut self) -> Outcome<FileHandle> {
        Ok(FileHandle::read(self.of(op::GETFH)?)?)
    }

    /// GETATTR.
    pub fn attributes(&mut self) -> Outcome<Attributes> {
        Ok(Attributes::read(self.of(op::GETATTR)?)?)
    }

    /// SETATTR.
    pub fn set(&mut self) -> Outcome<()> {
        let set = self.done(op::SETATTR);
        if set != Err(Failure::Malformed) {
            // The attributes that were set, which is there even after an error.
            self.reader.list(8)?;
        }
        set
    }

    /// CREATE.
    pub fn create(&mut self) -> Outcome<()> {
        let from = self.of(op::CREATE)?;
        change(from)?;
        from.list(8)?;
        Ok(())
    }

    /// OPEN.
    pub fn open(&mut self) -> Outcome<StateId> {
        let from = self.of(op::OPEN)?;
        let state = StateId::read(from)?;
        change(from)?;
        let (_flags, _set) = (from.u32()?, from.list(8)?);
        match from.u32()? {
            0 => {}
            // OPEN_DELEGATE_NONE_EXT, with a reason that may say more.
            3 => {
                if matches!(from.u32()?, 1 | 2) {
                    from.bool()?;
                }
            }
            // No delegation was wanted.
            _ => return Err(Failure::Malformed),
        }
        Ok(state)
    }

    /// CLOSE.
    pub fn close(&mut self) -> Outcome<()> {
        StateId::read(self.of(op::CLOSE)?)?;
        Ok(())
    }

    /// READ: the data, and whether the end of the file is after it.
    pub fn data(&mut self, most: usize) -> Outcome<(&'a [u8], bool)> {
        let from = self.of(op::READ)?;
        let end = from.bool()?;
        Ok((from.opaque(most)?, end))
    }

    /// WRITE: how much was written, and the server's verifier.
    pub fn write(&mut self) -> Outcome<(u32, [u8; 8])> {
        let from = self.of(op::WRITE)?;
        let (count, _stable) = (from.u32()?, from.u32()?);
        Ok((count, from.array()?))
    }

    /// COMMIT: the server's verifier.
    pub fn commit(&mut self) -> Outcome<[u8; 8]> {
        Ok(self.of(op::COMMIT)?.array()?)
    }

    /// SEEK: whether it is at the end of the file, and the offset.
    pub fn seek(&mut self) -> Outcome<(bool, u64)> {
        let from = self.of(op::SEEK)?;
        Ok((from.bool()?, from.u64()?))
    }

    /// CLONE.
    pub fn clone_file(&mut self) -> Outcome<()> {
        self.done(op::CLONE)
    }

    /// COPY: how much was copied, and the server's verifier.
    pub fn copy(&mut self) -> Outcome<(u64, [u8; 8])> {
        let from = self.of(op::COPY)?;
        if from.u32()? != 0 {
            // The server copies later, which was not asked for.
            return Err(Failure::Malformed);
        }
        let (count, _stable) = (from.u64()?, from.u32()?);
        let verifier = from.array()?;
        let _how = (from.bool()?, from.bool()?);
        Ok((count, verifier))
    }

    /// READLINK.
    pub fn readlink(&mut self, most: usize) -> Outcome<&'a [u8]> {
        Ok(self.of(op::READLINK)?.opaque(most)?)
    }

    /// READDIR.
    pub fn readdir(&mut self) -> Outcome<Listed<'a>> {
        let from = self.of(op::READDIR)?;
        let (_verifier, mut entries): ([u8; 8], _) = (from.array()?, Vec::new());
        while from.bool()? {
            let (cookie, name) = (from.u64()?, from.opaque(Name::MAX)?);
            entries.push(Listing { cookie, name, attributes: Attributes::read(from)? });
        }
        Ok(Listed { entries, last: from.bool()? })
    }

    /// REMOVE.
    pub fn remove(&mut self) -> Outcome<()> {
        Ok(change(self.of(op::REMOVE)?)?)
    }

    /// RENAME.
    pub fn rename(&mut self) -> Outcome<()> {
        let from = self.of(op::RENAME)?;
        change(from)?;
        Ok(change(from)?)
    }

    /// LINK.
    pub fn link(&mut self) -> Outcome<()> {
        Ok(change(self.of(op::LINK)?)?)
    }

    /// LOCK: the state of the owner's locks.
    pub fn lock(&mut self) -> Outcome<StateId> {
        Ok(StateId::read(self.of(op::LOCK)?)?)
    }

    /// LOCKU.
    pub fn unlock(&mut self) -> Outcome<()> {
        StateId::read(self.of(op::LOCKU)?)?;
        Ok(())
    }

    /// GETXATTR.
    pub fn get_xattr(&mut self, most: usize) -> Outcome<&'a [u8]> {
        Ok(self.of(op::GETXATTR)?.opaque(most)?)
    }

    /// SETXATTR.
    pub fn set_xattr(&mut self) -> Outcome<()> {
        Ok(change(self.of(op::SETXATTR)?)?)
    }

    /// LISTXATTRS: where it goes on, the names, and whether they are the last.
    pub fn list_xattrs(&mut self) -> Outcome<(u64, Vec<&'a [u8]>, bool)> {
        let from = self.of(op::LISTXATTRS)?;
        let (cookie, count) = (from.u64()?, from.u32()?);
        let names = (0..count).map(|_| from.opaque(Name::MAX)).collect::<Read<_>>()?;
        Ok((cookie, names, from.bool()?))
    }

    /// EXCHANGE_ID: the client ID, and the sequence of its next CREATE_SESSION.
    pub fn exchange_id(&mut self) -> Outcome<(u64, u32)> {
        let from = self.of(op::EXCHANGE_ID)?;
        Ok((from.u64()?, from.u32()?))
    }

    /// CREATE_SESSION: the session, and the limits of its fore channel.
    pub fn create_session(&mut self) -> Outcome<([u8; 16], Limits)> {
        let from = self.of(op::CREATE_SESSION)?;
        let session = from.array()?;
        let (_sequence, _flags) = (from.u32()?, from.u32()?);
        Ok((session, Limits::read(from)?))
    }

    /// SEQUENCE: the session, the sequence and the slot that are answered. If the server has revoked state, the client
    /// has expired, even if its session has not.
    pub fn sequence(&mut self) -> Outcome<([u8; 16], u32, u32)> {
        /// SEQ4_STATUS_EXPIRED_ALL_STATE_REVOKED, _EXPIRED_SOME_STATE_REVOKED and _ADMIN_STATE_REVOKED.
        const REVOKED: u32 = 0x08 | 0x10 | 0x20;
        let from = self.of(op::SEQUENCE)?;
        let answered = (from.array()?, from.u32()?, from.u32()?);
        let (_highest, _target, status) = (from.u32()?, from.u32()?, from.u32()?);
        if status & REVOKED == 0 { Ok(answered) } else { Err(Failure::Code(Code::EXPIRED)) }
    }
}

/// `change_info4`.
fn change(from: &mut Reader<'_>) -> Read<()> {
    let _change = (from.bool()?, from.u64()?, from.u64()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nfs4::xdr::Writer;

    /// An answer with these results, each a number, a status, and what comes with it.
    fn answer(results: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut answer = Writer::default();
        answer.u32(0).opaque(b"").u32(results.len() as u32);
        for (operation, status, rest) in results {
            answer.u32(*operation).u32(*status).fixed(rest);
        }
        answer.0
    }

    #[test]
    fn results_are_read_in_order_up_to_the_one_that_failed() {
        let mut handle = Writer::default();
        handle.opaque(b"handle");
        let answer = answer(&[(op::PUTFH, 0, &[]), (op::GETFH, 0, &handle.0), (op::LOOKUP, 2, &[])]);
        let (mut results, _) = Results::read(&answer).unwrap();
        results.put().unwrap();
        assert_eq!(results.handle().unwrap().as_bytes(), b"handle");
        assert_eq!(results.lookup(), Err(Failure::Code(Code::NOENT)));
        assert_eq!(results.lookup(), Err(Failure::Malformed), "nothing follows a failure");
    }

    #[test]
    fn another_operation_is_no_answer_but_one_that_the_server_does_not_know_is() {
        let (illegal, other) = (Code::OP_ILLEGAL.0, op::PUTFH);
        for (answered, status, expected) in [
            (other, 0, Failure::Malformed),
            (illegal, illegal, Failure::Code(Code::OP_ILLEGAL)),
            (illegal, 0, Failure::Malformed),
        ] {
            let answer = answer(&[(answered, status, &[])]);
            assert_eq!(Results::read(&answer).unwrap().0.clone_file(), Err(expected), "{answered} {status}");
        }
    }

    #[test]
    fn a_handle_is_not_longer_than_the_protocol_allows() {
        for (length, is_one) in [(128, true), (129, false)] {
            let mut handle = Writer::default();
            handle.opaque(&vec![7; length]);
            let answer = answer(&[(op::GETFH, 0, &handle.0)]);
            assert_eq!(Results::read(&answer).unwrap().0.handle().is_ok(), is_one, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_result_panic(
            rest: Vec<u8>,
            operation in prop::sample::select(vec![
                op::GETATTR, op::OPEN, op::READ, op::READDIR, op::LISTXATTRS, op::COPY, op::SETATTR, op::EXCHANGE_ID,
                op::CREATE_SESSION, op::SEQUENCE, op::LOCK, op::READLINK, op::GETXATTR,
            ]),
            status in prop::sample::select(vec![0, 2, 10_008]),
        ) {
            let mut bytes = Writer::default();
            bytes.u32(status).opaque(b"").u32(1).u32(operation).u32(status);
            bytes.0.extend_from_slice(&rest);
            let Ok((mut results, _)) = Results::read(&bytes.0) else { return Ok(()) };
            let _ = match operation {
                op::GETATTR => results.attributes().is_ok(),
                op::OPEN => results.open().is_ok(),
                op::READ => results.data(9).is_ok_and(|(data, _)| data.len() > 9),
                op::READDIR => results.readdir().is_ok(),
                op::LISTXATTRS => results.list_xattrs().is_ok(),
                op::COPY => results.copy().is_ok(),
                op::SETATTR => results.set().is_ok(),
                op::EXCHANGE_ID => results.exchange_id().is_ok(),
                op::CREATE_SESSION => results.create_session().is_ok(),
                op::SEQUENCE => results.sequence().is_ok(),
                op::LOCK => results.lock().is_ok(),
                op::READLINK => results.readlink(9).is_ok(),
                _ => results.get_xattr(9).is_ok(),
            };
        }
    }
}
