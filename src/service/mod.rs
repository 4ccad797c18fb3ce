//! The CSI services: request to domain type to response, and no system call.

pub(crate) mod call_span;
pub(crate) mod capability;
pub(crate) mod controller;
pub(crate) mod deadline;
pub(crate) mod health_response;
pub(crate) mod identity;
pub(crate) mod node;
pub mod proto;
pub(crate) mod publish_request;
pub(crate) mod status;

use crate::error::{Error, Result};

/// Refuses an empty `volume_id`.
fn present(volume_id: &str) -> Result<()> {
    if volume_id.is_empty() { Err(Error::invalid("volume_id", "missing")) } else { Ok(()) }
}

/// A figure as CSI has it: an `int64`, which is the largest one where it does not fit.
fn int64(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}
