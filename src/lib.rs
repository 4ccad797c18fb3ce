//! csi-nfs: a CSI driver for NFS.
#![warn(missing_docs)]

pub mod agent;
pub mod check;
pub mod config;
pub mod driver;
pub mod error;
pub mod export;
pub mod mount;
pub mod nfs;
pub mod node;
pub mod server;
pub mod service;
pub mod snapshot;
#[cfg(any(test, feature = "e2e"))]
pub mod testing;
pub mod volume;
