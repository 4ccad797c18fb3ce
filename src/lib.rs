//! csi-nfs: a CSI driver for NFS.
#![warn(missing_docs)]

pub mod agent;
pub mod check;
pub mod config;
pub mod error;
pub mod export;
pub mod http;
pub mod metrics;
pub mod mount;
pub mod probe;
pub mod proto;
pub mod registration;
pub mod run;
pub mod server;
pub mod service;
pub mod snapshot;
pub mod socket;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod volume;
