//! Volumes: their identifiers, parameters, records and operations.

pub mod access;
pub mod change;
pub mod claims;
pub mod create;
pub mod delete;
pub mod directory;
pub mod directory_owners;
pub mod exports;
pub mod fill;
pub mod find;
pub mod health;
pub mod id;
pub mod kept;
pub mod kubernetes;
pub mod limits;
pub mod lock;
pub mod on_delete;
pub mod overcommit;
pub mod parameters;
pub mod quota;
pub mod record;
pub mod record_file;
pub mod space;
pub mod survey;
pub mod whole_export;
