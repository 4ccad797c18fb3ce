//! The vocabulary of NFS: servers, shares, names, statuses, attributes and mount options. Nothing here does any I/O.

pub(crate) mod attributes;
pub(crate) mod condition;
pub(crate) mod name;
pub(crate) mod option_table;
pub(crate) mod options;
pub(crate) mod source;
pub(crate) mod status;
pub mod text;
