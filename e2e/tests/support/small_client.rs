//! A small NFS client of its own, which mounts nothing: compounds of NFSv4.0 (RFC 7530) over TCP, with an AUTH_SYS
//! credential (RFC 5531, appendix A) that says whatever the caller likes. Any program in a pod can do the same.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

/// The statuses of RFC 7530, section 13.1, that tests expect.
pub const NFS4_OK: u32 = 0;
pub const NFS4ERR_WRONGSEC: u32 = 10_016;
pub const NFS4ERR_ACCESS: u32 = 13;

const PUTROOTFH: u32 = 24;
const LOOKUP: u32 = 15;
const READ: u32 = 25;
const WRITE: u32 = 38;
/// RFC 7530, section 9.1.4.3: the stateid of who has opened nothing.
const ANONYMOUS: [u32; 4] = [0; 4];

/// A connection to an NFS server.
#[derive(Debug)]
pub struct SmallClient(TcpStream);

impl SmallClient {
    /// Connects to port 2049.
    pub fn connect(server: IpAddr) -> Self {
        let stream = TcpStream::connect((server, 2049)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(stream)
    }

    /// Reads a file, as root.
    ///
    /// # Errors
    /// The status of the compound: that of its first operation that failed.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let mut read = words(&[READ]);
        read.extend(words(&ANONYMOUS));
        // From the beginning, at most 64 KiB.
        read.extend(words(&[0, 0, 64 << 10]));
        let result = self.on(path, &read)?;
        // Whether the end was reached, and the data.
        let length = word(&result, 4) as usize;
        Ok(result[8..8 + length].to_vec())
    }

    /// Overwrites the first bytes of a file, as root.
    ///
    /// # Errors
    /// The status of the compound.
    pub fn write(&mut self, path: &str, data: &[u8]) -> Result<(), u32> {
        const FILE_SYNC: u32 = 2;
        let mut write = words(&[WRITE]);
        write.extend(words(&ANONYMOUS));
        write.extend(words(&[0, 0, FILE_SYNC]));
        write.extend(opaque(data));
        self.on(path, &write).map(drop)
    }

    /// Walks to a path from the server's root, and does one operation there. Returns its result after the status.
    fn on(&mut self, path: &str, operation: &[u8]) -> Result<Vec<u8>, u32> {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        // No tag, and minor version 0.
        let mut compound = words(&[0, 0, u32::try_from(names.len() + 2).unwrap(), PUTROOTFH]);
        for name in &names {
            compound.extend(words(&[LOOKUP]));
            compound.extend(opaque(name.as_bytes()));
        }
        compound.extend(operation);
        let reply = self.call(&compound);
        match word(&reply, 0) {
            // The status, the tag, the number of results, and for each operation its number and its status.
            NFS4_OK => Ok(reply[12 + 8 * (names.len() + 2)..].to_vec()),
            status => Err(status),
        }
    }

    /// Calls COMPOUND. Returns the results.
    fn call(&mut self, arguments: &[u8]) -> Vec<u8> {
        const AUTH_SYS: u32 = 1;
        // A stamp, the name of a machine, UID 0, GID 0, and no further groups.
        let mut credential = words(&[0]);
        credential.extend(opaque(b"made up"));
        credential.extend(words(&[0, 0, 0]));
        // Number 1 of the calls, version 2 of RPC, NFS version 4, procedure 1.
        let mut call = words(&[1, 0, 2, 100_003, 4, 1, AUTH_SYS]);
        call.extend(opaque(&credential));
        // No verifier.
        call.extend(words(&[0, 0]));
        call.extend(arguments);
        self.0.write_all(&words(&[1 << 31 | u32::try_from(call.len()).unwrap()])).unwrap();
        self.0.write_all(&call).unwrap();
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut reply = vec![0; (u32::from_be_bytes(length) & !(1 << 31)) as usize];
        self.0.read_exact(&mut reply).unwrap();
        // A reply to call 1, accepted, no verifier, SUCCESS.
        assert_eq!(reply[..24], words(&[1, 1, 0, 0, 0, 0]));
        reply.split_off(24)
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// XDR's opaque: the length, and the bytes, filled up to a multiple of four (RFC 4506, section 4.10).
fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = words(&[u32::try_from(bytes.len()).unwrap()]);
    encoded.extend(bytes);
    encoded.resize(4 + bytes.len().next_multiple_of(4), 0);
    encoded
}

fn word(message: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(message[at..at + 4].try_into().unwrap())
}
