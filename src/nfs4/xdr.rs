//! XDR (RFC 4506): writing, and reading of what may be hostile.

/// Bytes that are not what they should be: cut short, or with a length that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is malformed")]
pub struct Malformed;

impl From<Malformed> for std::io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, malformed)
    }
}

/// The result of reading.
pub type Read<T> = Result<T, Malformed>;

/// Writes a message to its end.
#[derive(Debug, Clone, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// An unsigned integer.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// An unsigned hyper integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A hyper integer.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    /// Fixed-length opaque data, whose length is a multiple of four.
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        debug_assert_eq!(bytes.len() % 4, 0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Variable-length opaque data, or a string.
    pub fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(length(bytes.len()));
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Numbers with their count before them, as `bitmap4` is.
    pub fn list(&mut self, numbers: &[u32]) -> &mut Self {
        self.u32(length(numbers.len()));
        for number in numbers {
            self.u32(*number);
        }
        self
    }
}

/// A length in a message. Nothing that this client writes comes near the limit.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Reads a message from the front. No length in it is trusted.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// An unsigned integer.
    pub fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// An unsigned hyper integer.
    pub fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A hyper integer.
    pub fn i64(&mut self) -> Read<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A boolean.
    pub fn bool(&mut self) -> Read<bool> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Fixed-length opaque data, whose length is a multiple of four.
    pub fn array<const LENGTH: usize>(&mut self) -> Read<[u8; LENGTH]> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    /// Variable-length opaque data, or a string, of at most this many bytes.
    pub fn opaque(&mut self, most: usize) -> Read<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > most {
            return Err(Malformed);
        }
        let opaque = self.bytes(length)?;
        self.bytes(length.wrapping_neg() % 4)?;
        Ok(opaque)
    }

    /// Numbers with their count before them, as `bitmap4` is; at most this many.
    pub fn list(&mut self, most: usize) -> Read<Vec<u32>> {
        let count = self.u32()? as usize;
        if count > most {
            return Err(Malformed);
        }
        (0..count).map(|_| self.u32()).collect()
    }

    fn bytes(&mut self, length: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            number: u32, long: u64, signed: i64, flag: bool, bytes: Vec<u8>,
            list in prop::collection::vec(any::<u32>(), 0..9),
        ) {
            let mut writer = Writer::default();
            writer.u32(number).opaque(&bytes).u64(long).bool(flag).list(&list).i64(signed).fixed(b"tail");
            let mut reader = Reader::new(&writer.0);
            prop_assert_eq!(reader.u32(), Ok(number));
            prop_assert_eq!(reader.opaque(bytes.len()), Ok(&*bytes));
            prop_assert_eq!(reader.u64(), Ok(long));
            prop_assert_eq!(reader.bool(), Ok(flag));
            prop_assert_eq!(reader.list(8), Ok(list));
            prop_assert_eq!(reader.i64(), Ok(signed));
            prop_assert_eq!(reader.array(), Ok(*b"tail"));
            prop_assert!(reader.rest().is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_give_more_than_is_there(bytes: Vec<u8>, most: usize) {
            let opaque = Reader::new(&bytes).opaque(most);
            prop_assert!(opaque.is_err() || opaque.is_ok_and(|opaque| opaque.len() <= bytes.len().min(most)));
            let list = Reader::new(&bytes).list(most);
            prop_assert!(list.is_err() || list.is_ok_and(|list| list.len() * 4 < bytes.len()));
        }
    }
}
