//! The CSI services: request to domain type to response, and no system call.

pub mod call_span;
pub mod capability;
pub mod controller;
pub mod deadline;
pub mod identity;
pub mod node;
pub mod proto;
pub mod publish_request;
pub mod status;
pub mod volume_health;

use crate::error::{Error, Result};

/// Refuses an empty `volume_id`.
fn present(volume_id: &str) -> Result<()> {
    if volume_id.is_empty() { Err(Error::invalid("volume_id", "missing")) } else { Ok(()) }
}

/// A figure as CSI has it: an `int64`, which is the largest one where it does not fit.
fn int64(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}
