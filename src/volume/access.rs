//! Access modes, capabilities (CSI `VolumeCapability`) and capacity ranges (CSI `CapacityRange`).

use std::fmt;

use crate::error::{Error, Result};
use crate::nfs::options::MountOptions;

/// How a volume is used (CSI `VolumeCapability.AccessMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// Read and write on one node.
    SingleNodeWriter,
    /// Read on one node.
    SingleNodeReaderOnly,
    /// Read on many nodes.
    MultiNodeReaderOnly,
    /// Read on many nodes, write on one.
    MultiNodeSingleWriter,
    /// Read and write on many nodes.
    MultiNodeMultiWriter,
    /// Read and write at one target path on one node.
    SingleNodeSingleWriter,
    /// Read and write at many target paths on one node.
    SingleNodeMultiWriter,
}

impl AccessMode {
    /// Whether this mode forbids writing.
    pub fn is_read_only(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }
}

/// A use of a volume that the driver can serve: a mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The access mode.
    pub mode: AccessMode,
    /// The options to mount with.
    pub mount_options: MountOptions,
    /// The group to give to the volume's root directory (VOLUME_MOUNT_GROUP).
    pub group: Option<u32>,
}

/// The requested capacity, in bytes (CSI `CapacityRange`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapacityRange {
    /// The minimum; 0 if the request has none.
    required: u64,
    /// The maximum; `None` if the request has none.
    limit: Option<u64>,
}

impl fmt::Display for CapacityRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "required_bytes {}, limit_bytes {}", self.required, self.limit.unwrap_or(0))
    }
}

impl CapacityRange {
    /// Converts CSI's fields, in bytes. 0 means "not set".
    ///
    /// # Errors
    /// [`Error::Invalid`] for a negative number; [`Error::CapacityOutOfRange`] if `limit` is less than `required`.
    pub fn new(required: i64, limit: i64) -> Result<Self> {
        let positive = |field: &str, bytes: i64| {
            u64::try_from(bytes)
                .map_err(|_| Error::invalid(format!("capacity_range.{field}"), format!("{bytes} is negative")))
        };
        let required = positive("required_bytes", required)?;
        let limit = Some(positive("limit_bytes", limit)?).filter(|&limit| limit > 0);
        if limit.is_some_and(|limit| limit < required) {
            return Err(Error::CapacityOutOfRange(format!(
                "limit_bytes {} is less than required_bytes {required}",
                limit.unwrap_or_default()
            )));
        }
        Ok(Self { required, limit })
    }

    /// The minimum in bytes; 0 if the request has none.
    pub fn required(self) -> u64 {
        self.required
    }

    /// The capacity of a new volume in bytes: the minimum, otherwise the maximum, otherwise 0.
    pub fn choose(self) -> u64 {
        if self.required > 0 { self.required } else { self.limit.unwrap_or(0) }
    }

    /// Whether the range contains this capacity.
    pub fn allows(self, capacity: u64) -> bool {
        capacity >= self.required && self.limit.is_none_or(|limit| capacity <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_chooses_what_is_required_and_allows_up_to_its_limit() {
        let range = CapacityRange::new(10, 20).unwrap();
        assert_eq!(range.choose(), 10);
        assert!(range.allows(10) && range.allows(20) && !range.allows(9) && !range.allows(21));
        assert_eq!(CapacityRange::new(0, 20).unwrap().choose(), 20);
        assert!(CapacityRange::new(0, 0).unwrap().allows(u64::MAX));
    }

    #[test]
    fn a_range_that_holds_nothing_is_out_of_range_and_a_negative_one_invalid() {
        assert!(matches!(CapacityRange::new(20, 10), Err(Error::CapacityOutOfRange(_))));
        assert!(matches!(CapacityRange::new(-1, 0), Err(Error::Invalid { .. })));
        assert!(matches!(CapacityRange::new(0, -1), Err(Error::Invalid { .. })));
    }
}
