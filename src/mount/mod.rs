//! Reaching an NFS server: its addresses, whether it answers, the gate to what blocks, and the kernel's mount calls.

mod fsmount;
pub mod gate;
pub mod local;
pub mod mounter;
pub mod reachability;
mod resolve;
pub(crate) mod rpc;
pub mod table;
mod threads;
mod version;
mod version3;
