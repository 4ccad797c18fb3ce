//! csi-nfs: a CSI driver for NFS.
//!
//! ARCHITECTURE.md describes these modules. They are listed from the top layer to the bottom layer. A module imports
//! only from modules below it; `e2e/tests/layers.rs` checks this.
#![warn(missing_docs)]

/// Builds the driver from its configuration, starts it and stops it.
pub mod driver;

/// The command line and the environment, checked before anything is opened.
pub mod config;

/// What an issue about the driver needs, as one tar.
pub mod bundle;

/// The socket, serving, logs, metrics, HTTP, status, kubelet's registration, and the probe.
pub mod server;

/// The CSI services: request to domain type to response.
pub mod service;

/// Tries what the driver needs of an export, and says what to do.
pub mod doctor;

/// Finds and repairs inconsistencies on an export.
pub mod check;

/// The quota agent, which runs on the NFS server and enforces the sizes of volumes.
pub mod agent;

/// Looks at the exports in use in the background, for the metrics.
mod watch;

/// Snapshots, restores, clones and groups: whole workflows.
mod snapshot;

/// Volumes: identifiers, parameters, records, and the operations on an export.
mod volume;

/// The node's operations: publish, unpublish, health and statistics.
mod node;

/// An export: the interface to it, its implementation, connections, locks, layout, trash and tree copy.
mod export;

/// NFS servers: name resolution, reachability, the gate for blocking calls, and mounts.
mod mount;

/// A client of NFSv4.1 and NFSv4.2 in user space.
mod nfs4;

/// The vocabulary of NFS, without I/O.
pub mod nfs;

/// The error type of the domain.
pub mod error;

/// Shared test code: an export in memory, the contract of the `Fs` interface, crashes, races and scenarios. Releases do
/// not contain it.
#[cfg(any(test, feature = "e2e"))]
pub mod testing;

/// The items that only the programs under `e2e/` use. Releases do not contain it.
#[cfg(feature = "e2e")]
pub mod e2e {
    pub use crate::export::copy::{Options, copy_tree};
    pub use crate::export::fs::{Fs, Name, Status};
    pub use crate::export::kernel::{KernelFs, KernelHandle};
    pub use crate::export::pool::Connect;
    pub use crate::export::progress::{Progress, Totals};
    pub use crate::export::user::{UserFs, UserSpace};
    pub use crate::mount::gate::{Gates, THREADS};
    pub use crate::mount::mounter::Mounter;
    pub use crate::mount::reachability::Reachability;
    pub use crate::nfs::option_table::{Effect, KNOWN, examples};
    pub use crate::nfs::options::MountOptions;
    pub use crate::nfs::source::{Server, Share, Source};
}
