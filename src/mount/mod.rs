//! NFS mounting: options, reachability, the kernel's mount calls, and volumes published on a node.

pub mod detached;
pub mod gate;
pub mod health;
pub mod nfs;
pub mod options;
pub mod publish;
pub mod reachability;
pub mod rpc;
pub mod source;
pub mod stats;
pub mod table;
pub mod version;
pub mod version3;
