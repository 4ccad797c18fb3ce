//! Looks at the exports in use in the background, whether or not anybody calls, and keeps what was seen. The metrics
//! read it, and wait for no server.
//!
//! Each export has a task of its own, so that a server that is dead or frozen holds up the looks at its own exports
//! alone. What a look costs decides when the next one begins: the looks take at most a twentieth of the time.

pub mod exports;
pub mod figures;
mod first_seen;
mod trash_size;
pub mod volumes;
