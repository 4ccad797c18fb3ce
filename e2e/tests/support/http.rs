//! A minimal client for HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// The answer to GET, its headers included.
pub fn get(address: &str, path: &str) -> String {
    ask(address, path, "HTTP/1.1")
}

/// The same from a server that would send a long answer in chunks, which version 1.0 does not know.
pub fn get_whole(address: &str, path: &str) -> String {
    ask(address, path, "HTTP/1.0")
}

fn ask(address: &str, path: &str, version: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} {version}\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
