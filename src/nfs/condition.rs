//! What is wrong with a volume or with the storage behind it (CSI 1.13, "Volume Health").

/// How bad it is (CSI `VolumeHealthErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It works with restrictions.
    Degraded,
    /// It cannot be used at present.
    Inaccessible,
    /// Data is lost.
    DataLoss,
}

/// A condition that is not healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name for it, in CamelCase.
    pub reason: &'static str,
    /// What is wrong, where, and what to do about it.
    pub message: String,
}
