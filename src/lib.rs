//! csi-nfs: a CSI driver for NFS.
//!
//! The modules are the rooms that ARCHITECTURE.md draws, from the top to the bottom. Each imports only from rooms below
//! it; `e2e/tests/layers.rs` checks that.
#![warn(missing_docs)]

/// The composition: what a configuration becomes, and the order in which it starts and ends.
pub mod driver;

/// The command line and the environment, checked before anything is opened.
pub mod config;

/// The socket, serving, logs, metrics, HTTP, kubelet's registration, and the probe.
pub mod server;

/// The CSI services: request to domain type to response.
pub mod service;

/// What on an export does not fit, and its repair.
pub mod check;

/// The part that runs on the NFS server: it enforces the sizes of volumes.
pub mod agent;

/// Snapshots, restores, clones and groups: whole workflows.
mod snapshot;

/// Volumes: identifiers, parameters, records, and their life on an export.
mod volume;

/// What a node does: publish, unpublish, health and statistics.
mod node;

/// An export: the interface to it, its implementation, connections, locks, layout, trash and tree copy.
mod export;

/// Reaching an NFS server: addresses, liveness, the gate to what blocks, and mount calls.
mod mount;

/// The vocabulary of NFS, without I/O.
pub mod nfs;

/// The one error of the domain.
pub mod error;

/// What tests share: an export in memory, the contract of the interface, crashes, races and scenarios. No release has
/// it.
#[cfg(any(test, feature = "e2e"))]
pub mod testing;

/// What the programs under `e2e/` use beside what the binary does. No release has it.
#[cfg(feature = "e2e")]
pub mod e2e {
    pub use crate::export::copy::{Options, Progress, Totals, copy_tree};
    pub use crate::export::fs::{Fs, Name, Status};
    pub use crate::export::kernel::{KernelFs, KernelHandle};
    pub use crate::export::pool::Connect;
    pub use crate::mount::gate::{Gates, THREADS};
    pub use crate::mount::mounter::Mounter;
    pub use crate::mount::reachability::Reachability;
    pub use crate::nfs::option_table::{Effect, KNOWN, examples};
    pub use crate::nfs::options::MountOptions;
    pub use crate::nfs::source::{Server, Share, Source};
}
