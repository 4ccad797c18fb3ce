//! The parameters of a StorageClass.
