//! The exports in use: one detached mount each, kept while used, closed when idle.
