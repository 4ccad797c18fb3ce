//! The CSI services. They convert requests to domain types and results to responses, and make no system calls.

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

/// Returns an error if `volume_id` is empty.
fn present(volume_id: &str) -> Result<()> {
    if volume_id.is_empty() { Err(Error::invalid("volume_id", "missing")) } else { Ok(()) }
}

/// Converts a number to CSI's `int64`. A number that is too large becomes the maximum.
fn int64(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}
