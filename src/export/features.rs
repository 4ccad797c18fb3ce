//! What an export's server has shown that it can do. Only what was seen is known: nothing is tried to find it out. COPY
//! is not among it, because the kernel's client copies by itself where the server does not, and does not say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::nfs::status::{FsResult, Status};

/// Something that a server may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// CLONE: content is shared at once.
    Clone,
    /// Extended attributes of users.
    Xattrs,
    /// Access control lists.
    Acls,
}

/// What is known. A clone refers to the same export.
#[derive(Debug, Clone, Default)]
pub struct Features(Arc<[AtomicU8; 3]>);

const NO: u8 = 1;
const YES: u8 = 2;

impl Features {
    /// Whether the server has it; `None` if that was not seen yet.
    pub fn get(&self, feature: Feature) -> Option<bool> {
        match self.0[feature as usize].load(Ordering::Relaxed) {
            NO => Some(false),
            YES => Some(true),
            _ => None,
        }
    }

    /// It was seen, or seen to be missing.
    pub fn note(&self, feature: Feature, has: bool) {
        self.0[feature as usize].store(if has { YES } else { NO }, Ordering::Relaxed);
    }

    /// The result of an operation that needs it. Any error but "not supported" says nothing.
    pub fn noted<T>(&self, feature: Feature, result: FsResult<T>) -> FsResult<T> {
        match &result {
            Ok(_) => self.note(feature, true),
            Err(Status::NotSupp) => self.note(feature, false),
            Err(_) => {}
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_known_when_an_operation_has_shown_it() {
        let features = Features::default();
        assert_eq!(features.get(Feature::Clone), None);
        assert_eq!(features.noted::<()>(Feature::Clone, Err(Status::NoSpc)), Err(Status::NoSpc));
        assert_eq!(features.get(Feature::Clone), None, "a full export says nothing");
        assert_eq!(features.noted(Feature::Clone, Ok(5)), Ok(5));
        assert_eq!(features.noted::<()>(Feature::Acls, Err(Status::NotSupp)), Err(Status::NotSupp));
        let same = features.clone();
        let all = [Feature::Clone, Feature::Xattrs, Feature::Acls].map(|feature| same.get(feature));
        assert_eq!(all, [Some(true), None, Some(false)]);
    }
}
