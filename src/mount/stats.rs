//! The figures of a published volume.
