//! Harnesses that only tests need.

mod model;
