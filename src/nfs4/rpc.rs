//! ONC RPC over TCP (RFC 5531): calls, replies, and record marking.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::nfs4::xdr::{Malformed, Reader, Writer};

/// The NFS program and its version (RFC 8881, section 1).
const NFS: (u32, u32) = (100_003, 4);
/// NFSPROC4_NULL and NFSPROC4_COMPOUND.
const NULL: u32 = 0;
const COMPOUND: u32 = 1;
/// The kinds of messages (`msg_type`).
pub const CALL: u32 = 0;
/// An answer.
pub const REPLY: u32 = 1;
/// The flavours of credentials and verifiers.
pub const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;
/// The client asks for TLS (RFC 9289, section 4.1).
pub const AUTH_TLS: u32 = 7;
/// The most bytes of a verifier (RFC 5531, section 8.2).
const VERIFIER: usize = 400;
/// The most groups of an AUTH_SYS credential (RFC 5531, appendix A).
const GROUPS: usize = 16;

/// The bit of a record mark that says that the record ends with this fragment.
pub const LAST_FRAGMENT: u32 = 1 << 31;

/// A number for a call that no call before is likely to have.
pub fn fresh_xid() -> u32 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Fills in the mark of a record of one fragment, for which the message begins with a word.
pub fn mark(mut record: Writer) -> Vec<u8> {
    let mark = LAST_FRAGMENT | u32::try_from(record.0.len() - 4).unwrap_or(u32::MAX);
    record.0[..4].copy_from_slice(&mark.to_be_bytes());
    record.0
}

/// One record of a stream, of at most `most` bytes (RFC 5531, section 11).
///
/// # Errors
/// The stream ends, or has something else.
pub async fn record(from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    loop {
        let mark = from.read_u32().await?;
        let (length, start) = ((mark & !LAST_FRAGMENT) as usize, record.len());
        // With empty fragments that are not the last, a server could keep the reader busy for ever.
        if start + length > most || (length == 0 && mark & LAST_FRAGMENT == 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not from an RPC server"));
        }
        record.resize(start + length, 0);
        from.read_exact(&mut record[start..]).await?;
        if mark & LAST_FRAGMENT != 0 {
            return Ok(record);
        }
    }
}

/// Who the calls come from, as AUTH_SYS says it.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The name of this machine.
    pub machine: String,
    /// The user, which root squashing may change.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// Further groups; the protocol takes 16.
    pub groups: Vec<u32>,
}

/// Why a server did not carry out a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// MSG_DENIED.
    #[error("the server does not take the credential (AUTH_SYS)")]
    Denied,
    /// PROG_UNAVAIL, PROG_MISMATCH and so on: `accept_stat`.
    #[error("the server does not serve NFS version 4 (RPC error {0})")]
    Accepted(u32),
    /// Not a reply.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A call of COMPOUND with these arguments, with its record mark.
pub fn call(xid: u32, credential: &Credential, arguments: &[u8]) -> Vec<u8> {
    let mut message = header(xid, COMPOUND);
    let mut body = Writer::default();
    body.u32(0).opaque(credential.machine.as_bytes()).u32(credential.uid).u32(credential.gid);
    body.list(credential.groups.get(..GROUPS).unwrap_or(&credential.groups));
    message.u32(AUTH_SYS).opaque(&body.0).u32(AUTH_NONE).u32(0);
    message.0.extend_from_slice(arguments);
    mark(message)
}

/// A call of NULL with an empty credential of this flavour, with its record mark.
pub fn null(xid: u32, flavor: u32) -> Vec<u8> {
    let mut message = header(xid, NULL);
    message.u32(flavor).u32(0).u32(AUTH_NONE).u32(0);
    mark(message)
}

/// A place for the record mark, which is known at the end, and the header of a call.
fn header(xid: u32, procedure: u32) -> Writer {
    let mut message = Writer::default();
    for word in [0, xid, CALL, 2, NFS.0, NFS.1, procedure] {
        message.u32(word);
    }
    message
}

/// The call that a message answers; `None` if it is no reply.
pub fn answers(message: &[u8]) -> Option<u32> {
    let mut message = Reader::new(message);
    let (xid, kind) = (message.u32().ok()?, message.u32().ok()?);
    (kind == REPLY).then_some(xid)
}

/// The results in a reply.
///
/// # Errors
/// Why there are none.
pub fn results(reply: &[u8]) -> Result<&[u8], Refusal> {
    accepted(reply).map(|accepted| accepted.results)
}

/// Whether a reply to the call `xid` says that TLS begins after it (RFC 9289, section 4.1).
pub fn starts_tls(xid: u32, reply: &[u8]) -> bool {
    let starts = Accepted { verifier: (AUTH_NONE, b"STARTTLS"), results: b"" };
    answers(reply) == Some(xid) && accepted(reply) == Ok(starts)
}

