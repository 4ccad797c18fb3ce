//! What the driver remembers of a volume: a small JSON file on the export.
