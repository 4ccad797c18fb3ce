//! The generated wire types of CSI 1.13 and of kubelet's plugin registration, and nothing else.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// `csi.v1`: `proto/csi.proto`.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// `pluginregistration`: `proto/pluginregistration.proto`.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
