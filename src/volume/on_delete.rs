//! What happens to a volume's directory when the volume is deleted (the parameter `onDelete`).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nfs::text::excerpt;

/// What happens to a volume's directory when the volume is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// The directory is deleted.
    Delete,
    /// The directory stays where it is.
    Retain,
    /// The directory is renamed to `archived-<subDir>`.
    Archive,
}

impl OnDelete {
    /// Parses a policy. Letter case does not matter. Errors call the policy `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "delete" => Ok(Self::Delete),
            "retain" => Ok(Self::Retain),
            "archive" => Ok(Self::Archive),
            _ => {
                let shown = excerpt(text);
                Err(Error::invalid(field, format!("`{shown}` is not one of delete, retain and archive")))
            }
        }
    }

    /// The policy as parameters and identifiers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Retain => "retain",
            Self::Archive => "archive",
        }
    }
}
