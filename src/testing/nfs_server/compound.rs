//! COMPOUND: its operations one after the other, and those that are about sessions.

use super::fault::Fault;
use super::session::{Begun, Place, SLOTS, SessionId};
use super::{Done, Refused, Service, lock, reply};
use crate::export::fs::Status;
use crate::nfs4::codes::{Code, op};
use crate::nfs4::compound::Limits;
use crate::nfs4::xdr::{Read, Reader, Writer};

const OK: Code = Code(0);
const NOFILEHANDLE: Code = Code(10_020);
const SEQUENCE_POS: Code = Code(10_064);
const OP_NOT_IN_SESSION: Code = Code(10_071);

/// A request while it is carried out.
pub(super) struct Request<'a> {
    pub(super) service: &'a Service,
    /// The client, after SEQUENCE.
    client: Option<u64>,
    /// Where the answer is remembered, and whether it has to be.
    place: Option<(Place, bool)>,
    /// The remembered answer.
    again: Option<Vec<u8>>,
    /// Whether it was carried out before, and its answer was not remembered.
    uncached: bool,
    /// The current filehandle, the saved one, and the current state ID.
    pub(super) current: Option<u64>,
    pub(super) saved: Option<u64>,
    pub(super) state: Option<u64>,
}

/// Carries out a request. Returns the bytes of the reply.
pub(super) async fn compound(service: &Service, xid: u32, mut arguments: Reader<'_>) -> Read<Vec<u8>> {
    lock(&service.sessions).expire();
    let (tag, minor_version, count) = (arguments.opaque(1024)?.to_vec(), arguments.u32()?, arguments.u32()?);
    let mut request = Request::new(service);
    let (mut results, mut done, mut status, mut reply_with) = (Writer::default(), 0, OK, None);
    if !matches!(minor_version, 1 | 2) {
        status = Code::MINOR_VERS_MISMATCH;
    }
    while status == OK && done < count {
        let operation = arguments.u32()?;
        let fault = lock(&service.faults).next(operation);
        if let Some(Fault::Wait(until)) = &fault {
            until.cancelled().await;
        }
        let mut result = Writer::default();
        let outcome = match &fault {
            Some(Fault::Fail(code)) => Err(Refused(*code)),
            _ => request.operate(done, operation, &mut arguments, &mut result).await,
        };
        if let Some(answer) = request.again {
            return Ok(reply(xid, &answer));
        }
        if let Err(Refused(code)) = outcome {
            status = code;
            result.0.clear();
            rest_of_failure(operation, code, &mut result);
        }
        done += 1;
        match &fault {
            Some(Fault::Result(forged)) => results.0.extend_from_slice(forged),
            _ => results.u32(operation).u32(status.0).0.extend(result.0),
        }
        if let Some(Fault::Reply(with)) = fault {
            reply_with = Some(with);
        }
    }
    let mut answer = Writer::default();
    answer.u32(status.0).opaque(&tag).u32(done).0.extend(results.0);
    if let Some((place, cached)) = request.place {
        // SEQUENCE alone is always remembered.
        lock(&service.sessions).finish(place, (cached || done == 1).then(|| answer.0.clone()));
    }
    Ok(reply_with.unwrap_or(reply)(xid, &answer.0))
}

/// What comes after the status of an operation that failed.
fn rest_of_failure(operation: u32, code: Code, to: &mut Writer) {
    match operation {
        // No attribute was set.
        op::SETATTR => _ = to.list(&[]),
        // The lock of another owner: all bytes, exclusively.
        op::LOCK if code == Code::DENIED => _ = to.u64(0).u64(u64::MAX).u32(2).u64(0).opaque(b"another"),
        _ => {}
    }
}

impl<'a> Request<'a> {
    fn new(service: &'a Service) -> Self {
        let (client, place, again, current, saved, state) = Default::default();
        Self { service, client, place, again, uncached: false, current, saved, state }
    }

    /// The client that asks.
    pub(super) fn client(&self) -> Done<u64> {
        self.client.ok_or(Refused(OP_NOT_IN_SESSION))
    }

    /// The current filehandle.
    pub(super) fn at(&self) -> Done<u64> {
        self.current.ok_or(Refused(NOFILEHANDLE))
    }

    /// The saved filehandle.
    pub(super) fn saved(&self) -> Done<u64> {
        self.saved.ok_or(Refused(NOFILEHANDLE))
    }

