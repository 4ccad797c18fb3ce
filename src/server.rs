//! The socket, serving, and a bounded drain.
