//! The node's operations: publish and unpublish volumes, and report their health and statistics.

mod attach;
mod detach;
mod judge;
mod leaving;
mod mount_conditions;
pub mod mount_health;
pub mod mount_probe;
pub mod mounts;
mod moved;
mod publish;
pub mod publish_intents;
pub mod publisher;
mod regroup;
pub mod root;
pub mod statistics_scope;
pub mod stats;
pub mod target;
mod unpublish;
