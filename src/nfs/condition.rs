//! What is wrong with a volume or with the storage behind it (CSI 1.13, "Volume Health").

/// The severity of a condition (CSI `VolumeHealthErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The volume works with restrictions.
    Degraded,
    /// The volume cannot be used at present.
    Inaccessible,
    /// Data is lost.
    DataLoss,
}

impl Severity {
    /// The severity as a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Inaccessible => "inaccessible",
            Self::DataLoss => "data_loss",
        }
    }
}

/// A condition that is not healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The severity.
    pub severity: Severity,
    /// A stable name of the condition, in CamelCase.
    pub reason: &'static str,
    /// What is wrong, where, and what to do about it.
    pub message: String,
}
