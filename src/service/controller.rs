//! CSI Controller.