    /// Carries out one operation, the `n`th of its request: reads its arguments, and writes its result.
    async fn operate(&mut self, n: u32, operation: u32, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        match operation {
            op::SEQUENCE if n > 0 => return Err(Refused(SEQUENCE_POS)),
            op::SEQUENCE => return self.sequence(from, to),
            op::EXCHANGE_ID => return self.exchange_id(from, to),
            op::CREATE_SESSION => return self.create_session(from, to),
            op::DESTROY_SESSION => return lock(&self.service.sessions).destroy_session(from.array()?),
            op::DESTROY_CLIENTID => return lock(&self.service.sessions).destroy_client(from.u64()?),
            _ => self.client()?,
        };
        if self.uncached {
            return Err(Refused(Code::RETRY_UNCACHED_REP));
        }
        if operation == op::RECLAIM_COMPLETE {
            from.bool()?;
            return Ok(());
        }
        match operation {
            op::OPEN | op::CLOSE | op::LOCK | op::LOCKU | op::READ | op::WRITE | op::COMMIT => {
                self.file(operation, from, to).await
            }
            op::SEEK | op::CLONE | op::COPY => self.content(operation, from, to).await,
            op::GETATTR | op::SETATTR | op::VERIFY | op::NVERIFY => self.attributes(operation, from, to).await,
            op::GETXATTR | op::SETXATTR | op::LISTXATTRS => self.xattrs(operation, from, to).await,
            _ => self.name(operation, from, to).await,
        }
    }

    fn sequence(&mut self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (session, sequence, slot): (SessionId, _, _) = (from.array()?, from.u32()?, from.u32()?);
        let (_highest, cached) = (from.u32()?, from.bool()?);
        let place = Place { session, slot, sequence };
        match lock(&self.service.sessions).begin(place)? {
            Begun::New(client) => (self.client, self.place) = (Some(client), Some((place, cached))),
            Begun::Again(Some(answer)) => self.again = Some(answer),
            Begun::Again(None) => (self.client, self.uncached) = (Some(0), true),
        }
        to.fixed(&session).u32(sequence).u32(slot).u32(SLOTS - 1).u32(SLOTS - 1).u32(0);
        Ok(())
    }

    fn exchange_id(&self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (verifier, owner, _flags) = (from.array()?, from.opaque(1024)?, from.u32()?);
        let (_protection, _implementation) = (from.u32()?, from.list(0)?);
        let (client, sequence) = lock(&self.service.sessions).exchange_id(owner, verifier);
        // No pNFS and no protection; the names of the server, and none of the implementation.
        to.u64(client).u32(sequence).u32(0x1_0000).u32(0).u64(0).opaque(b"server").opaque(b"scope").u32(0);
        Ok(())
    }

    fn create_session(&self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (client, sequence, _flags) = (from.u64()?, from.u32()?, from.u32()?);
        let (fore, back) = (Limits::read(from)?, Limits::read(from)?);
        let (_program, _callbacks) = (from.u32()?, from.list(1)?);
        let fore = Limits { slots: fore.slots.min(SLOTS), ..fore };
        let session = lock(&self.service.sessions).create_session(client, sequence, fore.slots)?;
        to.fixed(&session).u32(sequence).u32(0);
        for Limits { request, response, cached, operations, slots } in [fore, back] {
            to.u32(0).u32(request).u32(response).u32(cached).u32(operations).u32(slots).u32(0);
        }
        Ok(())
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(match status {
            Status::Perm => Code(1),
            Status::Access => Code(13),
            Status::NoEnt => Code::NOENT,
            Status::Exist => Code(17),
            Status::NotDir => Code(20),
            Status::IsDir => Code(21),
            Status::NotEmpty => Code(66),
            Status::Symlink => Code::SYMLINK,
            Status::WrongType => Code::WRONG_TYPE,
            Status::XDev | Status::OtherProject => Code::XDEV,
            Status::Inval => Code::INVAL,
            Status::FBig => Code(27),
            Status::MLink => Code(31),
            Status::NameTooLong => Code(63),
            Status::NoSpc => Code(28),
            Status::DQuot => Code(69),
            Status::RoFs => Code(30),
            Status::Stale => Code(70),
            Status::NotSupp => Code::NOTSUPP,
            Status::Locked => Code::DENIED,
            Status::TimedOut | Status::Stuck => Code::DELAY,
            Status::Io | Status::Other(_) => Code(5),
        })
    }
}
