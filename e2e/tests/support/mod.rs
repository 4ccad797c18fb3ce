//! Code that the end-to-end tests, the demo and the benchmark share: the servers of `e2e/vm/servers` and directories on
//! them, the driver as a process, requests to it, and readers of the export and the mount table.
#![allow(dead_code, reason = "each of these programs uses a part of it")]

pub mod agent;
pub mod capture;
pub mod checked;
pub mod client;
pub mod driver;
pub mod http;
pub mod jaeger;
pub mod kernel;
pub mod lab;
pub mod mounts;
pub mod names;
pub mod network;
pub mod processes;
pub mod prometheus;
pub mod proxy;
pub mod random;
pub mod requests;
pub mod security;
pub mod servers;
pub mod small_client;
pub mod tree;
pub mod wait;

pub use csi_nfs::service::proto::csi;
pub use driver::Driver;
#[allow(unused_imports, reason = "the demo and the benchmark use a part of this")]
pub use lab::{Lab, Outage, Place, Share};
#[allow(unused_imports)]
pub use tonic::Code;
#[allow(unused_imports)]
pub use tree::Tree;

/// What the cache of downloads and tools has at `path`.
pub fn cached(path: &str) -> std::path::PathBuf {
    let cache = std::env::var_os("CSI_NFS_CACHE").map(std::path::PathBuf::from);
    let cache = cache.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cache/csi-nfs")));
    cache.unwrap().join(path)
}
