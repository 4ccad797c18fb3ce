//! NFS mounts by system calls.
