//! What a node does: it publishes and unpublishes volumes, and reports their health and statistics.

mod attach;
mod detach;
mod judge;
pub mod mount_health;
pub mod mount_probe;
mod moved;
mod publish;
pub mod publish_intents;
pub mod publisher;
pub mod root;
pub mod statistics_scope;
pub mod stats;
pub mod target;
mod unpublish;
