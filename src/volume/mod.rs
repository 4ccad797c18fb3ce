//! Volumes: identifiers, parameters, records and their life on an export.

pub mod access;
pub mod delete;
pub mod directory_owners;
pub mod fill;
pub mod health;
pub mod id;
pub mod kept;
pub mod lifecycle;
pub mod limits;
pub mod on_delete;
pub mod overcommit;
pub mod parameters;
pub mod quota;
pub mod record;
