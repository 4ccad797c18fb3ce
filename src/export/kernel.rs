//! An export through a detached mount of the kernel's NFS client.
