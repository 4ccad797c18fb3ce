//! NFS servers: name resolution, reachability, the gate for blocking calls, and mounts.

pub mod backoff;
pub mod beneath;
pub mod compare;
mod fsmount;
pub mod gate;
mod in_force;
mod inspect;
pub mod local;
pub mod mounter;
pub mod new_mount;
mod older;
pub mod reachability;
mod resolve;
pub mod rpc;
mod security;
pub mod selinux;
pub mod slow;
pub mod table;
pub mod thread_limits;
mod threads;
pub mod version;
mod version3;
pub mod weak_map;
