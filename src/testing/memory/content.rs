//! The bytes of a file in memory: sparse, and cheap to copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::export::fs::{FsResult, Status};

const BLOCK: usize = 4096;

/// Content as blocks; a block that was never written is a hole. A copy shares its blocks with the original.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    size: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK]>>,
}

impl Content {
    /// The size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes allocated on the server.
    pub(super) fn used(&self) -> u64 {
        (self.blocks.len() * BLOCK) as u64
    }

    /// The number of bytes by which a write would increase [`Self::used`].
    pub(super) fn growth(&self, offset: u64, length: usize) -> u64 {
        let new = pieces(offset, length).filter(|piece| !self.blocks.contains_key(&piece.block)).count();
        (new * BLOCK) as u64
    }

    /// Up to `length` bytes from `offset`; holes read as zeros.
    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let left = self.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        let mut data = vec![0; length];
        for piece in pieces(offset, length) {
            if let Some(block) = self.blocks.get(&piece.block) {
                data[piece.at..piece.at + piece.length]
                    .copy_from_slice(&block[piece.start..piece.start + piece.length]);
            }
        }
        data
    }

    /// Writes `data` at `offset`. Returns [`Status::FBig`] if the end is not a valid offset.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> FsResult<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= i64::MAX as u64).ok_or(Status::FBig)?;
        for piece in pieces(offset, data.len()) {
            let block = self.blocks.entry(piece.block).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[piece.start..piece.start + piece.length]
                .copy_from_slice(&data[piece.at..piece.at + piece.length]);
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Truncates the content, or extends it by a hole. Returns [`Status::FBig`] if no file can have this size.
    pub(super) fn set_size(&mut self, size: u64) -> FsResult<()> {
        if size > i64::MAX as u64 {
            return Err(Status::FBig);
        }
        self.blocks.retain(|block, _| block * (BLOCK as u64) < size);
        if let Some(last) = self.blocks.get_mut(&(size / BLOCK as u64)) {
            Arc::make_mut(last)[(size % BLOCK as u64) as usize..].fill(0);
        }
        self.size = size;
        Ok(())
    }

    /// The first offset at or after `offset` that is not in a hole; `None` if there is none.
    pub(super) fn data_from(&self, offset: u64) -> Option<u64> {
        let (block, _) = self.blocks.range(offset / BLOCK as u64..).next()?;
        Some(offset.max(block * BLOCK as u64))
    }

    /// The first offset at or after `offset` that is in a hole; otherwise the end.
    pub(super) fn hole_from(&self, offset: u64) -> u64 {
        let mut block = offset / BLOCK as u64;
        while self.blocks.contains_key(&block) {
            block += 1;
        }
        offset.max(block * BLOCK as u64).min(self.size)
    }
}

/// The part of a range that lies in one block.
struct Piece {
    block: u64,
    /// The start of the piece in the block, and in the range.
    start: usize,
    at: usize,
    length: usize,
}

fn pieces(offset: u64, length: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < length).then(|| {
            let position = offset + at as u64;
            let start = (position % BLOCK as u64) as usize;
            let piece = Piece { block: position / BLOCK as u64, start, at, length: (BLOCK - start).min(length - at) };
            at += piece.length;
            piece
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn content_reads_as_a_plain_buffer_would(
            writes in prop::collection::vec((0u64..20_000, prop::collection::vec(any::<u8>(), 0..9_000)), 0..8),
            offset in 0u64..30_000,
            length in 0usize..30_000,
        ) {
            let (mut content, mut plain) = (Content::default(), Vec::new());
            for (offset, data) in writes {
                content.write(offset, &data).unwrap();
                let end = offset as usize + data.len();
                if !data.is_empty() && plain.len() < end {
                    plain.resize(end, 0);
                }
                if !data.is_empty() {
                    plain[offset as usize..end].copy_from_slice(&data);
                }
            }
            prop_assert_eq!(content.size(), plain.len() as u64);
            let start = plain.len().min(offset as usize);
            let end = plain.len().min(start + length);
            prop_assert_eq!(content.read(offset, length), &plain[start..end]);
        }
    }

    #[test]
    fn a_hole_takes_no_room() {
        let mut content = Content::default();
        content.write(1 << 40, b"far").unwrap();
        assert_eq!((content.size(), content.used()), ((1 << 40) + 3, 4096));
        assert_eq!(content.read(1 << 39, 2), [0, 0]);
    }

    #[test]
    fn a_write_beyond_the_largest_offset_is_refused() {
        assert_eq!(Content::default().write(i64::MAX as u64, b"x"), Err(Status::FBig));
        assert_eq!(Content::default().write(u64::MAX, b"x"), Err(Status::FBig));
    }
}
