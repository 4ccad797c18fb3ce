//! The numbers of NFSv4.1 and NFSv4.2: operations and errors (RFC 5662, RFC 7863, RFC 8276).

use crate::nfs::status::Status;

/// Operations (`nfs_opnum4`), by their names in the RFCs.
pub mod op {
    pub const CLOSE: u32 = 4;
    pub const COMMIT: u32 = 5;
    pub const CREATE: u32 = 6;
    pub const GETATTR: u32 = 9;
    pub const GETFH: u32 = 10;
    pub const LINK: u32 = 11;
    pub const LOCK: u32 = 12;
    pub const LOCKU: u32 = 14;
    pub const LOOKUP: u32 = 15;
    pub const LOOKUPP: u32 = 16;
    pub const NVERIFY: u32 = 17;
    pub const OPEN: u32 = 18;
    pub const PUTFH: u32 = 22;
    pub const PUTROOTFH: u32 = 24;
    pub const READ: u32 = 25;
    pub const READDIR: u32 = 26;
    pub const READLINK: u32 = 27;
    pub const REMOVE: u32 = 28;
    pub const RENAME: u32 = 29;
    pub const SAVEFH: u32 = 32;
    pub const SETATTR: u32 = 34;
    pub const VERIFY: u32 = 37;
    pub const WRITE: u32 = 38;
    pub const EXCHANGE_ID: u32 = 42;
    pub const CREATE_SESSION: u32 = 43;
    pub const DESTROY_SESSION: u32 = 44;
    pub const SEQUENCE: u32 = 53;
    pub const DESTROY_CLIENTID: u32 = 57;
    pub const RECLAIM_COMPLETE: u32 = 58;
    pub const COPY: u32 = 60;
    pub const SEEK: u32 = 69;
    pub const CLONE: u32 = 71;
    pub const GETXATTR: u32 = 72;
    pub const SETXATTR: u32 = 73;
    pub const LISTXATTRS: u32 = 74;
}

/// An error of an operation (`nfsstat4`) by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

/// By their names in RFC 8881, section 15.1, without NFS4ERR_.
impl Code {
    pub const NOENT: Self = Self(2);
    pub const NXIO: Self = Self(6);
    pub const XDEV: Self = Self(18);
    pub const INVAL: Self = Self(22);
    pub const BADHANDLE: Self = Self(10_001);
    pub const BAD_COOKIE: Self = Self(10_003);
    pub const NOTSUPP: Self = Self(10_004);
    pub const DELAY: Self = Self(10_008);
    pub const SAME: Self = Self(10_009);
    pub const DENIED: Self = Self(10_010);
    pub const EXPIRED: Self = Self(10_011);
    pub const LOCKED: Self = Self(10_012);
    pub const GRACE: Self = Self(10_013);
    pub const FHEXPIRED: Self = Self(10_014);
    pub const WRONGSEC: Self = Self(10_016);
    pub const MINOR_VERS_MISMATCH: Self = Self(10_021);
    pub const STALE_CLIENTID: Self = Self(10_022);
    pub const STALE_STATEID: Self = Self(10_023);
    pub const BAD_STATEID: Self = Self(10_025);
    pub const NOT_SAME: Self = Self(10_027);
    pub const SYMLINK: Self = Self(10_029);
    pub const ATTRNOTSUPP: Self = Self(10_032);
    pub const OPENMODE: Self = Self(10_038);
    pub const OP_ILLEGAL: Self = Self(10_044);
    pub const ADMIN_REVOKED: Self = Self(10_047);
    pub const RETRY_UNCACHED_REP: Self = Self(10_068);
    pub const DEADSESSION: Self = Self(10_078);
    pub const BADSESSION: Self = Self(10_052);
    pub const WRONG_TYPE: Self = Self(10_083);
    pub const UNION_NOTSUPP: Self = Self(10_090);
    pub const OFFLOAD_NO_REQS: Self = Self(10_094);
    pub const NOXATTR: Self = Self(10_095);

    /// What the driver calls it. Errors of state mean that the lease is over, and of handles that the object is gone:
    /// what was opened or found before cannot be used any more.
    pub fn status(self) -> Status {
        match self {
            Self(1) => Status::Perm,
            Self::NOENT => Status::NoEnt,
            Self(13) | Self::WRONGSEC => Status::Access,
            Self(17) => Status::Exist,
            Self::XDEV => Status::XDev,
            Self(20) => Status::NotDir,
            Self(21) => Status::IsDir,
            Self::INVAL => Status::Inval,
            Self(27) => Status::FBig,
            Self(28) => Status::NoSpc,
            Self(30) => Status::RoFs,
            Self(31) => Status::MLink,
            Self(63) => Status::NameTooLong,
            Self(66) => Status::NotEmpty,
            Self(69) => Status::DQuot,
            Self(70) | Self::BADHANDLE | Self::FHEXPIRED => Status::Stale,
            Self::EXPIRED | Self::STALE_CLIENTID | Self::STALE_STATEID | Self::BAD_STATEID | Self::ADMIN_REVOKED => {
                Status::Stale
            }
            Self::NOTSUPP | Self::ATTRNOTSUPP | Self::OP_ILLEGAL | Self::UNION_NOTSUPP | Self::OFFLOAD_NO_REQS => {
                Status::NotSupp
            }
            Self::DENIED | Self::LOCKED => Status::Locked,
            Self::SYMLINK => Status::Symlink,
            Self::WRONG_TYPE => Status::WrongType,
            Self::OPENMODE | Self::BAD_COOKIE => Status::Inval,
            Self::DELAY | Self::GRACE => Status::TimedOut,
            _ => Status::Io,
        }
    }
}
