//! The mount table of this process's namespace.
