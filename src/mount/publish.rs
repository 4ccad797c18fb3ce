//! Volumes at the paths where pods want them.
