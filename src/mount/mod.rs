//! Reaching an NFS server: its addresses, whether it answers, the gate to what blocks, and the kernel's mount calls.

pub mod compare;
mod fsmount;
pub mod gate;
mod in_force;
mod inspect;
pub mod local;
pub mod mounter;
pub mod reachability;
mod resolve;
pub mod rpc;
pub mod table;
mod threads;
pub mod version;
mod version3;
pub mod weak_map;
