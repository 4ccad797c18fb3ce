//! Pax records (pax(1), "pax Header Block"): `LENGTH KEY=VALUE\n`. A value may have any bytes, also newlines.

use super::Stop;
use crate::export::fs::Time;

/// The attributes of a member that pax records give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    /// Whether the file is sparse in GNU tar's pax format, which this driver does not support.
    pub(super) sparse: bool,
}

impl Pax {
    /// Adds the attributes of these records. A later record replaces an earlier one, and an empty value removes it.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), Stop> {
        while !records.is_empty() {
            let (key, value, rest) = record(records)
                .ok_or_else(|| Stop::damaged("is damaged: a pax record does not have the form LENGTH KEY=VALUE"))?;
            records = rest;
            let wrong =
                || Stop::damaged(&format!("is damaged: the pax record `{}` has an invalid value", key.escape_ascii()));
            let value = Some(value).filter(|value| !value.is_empty());
            let number = || value.map(|value| number(value).ok_or_else(wrong)).transpose();
            let time = || value.map(|value| time(value).ok_or_else(wrong)).transpose();
            match key {
                b"path" => self.path = value.map(<[u8]>::to_vec),
                b"linkpath" => self.link = value.map(<[u8]>::to_vec),
                b"size" => self.size = number()?,
                b"uid" => self.uid = number()?,
                b"gid" => self.gid = number()?,
                b"mtime" => self.mtime = time()?,
                b"atime" => self.atime = time()?,
                _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The key and value of the first record, and the records after it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn number(text: &[u8]) -> Option<u64> {
    // `parse` alone would accept a sign.
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// A time in seconds since the epoch. It may be negative and have any number of decimals.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(number(&text[..dot])?).ok()?;
    let decimals = text.get(dot + 1..).unwrap_or_default();
    if !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| u32::from(decimals.get(at).map_or(0, |digit| digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, at| sum * 10 + digit(at));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1700000000", Some((1_700_000_000, 0)))]
    #[case("1700000000.5", Some((1_700_000_000, 500_000_000)))]
    #[case("1.1234567899", Some((1, 123_456_789)))]
    #[case("-1.25", Some((-2, 750_000_000)))]
    #[case("-3", Some((-3, 0)))]
    #[case("9223372036854775808", None)]
    #[case("1.-5", None)]
    #[case("+1", None)]
    #[case("", None)]
    fn a_time_is_read_with_its_sign_and_decimals(#[case] text: &str, #[case] expected: Option<(i64, u32)>) {
        let expected = expected.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
        assert_eq!(time(text.as_bytes()), expected);
    }

    #[test]
    fn a_name_may_hold_a_newline_and_the_last_record_counts() {
        let mut pax = Pax::default();
        pax.add(b"12 path=a\nb\n9 size=1\n9 size=2\n").unwrap();
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"a\nb"[..]), Some(2)));
    }

    #[test]
    fn an_empty_value_removes_an_earlier_record() {
        let mut pax = Pax::default();
        pax.add(b"9 size=1\n9 uid=17\n11 path=ab\n13 mtime=1.5\n8 size=\n8 path=\n7 uid=\n9 mtime=\n").unwrap();
        assert_eq!(pax, Pax::default());
    }

    #[rstest]
    fn records_of_another_form_are_refused(
        #[values(
            "x",
            "4 a=\n",
            "4 a=b\n",
            "99 path=a\n",
            "0 a=b\n",
            "1 a=b\n",
            "11 size=-12\n",
            "18446744073709551616 a=b\n"
        )]
        records: &str,
    ) {
        assert!(Pax::default().add(records.as_bytes()).is_err(), "{records:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::default().add(&bytes);
        }
    }
}
