//! kubelet's plugin registration.
