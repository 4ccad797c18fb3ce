//! Snapshots, and volumes that are created from snapshots or from other volumes.
//!
//! Each of them is a copied directory tree, and becomes visible only when the copy is complete.

pub mod archive;
pub mod content;
pub mod copies;
pub mod create_snapshot;
pub mod create_volume;
pub mod delete;
pub mod delete_snapshot;
pub mod delete_volume;
pub mod find;
pub mod group;
pub mod group_record;
pub mod id;
pub mod in_use;
pub mod jobs;
pub mod lock;
pub mod parameters;
pub mod record;
pub mod single;
pub mod snapshot_backed;
pub mod tree;
pub mod turns;
