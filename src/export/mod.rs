//! The driver's side of an NFS export.

pub mod conformance;
pub mod fs;
pub mod kernel;
pub mod layout;
pub mod locks;
pub mod memory;
pub mod pool;
pub mod trash;
