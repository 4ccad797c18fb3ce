//! The `csi-nfs` binary.
fn main() {}
