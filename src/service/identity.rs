//! CSI Identity.
