//! A connection from kubelet whose requests name a host.
//!
//! kubelet's client for plugin registration uses the socket's path as the server's name. `:authority` is then
//! `%2Fvar%2Flib%2Fkubelet%2F…`, which is not a host (RFC 3986, section 3.2.2), and every HTTP/2 server except Go's own
//! resets the request with PROTOCOL_ERROR. The name means nothing on a Unix socket, so this module overwrites it in
//! place before the server reads it. It parses frames (RFC 9113, section 4), and in the header block of HEADERS it
//! replaces each byte of the value of `:authority` with a letter (RFC 7541, section 6). It passes anything else on
//! unchanged, and the server decides.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// The length of the client's connection preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// The length of a frame's header: length, type, flags and stream.
const FRAME_HEADER: usize = 9;
/// The longest frame that a client may send by default (SETTINGS_MAX_FRAME_SIZE).
const LONGEST_FRAME: usize = 1 << 14;
/// The frame type HEADERS and its flags.
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// A connection whose input is corrected.
#[derive(Debug)]
pub(super) struct Local<S> {
    stream: S,
    correction: Correction,
}

impl<S> Local<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, correction: Correction::default() }
    }
}

/// The bytes that were read, and how many of them are ready for the server.
#[derive(Debug, Default)]
struct Correction {
    read: BytesMut,
    /// The leading bytes of `read` that are final.
    done: usize,
    greeted: bool,
    /// The connection is not valid HTTP/2, so the rest is passed on unchanged.
    given_up: bool,
}

impl Correction {
    /// Corrects all complete frames.
    fn advance(&mut self) {
        if !self.greeted && self.read.len() >= PREFACE {
            (self.greeted, self.done) = (true, PREFACE);
        }
        while self.greeted && !self.given_up {
            let Some([a, b, c, kind, flags]) = self.read[self.done..].first_chunk() else { return };
            let (kind, flags) = (*kind, *flags);
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            self.given_up = length > LONGEST_FRAME;
            let end = self.done + FRAME_HEADER + length;
            let Some(payload) = self.read.get_mut(self.done + FRAME_HEADER..end) else { return };
            if kind == HEADERS {
                correct(payload, flags);
            }
            self.done = end;
        }
    }
}

/// Corrects the payload of a HEADERS frame. Returns `None` if the payload is truncated; the server then rejects it.
fn correct(payload: &mut [u8], flags: u8) -> Option<()> {
    let (padded, padding) = if flags & PADDED == 0 { (0, 0) } else { (1, usize::from(*payload.first()?)) };
    let start = padded + if flags & PRIORITY == 0 { 0 } else { 5 };
    let block = payload.get_mut(start..)?;
    let end = block.len().checked_sub(padding)?;
    let block = block.get_mut(..end)?;
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let (prefix, literal) = match first {
            0x80.. => (7, false),     // a whole field from a table
            0x40..0x80 => (6, true),  // a literal with indexing
            0x20..0x40 => (5, false), // the table's new size
            _ => (4, true),           // a literal without indexing
        };
        let name = integer(block, &mut at, prefix)?;
        if !literal {
            continue;
        }
        if name == 0 {
            at += integer(block, &mut at, 7)?;
        }
        let value = at;
        let length = integer(block, &mut at, 7)?;
        if name == AUTHORITY {
            // The first bit means Huffman coding, which the letters do not have.
            *block.get_mut(value)? &= 0x7f;
            block.get_mut(at..at + length)?.fill(b'k');
        }
        at += length;
    }
    Some(())
}

/// Reads the integer with a prefix of `prefix` bits at `at`, and moves `at` past it (RFC 7541, section 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mut next = || {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        Some(byte)
    };
    let most = (1 << prefix) - 1;
    let mut value = next()? & most;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for Local<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, correction } = &mut *self;
        while correction.done == 0 && !correction.given_up {
            let mut buffer = [0; 4096];
            let mut more = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut more))?;
            if more.filled().is_empty() {
                // The end of input: pass an incomplete frame on unchanged.
                correction.given_up = true;
            }
            correction.read.extend_from_slice(more.filled());
            correction.advance();
        }
        if correction.read.is_empty() {
            return Pin::new(stream).poll_read(context, out);
        }
        let ready = if correction.given_up { correction.read.len() } else { correction.done };
        let count = ready.min(out.remaining());
        out.put_slice(&correction.read[..count]);
        correction.read.advance(count);
        correction.done = correction.done.saturating_sub(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Local<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Local<UnixStream> {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A HEADERS frame as Go's client writes it, with the authority `value`; `huffman` is its Huffman bit.
    fn headers(flags: u8, before: &[u8], value: &[u8], huffman: u8, after: &[u8]) -> Vec<u8> {
        // :method POST and :scheme http by index, :path by name and a literal, then :authority
        let mut block = before.to_vec();
        block.extend([0x83, 0x86, 0x44, 2, b'/', b'x', 0x41, huffman | u8::try_from(value.len()).unwrap()]);
        block.extend(value);
        // a literal with a new name and with indexing; another without indexing
        block.extend([0x40, 1, b'a', 1, b'b', 0x10, 1, b'c', 1, b'd']);
        block.extend(after);
        frame(HEADERS, flags, &block)
    }

    async fn corrected(written: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        Local::new(written).read_to_end(&mut read).await.unwrap();
        read
    }

    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[tokio::test]
    async fn the_authority_is_overwritten_and_nothing_else_changes() {
        for (flags, before, after) in [
            (0x4, &[][..], &[][..]),
            (0x4 | PADDED, &[3], &[0, 0, 0]),
            (0x4 | PRIORITY, &[0, 0, 0, 0, 9], &[]),
            (0x4 | PADDED | PRIORITY, &[1, 0, 0, 0, 0, 9], &[0x41]),
        ] {
            let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
            let data = frame(0, 1, b"\x41\x02%%");
            let written = [GREETING, &settings, &headers(flags, before, b"%2Fa", 0x80, after), &data].concat();
            let expected = [GREETING, &settings, &headers(flags, before, b"kkkk", 0, after), &data].concat();
            assert_eq!(corrected(&written).await, expected, "{flags:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_input_is_passed_on_at_its_full_length(
            greeted: bool,
            frames in prop::collection::vec((0u8..10, any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut written = if greeted { GREETING.to_vec() } else { Vec::new() };
            for (kind, flags, payload) in &frames {
                written.extend(frame(*kind, *flags, payload));
            }
            written.extend(&rest);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(corrected(&written)).len(), written.len());
        }
    }
}