/// What a reply has, to a call that was carried out.
#[derive(Debug, PartialEq, Eq)]
struct Accepted<'a> {
    /// Its flavour and its body.
    verifier: (u32, &'a [u8]),
    results: &'a [u8],
}

fn accepted(reply: &[u8]) -> Result<Accepted<'_>, Refusal> {
    let mut reply = Reader::new(reply);
    let (_xid, _kind) = (reply.u32()?, reply.u32()?);
    match reply.u32()? {
        0 => {}
        1 => return Err(Refusal::Denied),
        _ => return Err(Malformed.into()),
    }
    let verifier = (reply.u32()?, reply.opaque(VERIFIER)?);
    match reply.u32()? {
        0 => Ok(Accepted { verifier, results: reply.rest() }),
        status => Err(Refusal::Accepted(status)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_call_has_its_length_its_credential_and_its_arguments() {
        let credential = Credential { machine: "node".into(), uid: 7, gid: 8, groups: (0..20).collect() };
        let message = call(42, &credential, b"args");
        assert_eq!(message[..4], (LAST_FRAGMENT | (message.len() as u32 - 4)).to_be_bytes());
        assert_eq!(message[4..32], words(&[42, 0, 2, 100_003, 4, 1, 1])[..]);
        let mut rest = Reader::new(&message[32..]);
        let mut body = Reader::new(rest.opaque(400).unwrap());
        assert_eq!((body.u32(), body.opaque(255)), (Ok(0), Ok(&b"node"[..])));
        assert_eq!((body.u32(), body.u32(), body.list(16)), (Ok(7), Ok(8), Ok((0..16).collect())));
        assert_eq!(rest.rest(), [&words(&[0, 0])[..], b"args"].concat());
    }

    #[test]
    fn a_reply_has_results_or_says_why_not() {
        let reply = |rest: &[u32]| words(&[&[42, 1], rest].concat());
        assert_eq!(results(&reply(&[0, 0, 0, 0, 7])), Ok(&words(&[7])[..]));
        assert_eq!(results(&reply(&[0, 1, 4, 0, 0, 7])), Ok(&words(&[7])[..]));
        assert_eq!(results(&reply(&[1, 1, 5])), Err(Refusal::Denied));
        assert_eq!(results(&reply(&[0, 0, 0, 2, 3, 3])), Err(Refusal::Accepted(2)));
        assert_eq!(results(&reply(&[0, 0, u32::MAX])), Err(Refusal::Malformed(Malformed)));
        assert_eq!((answers(&reply(&[])), answers(&words(&[42, 0])), answers(&[1])), (Some(42), None, None));
    }

    #[test]
    fn a_server_that_asks_for_tls_says_so_in_one_way_only() {
        let starts =
            |words: &[u32], text: &[u8], rest: &[u8]| starts_tls(42, &[&self::words(words), text, rest].concat());
        let success = [0; 4];
        assert_eq!(null(42, AUTH_TLS)[4..], words(&[42, 0, 2, 100_003, 4, 0, 7, 0, 0, 0]));
        assert!(starts(&[42, 1, 0, 0, 8], b"STARTTLS", &success));
        for (what, starts) in [
            ("of another call", starts(&[41, 1, 0, 0, 8], b"STARTTLS", &success)),
            ("a call", starts(&[42, 0, 0, 0, 8], b"STARTTLS", &success)),
            ("a denial", starts(&[42, 1, 1, 0, 8], b"STARTTLS", &success)),
            ("another flavour", starts(&[42, 1, 0, 7, 8], b"STARTTLS", &success)),
            ("another word", starts(&[42, 1, 0, 0, 8], b"starttls", &success)),
            ("a shorter word", starts(&[42, 1, 0, 0, 7], b"STARTTLS", &success)),
            ("a length beyond the end", starts(&[42, 1, 0, 0, 400], b"STARTTLS", &success)),
            ("a length beyond all bounds", starts(&[42, 1, 0, 0, u32::MAX], b"STARTTLS", &success)),
            ("an error", starts(&[42, 1, 0, 0, 8], b"STARTTLS", &[0, 0, 0, 1])),
            ("results", starts(&[42, 1, 0, 0, 8], b"STARTTLS", &[0; 8])),
            ("no status", starts(&[42, 1, 0, 0, 8], b"STARTTLS", &[])),
            ("no verifier", starts(&[42, 1, 0, 0, 0], b"", &success)),
        ] {
            assert!(!starts, "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(reply: Vec<u8>) {
            let _: Option<u32> = answers(&reply);
            let _: bool = starts_tls(0, &reply);
            let _: Result<&[u8], Refusal> = results(&reply);
        }
    }
}
