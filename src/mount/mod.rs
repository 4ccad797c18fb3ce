//! NFS mounting: options, reachability, the kernel's mount calls, and volumes published on a node.

mod detached;
pub mod gate;
pub mod health;
pub mod nfs;
mod option_table;
pub mod options;
pub mod publish;
pub mod reachability;
mod resolve;
mod rpc;
pub mod source;
pub mod stats;
pub mod table;
mod version;
mod version3;
