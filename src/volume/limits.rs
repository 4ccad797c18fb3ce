//! The limits that a class can set for its volumes.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nfs::text::excerpt;

const GIB: u64 = 1 << 30;
/// Ratios are stored in thousandths.
const ONE: u64 = 1000;

/// Whether a volume's size is enforced as a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quota {
    /// Always, also for clients that write as root. A volume exists only with its limit in force.
    Required,
    /// Always, but on a file system that does not limit clients that write as root (ext4), not for those.
    RequiredExceptRoot,
    /// If an agent runs on the server.
    Preferred,
    /// Never.
    None,
}

impl Quota {
    /// Parses the parameter. Errors call it `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "required" => Ok(Self::Required),
            "required-except-root" => Ok(Self::RequiredExceptRoot),
            "preferred" => Ok(Self::Preferred),
            "none" => Ok(Self::None),
            _ => Err(Error::invalid(
                field,
                format!("`{}` is not one of required, required-except-root, preferred and none", excerpt(text)),
            )),
        }
    }

    /// The parameter's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::RequiredExceptRoot => "required-except-root",
            Self::Preferred => "preferred",
            Self::None => "none",
        }
    }

    /// Whether a volume must have its limit in force.
    pub fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::RequiredExceptRoot)
    }
}

/// How many inodes a volume may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Inodes {
    /// This many; 0 means no limit.
    Count(u64),
    /// This many for each GiB of the volume's size, rounded up; 0 means no limit.
    PerGiB(u64),
}

impl Inodes {
    /// Parses `100000` or `65536/Gi`.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let (digits, inodes): (_, fn(u64) -> Self) = match text.strip_suffix("/Gi") {
            Some(digits) => (digits, Self::PerGiB),
            None => (text, Self::Count),
        };
        match digits.parse() {
            Ok(number) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(inodes(number)),
            _ => Err(Error::invalid(
                field,
                format!("`{}` is neither a number nor a number per GiB, such as 65536/Gi", excerpt(text)),
            )),
        }
    }

    /// The limit for a volume of this size; `None` if there is no limit.
    pub fn of(self, bytes: u64) -> Option<u64> {
        let inodes = match self {
            Self::Count(inodes) => inodes,
            Self::PerGiB(inodes) => inodes.saturating_mul(bytes.div_ceil(GIB)),
        };
        Some(inodes).filter(|&inodes| inodes > 0)
    }
}

impl From<Inodes> for String {
    fn from(inodes: Inodes) -> Self {
        match inodes {
            Inodes::Count(inodes) => inodes.to_string(),
            Inodes::PerGiB(inodes) => format!("{inodes}/Gi"),
        }
    }
}

impl TryFrom<String> for Inodes {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse("inodes", &text)
    }
}

/// How many times its size an export may promise to volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Overcommit(u64);

impl Overcommit {
    /// Parses a ratio such as `1.0` or `1.25`: from 0.001 to 1000, with at most three decimals.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let thousandths = format!("{whole}{part:0<3}").parse().ok();
        match thousandths.filter(|_| digits(whole, 4) && digits(part, 3)) {
            Some(ratio) if (1..=1000 * ONE).contains(&ratio) => Ok(Self(ratio)),
            _ => Err(Error::invalid(
                field,
                format!("`{}` is not a ratio from 0.001 to 1000, such as 1.0 or 1.25", excerpt(text)),
            )),
        }
    }

    /// How many bytes an export of this size may promise to volumes.
    pub fn of(self, bytes: u64) -> u64 {
        let most = u128::from(bytes) * u128::from(self.0) / u128::from(ONE);
        u64::try_from(most).unwrap_or(u64::MAX)
    }
}

impl From<Overcommit> for String {
    fn from(Overcommit(ratio): Overcommit) -> Self {
        let text = format!("{}.{:03}", ratio / ONE, ratio % ONE);
        let short = text.trim_end_matches('0');
        if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
    }
}

impl TryFrom<String> for Overcommit {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse("overcommit", &text)
    }
}

/// Hard limits; `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Inodes.
    pub inodes: Option<u64>,
}

impl Limits {
    /// The limits as the kernel stores them: it rounds bytes up to whole KiB.
    pub fn rounded(self) -> Self {
        Self { bytes: self.bytes.map(|bytes| bytes.div_ceil(1024).saturating_mul(1024)), ..self }
    }

    /// Whether there is a limit.
    pub fn any(self) -> bool {
        self.bytes.is_some() || self.inodes.is_some()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1000", Some(1000))]
    #[case("100/Gi", Some(200))]
    #[case("0", None)]
    fn inodes_are_a_number_or_a_number_for_each_gibibyte_begun(#[case] text: &str, #[case] limit: Option<u64>) {
        let inodes = Inodes::parse("inodes", text).unwrap();
        assert_eq!(inodes.of(GIB + 1), limit);
        assert_eq!(Inodes::try_from(String::from(inodes)), Ok(inodes));
    }

    #[rstest]
    #[case("")]
    #[case("/Gi")]
    #[case("-1")]
    #[case("+1")]
    #[case("1/Mi")]
    #[case("99999999999999999999")]
    fn inodes_that_are_no_number_are_refused(#[case] text: &str) {
        assert!(matches!(Inodes::parse("inodes", text), Err(Error::Invalid { .. })));
    }

    #[rstest]
    #[case("1", "1.0", 1000)]
    #[case("1.0", "1.0", 1000)]
    #[case("0.85", "0.85", 850)]
    #[case("1.125", "1.125", 1125)]
    #[case("1000", "1000.0", 1_000_000)]
    fn a_ratio_is_a_decimal_number(#[case] text: &str, #[case] written: &str, #[case] of_a_thousand: u64) {
        let ratio = Overcommit::parse("overcommit", text).unwrap();
        assert_eq!(ratio.of(1000), of_a_thousand);
        assert_eq!(String::from(ratio), written);
        assert_eq!(Overcommit::try_from(written.to_owned()), Ok(ratio));
    }

    #[rstest]
    #[case("")]
    #[case("0")]
    #[case("0.0")]
    #[case(".5")]
    #[case("1.")]
    #[case("-1")]
    #[case("+1")]
    #[case("1e3")]
    #[case("1.0001")]
    #[case("1000.001")]
    #[case("99999999999999999999999")]
    #[case("inf")]
    fn what_is_no_ratio_is_refused(#[case] text: &str) {
        assert!(matches!(Overcommit::parse("overcommit", text), Err(Error::Invalid { .. })));
    }

    #[rstest]
    fn a_quota_reads_back_as_it_is_written(
        #[values(Quota::Required, Quota::RequiredExceptRoot, Quota::Preferred, Quota::None)] quota: Quota,
    ) {
        assert_eq!(Quota::parse("quota", quota.as_str()), Ok(quota));
        assert_eq!(Quota::parse("quota", &quota.as_str().to_uppercase()), Ok(quota));
    }
}
