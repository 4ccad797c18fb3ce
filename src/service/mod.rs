//! The CSI services: request to domain type to response, and no system call.

pub mod capability;
pub mod condition;
pub mod controller;
pub mod deadline;
pub mod detached;
pub mod identity;
pub mod node;
pub mod publish;
