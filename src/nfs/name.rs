//! Names in directories.

use std::fmt;

use crate::nfs::status::{FsResult, Status};

/// One name in a directory: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// NAME_MAX of Linux, and in practice of every file system that is exported over NFS.
    pub const MAX: usize = 255;

    /// Checks the bytes of a name. Returns [`Status::NameTooLong`] if there are more than 255, and [`Status::Inval`] if
    /// they are not a name for another reason.
    pub fn new(bytes: impl AsRef<[u8]>) -> FsResult<Self> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(Status::Inval);
        }
        if bytes.len() > Self::MAX {
            return Err(Status::NameTooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    /// The name as text; bytes that are not printable ASCII or UTF-8 are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}
