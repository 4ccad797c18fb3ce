//! A client of NFSv4.1 and NFSv4.2 in user space: what the driver needs of the protocol, over TCP. It needs no privilege
//! and no mount.
//!
//! `xdr`, `attributes`, `codes`, `state`, `compound` and `results` have the form of messages; `rpc`, `tls` and `connection`
//! carry them; `client` and `session` say who asks, and that each request is carried out once. What a server sends is hostile: no
//! length in it is trusted, and nothing in it is allocated before it is there.

pub mod attributes;
pub mod client;
pub mod codes;
pub mod compound;
pub mod connection;
pub mod results;
pub mod rpc;
pub mod session;
pub mod state;
pub mod tls;
pub mod xdr;
