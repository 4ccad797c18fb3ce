//! The end-to-end tests: the driver's binary on real NFS servers. `e2e/vm/run` runs them (see `e2e/README.md`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "these are tests")]

mod access;
mod addresses;
mod archives;
mod bad_input;
mod check;
mod concurrent_controllers;
mod conformance;
mod copy;
mod crashes;
mod delete;
mod fs_group;
mod groups;
mod health;
mod idempotency;
mod in_force;
mod list;
mod mounting;
mod options;
mod overcommit;
mod process;
mod provision;
mod quota;
mod quota_copies;
mod quota_load;
mod quota_projects;
mod refused_copies;
mod registration;
mod round_trip;
mod sanity;
mod share_alone;
mod snapshots;
mod support;
mod unmounting;
mod unreachable;
mod versions;
