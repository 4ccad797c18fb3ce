//! CSI Node.
