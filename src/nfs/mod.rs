//! The vocabulary of NFS: servers, shares, names, statuses, attributes and mount options. Nothing here does any I/O.

pub mod attributes;
pub mod condition;
pub mod name;
pub mod option_table;
pub mod options;
pub mod source;
pub mod status;
pub mod text;
