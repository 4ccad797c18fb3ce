//! The CSI services: request to domain type to response, and no system call.

pub mod capability;
pub mod controller;
pub mod identity;
pub mod node;
