//! A minimal client for the driver's HTTP endpoint.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// The answer to GET, its headers included.
pub fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
