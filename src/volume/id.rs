//! Volume identifiers, interchangeable with those of csi-driver-nfs.
