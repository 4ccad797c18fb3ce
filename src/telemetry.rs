//! Logs, and the layer that logs and counts each call.
