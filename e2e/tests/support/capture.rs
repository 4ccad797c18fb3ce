//! Everything that goes over the network of this machine: packet(7).

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

/// ETH_P_ALL: packets of every protocol.
const EVERY_PROTOCOL: u16 = 3;
/// What is kept for the reader until it reads.
const BUFFER: usize = 64 << 20;
/// The largest packet: the loopback device hands over what TCP has put together.
const PACKET: usize = 256 << 10;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture(JoinHandle<Vec<Vec<u8>>>);

impl Capture {
    /// Starts a capture on all interfaces.
    pub fn start() -> Self {
        let protocol = Protocol::from_raw(NonZeroU32::new(EVERY_PROTOCOL.to_be().into()).unwrap());
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
        set_socket_recv_buffer_size_force(&socket, BUFFER).unwrap();
        Self(std::thread::spawn(move || read(&socket)))
    }

    /// Ends the capture. Returns all packets, in order.
    pub fn end(self) -> Vec<Vec<u8>> {
        let end = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        end.send_to(END, ("127.0.0.1", 9)).unwrap();
        self.0.join().unwrap()
    }
}

/// The content of the packet that ends a capture.
const END: &[u8] = b"the end of this capture of the e2e tests";

fn read(socket: &OwnedFd) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut buffer = vec![0; PACKET];
    while packets.last().is_none_or(|packet| !packet.ends_with(END)) {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        packets.push(buffer[..length].to_vec());
    }
    packets
}

/// Whether one of the packets has these bytes.
pub fn shows(packets: &[Vec<u8>], bytes: &[u8]) -> bool {
    packets.iter().any(|packet| packet.windows(bytes.len()).any(|window| window == bytes))
}
