//! Is an NFS server there? Asked before a call that could block in the kernel.
