//! An export in memory, for tests: it counts operations, loses power, delays, and lets controllers race.
