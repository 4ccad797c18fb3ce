//! What a server gives out, and gets back as it is: filehandles and state IDs.

use crate::nfs4::xdr::{Read, Reader, Writer};

/// NFS4_FHSIZE.
const HANDLE: usize = 128;

/// A filehandle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle(Box<[u8]>);

impl FileHandle {
    /// Reads it.
    pub fn read(from: &mut Reader<'_>) -> Read<Self> {
        Ok(Self(from.opaque(HANDLE)?.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a server granted: an open file, or locks (`stateid4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateId {
    /// 0 in what is sent stands for the newest.
    seqid: u32,
    other: [u8; 12],
}

impl StateId {
    /// Stands for no open file (RFC 8881, section 8.2.3).
    pub const ANONYMOUS: Self = Self { seqid: 0, other: [0; 12] };
    /// Stands for the file that was opened before in the same compound.
    pub const CURRENT: Self = Self { seqid: 1, other: [0; 12] };

    /// Writes it.
    pub fn write(self, to: &mut Writer) {
        to.u32(self.seqid).fixed(&self.other);
    }

    /// The state, whatever happens to it later.
    pub fn read(from: &mut Reader<'_>) -> Read<Self> {
        let _seqid = from.u32()?;
        Ok(Self { seqid: 0, other: from.array()? })
    }
}
