//! The driver's private directory on an export.
