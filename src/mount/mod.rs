//! NFS mounting: options, reachability, the kernel's mount calls, and volumes published on a node.

pub mod compare;
pub mod condition;
mod detached;
mod ending;
pub mod gate;
pub mod health;
pub mod local;
pub mod nfs;
pub mod option_table;
pub mod options;
pub mod probe;
pub mod publish;
pub mod reachability;
pub mod requested;
mod resolve;
pub mod root;
mod rpc;
pub mod source;
pub mod stats;
pub mod table;
pub mod target;
mod threads;
pub mod turns;
pub mod unpublish;
pub mod version;
mod version3;
pub mod whose;
