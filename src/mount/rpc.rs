//! The part of ONC RPC that the driver needs to check a server: a call over TCP (RFC 5531), and the lookup of a port
//! with rpcbind (RFC 1833).
//!
//! Answers are hostile input: their size is limited, and no length in them is trusted.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::nfs4::rpc::{CALL, REPLY, fresh_xid, mark, record};
use crate::nfs4::xdr::{Reader, Writer};

/// The NFS program (RFC 5531, appendix C).
pub const NFS: u32 = 100_003;
/// The MOUNT program, which version 3 needs (RFC 1813, appendix I).
pub const MOUNT: u32 = 100_005;
/// The Network Status Monitor, rpc.statd(8), which locks of version 3 need.
pub const STATUS: u32 = 100_024;
/// rpcbind(8): its program and its fixed port.
const RPCBIND: (u32, u16) = (100_000, 111);

/// The maximum size of an answer in bytes. Expected answers have a few dozen bytes.
pub(crate) const REPLY_MAX: usize = 2048;

/// A server's answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// SUCCESS, with the results.
    Success(Vec<u8>),
    /// PROG_MISMATCH: the server has the program in these versions only.
    OtherVersions {
        /// The lowest version served.
        low: u32,
        /// The highest version served.
        high: u32,
    },
    /// MSG_DENIED: the server requires other credentials.
    Denied,
}

/// Calls procedure 0, which does nothing, to find whether a server has a program in this version. The caller must set a
/// time-out.
pub async fn null(to: SocketAddr, program: u32, version: u32) -> io::Result<Reply> {
    call(to, program, version, 0, &[]).await
}

/// Asks the rpcbind of a host for the TCP port of a program. Returns `None` if the program is not registered.
///
/// For IPv4 this uses version 2 of rpcbind (portmap), which every server has. IPv6 needs version 4.
pub async fn port_of(host: IpAddr, program: u32, version: u32) -> io::Result<Option<u16>> {
    const GETPORT: u32 = 3;
    const GETADDR: u32 = 3;
    const TCP: u32 = 6;
    let to = SocketAddr::new(host, RPCBIND.1);
    let mut arguments = Writer::default();
    arguments.u32(program).u32(version);
    let reply = if host.is_ipv4() {
        arguments.u32(TCP).u32(0);
        call(to, RPCBIND.0, 2, GETPORT, &arguments.0).await?
    } else {
        arguments.opaque(b"tcp6").opaque(b"").opaque(b"");
        call(to, RPCBIND.0, 4, GETADDR, &arguments.0).await?
    };
    let Reply::Success(results) = reply else { return Err(invalid("rpcbind rejects the call")) };
    port(&results, host.is_ipv4())
}

/// The port in the results of rpcbind: a number in those of version 2, for IPv4, and else a universal address.
pub(crate) fn port(results: &[u8], is_ipv4: bool) -> io::Result<Option<u16>> {
    let mut results = Reader::new(results);
    let port = if is_ipv4 {
        u16::try_from(results.u32()?).map_err(|_| invalid("a port beyond 65535"))?
    } else {
        universal_port(results.opaque(REPLY_MAX)?)?
    };
    Ok((port != 0).then_some(port))
}

/// The port in a universal address such as `::1.8.1`: its last two numbers (RFC 5665, section 5.2.3); 0 for none.
fn universal_port(address: &[u8]) -> io::Result<u16> {
    if address.is_empty() {
        return Ok(0);
    }
    let bad = || invalid("not a universal address");
    let mut parts = std::str::from_utf8(address).map_err(|_| bad())?.rsplit('.');
    let mut part = || parts.next().and_then(|part| part.parse::<u8>().ok()).ok_or_else(bad);
    let (low, high) = (part()?, part()?);
    Ok(u16::from_be_bytes([high, low]))
}

async fn call(to: SocketAddr, program: u32, version: u32, procedure: u32, arguments: &[u8]) -> io::Result<Reply> {
    let xid = fresh_xid();
    let mut message = Writer::default();
    // The mark, which is known at the end, and the header (RFC 5531, section 9): RPC version 2, no credential, no verifier.
    for word in [0, xid, CALL, 2, program, version, procedure, 0, 0, 0, 0] {
        message.u32(word);
    }
    message.0.extend_from_slice(arguments);

    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&mark(message)).await?;
    reply(&mut stream, xid).await
}

