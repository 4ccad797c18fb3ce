//! Code that tests share: an export in memory, the contract of the interface to an export, the harness that crashes and
//! races controllers, the scenarios that run on it, and the targets of fuzzing. No release contains this module.

pub mod conformance;
pub mod fuzz;
pub mod memory;

#[cfg(test)]
mod agent_crashes;
#[cfg(test)]
mod agent_order;
#[cfg(test)]
mod agent_races;
#[cfg(test)]
mod archive_crashes;
#[cfg(test)]
pub(crate) mod crash_harness;
#[cfg(test)]
pub(crate) mod create;
#[cfg(test)]
mod directory_decisions;
#[cfg(test)]
pub(crate) mod fake_server;
#[cfg(test)]
mod late_copies;
#[cfg(test)]
mod limits;
#[cfg(test)]
pub(crate) mod local_directory;
#[cfg(test)]
pub(crate) mod log;
#[cfg(test)]
pub(crate) mod memory_servers;
#[cfg(test)]
mod model;
#[cfg(test)]
mod nfs_server;
#[cfg(test)]
mod promised;
#[cfg(test)]
mod shared_directories;
#[cfg(test)]
pub(crate) mod snapshot_crashes;
#[cfg(test)]
pub(crate) mod volume_crashes;
