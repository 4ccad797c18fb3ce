//! The CSI services: request to domain type to response, and no system call.

pub mod call_span;
pub mod capability;
pub mod condition;
pub mod controller;
pub mod deadline;
pub mod detached;
pub mod identity;
pub mod node;
pub mod proto;
pub mod publish;
pub mod status;

/// A figure as CSI has it: an `int64`, which is the largest one where it does not fit.
fn int64(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}