/// Reads the answer to the call `xid`.
pub(crate) async fn reply(stream: &mut (impl AsyncRead + Unpin), xid: u32) -> io::Result<Reply> {
    parse(&record(stream, REPLY_MAX).await?, xid)
}

fn parse(reply: &[u8], xid: u32) -> io::Result<Reply> {
    let mut reply = Reader::new(reply);
    if reply.u32()? != xid || reply.u32()? != REPLY {
        return Err(invalid("the answer is to another call"));
    }
    match reply.u32()? {
        0 => {}
        1 => return Ok(Reply::Denied),
        _ => return Err(invalid("an unknown kind of answer")),
    }
    let (_verifier_flavor, _verifier) = (reply.u32()?, reply.opaque(REPLY_MAX)?);
    match reply.u32()? {
        0 => Ok(Reply::Success(reply.rest().to_vec())),
        1 => Err(invalid("the RPC server does not have this program")),
        2 => Ok(Reply::OtherVersions { low: reply.u32()?, high: reply.u32()? }),
        _ => Err(invalid("the RPC server could not carry out the call")),
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::testing::fake_server::{Behaviour, Server};

    #[rstest]
    #[case::success(vec![REPLY, 0, 0, 0, 0, 7], Reply::Success(vec![0, 0, 0, 7]))]
    #[case::verifier(vec![REPLY, 0, 1, 5, 0, 0, 0], Reply::Success(vec![]))]
    #[case::mismatch(vec![REPLY, 0, 0, 0, 2, 3, 3], Reply::OtherVersions { low: 3, high: 3 })]
    #[case::denied(vec![REPLY, 1, 1, 5], Reply::Denied)]
    #[tokio::test]
    async fn an_answer_is_parsed(#[case] words: Vec<u32>, #[case] expected: Reply) {
        let server = Server::start(Behaviour::Words(words)).await;
        assert_eq!(null(server.address, NFS, 4).await.unwrap(), expected);
    }

    #[rstest]
    #[case::another_program(Behaviour::Words(vec![REPLY, 0, 0, 0, 1]))]
    #[case::system_error(Behaviour::Words(vec![REPLY, 0, 0, 0, 5]))]
    #[case::a_call(Behaviour::Words(vec![CALL, 2, 0, 0, 0]))]
    #[case::another_call(Behaviour::OtherXid)]
    #[case::cut_short(Behaviour::Words(vec![REPLY, 0, 0]))]
    #[case::a_verifier_longer_than_the_answer(Behaviour::Words(vec![REPLY, 0, 0, u32::MAX, 0]))]
    #[case::a_record_of_two_gigabytes(Behaviour::Bytes(vec![0xff; 4096]))]
    #[case::empty_fragments_without_end(Behaviour::Bytes(vec![0; 4096]))]
    #[case::a_web_server(Behaviour::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()))]
    #[case::hanging_up(Behaviour::Closing)]
    #[tokio::test]
    async fn an_invalid_answer_is_an_error(#[case] behaviour: Behaviour) {
        let server = Server::start(behaviour).await;
        assert!(null(server.address, NFS, 4).await.is_err());
    }

    #[rstest]
    #[case("::.8.1", 2049)]
    #[case("::1.0.111", 111)]
    #[case("", 0)]
    fn a_universal_address_ends_with_the_port(#[case] address: &str, #[case] port: u16) {
        assert_eq!(universal_port(address.as_bytes()).unwrap(), port);
    }

    #[rstest]
    fn an_invalid_universal_address_is_an_error(#[values("::1", "1.256", "a.b", ".", "1")] address: &str) {
        assert!(universal_port(address.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_panic(reply: Vec<u8>, xid: u32) {
            let _: io::Result<Reply> = parse(&reply, xid);
            let _: io::Result<u16> = universal_port(&reply);
        }
    }
}
