//! What a node does: it publishes volumes, takes them down, and tells how they are.

pub mod attach;

pub mod health;
mod keyed_mutex;
mod moved;
pub mod probe;
pub mod publish;
pub mod publish_intents;
pub mod root;
pub mod statistics_scope;
pub mod stats;
pub mod target;
pub mod unpublish;
