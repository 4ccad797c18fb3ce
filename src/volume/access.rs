//! Access modes and capabilities.
