//! The one way to a blocking system call: bounded in number and in waiting.
