//! Volumes on an export: create, delete, expand, modify, list.
