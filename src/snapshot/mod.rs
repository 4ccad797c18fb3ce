//! Snapshots, and volumes made from snapshots and from volumes: trees that are copied on the server, and are never there by
//! half.

pub mod archive;
pub mod clone;
pub mod group;
pub mod group_record;
pub mod id;
pub mod jobs;
pub mod lifecycle;
pub mod parameters;
pub mod record;
pub mod snapshot_backed;
pub mod tree;
pub mod usage;
