//! Reads an archive from the export, and decompresses it.
//!
//! No thread blocks: the bytes that were read are pushed through the decompressor, which returns at most 32 KiB for
//! each push. So memory is bounded whatever the archive says, and the caller can cancel the work at any point.

use std::io::Write as _;
use std::sync::Arc;

use flate2::write::MultiGzDecoder;

use super::Stop;
use crate::export::Export;
use crate::export::fs::Fs;

/// The bytes of one read.
const CHUNK: usize = 1 << 20;
/// After so many bytes the task yields, so that other tasks run.
const TURN: usize = 1 << 20;

/// An archive that is being read.
pub(super) struct Input<F: Fs> {
    export: Arc<Export<F>>,
    file: F::Handle,
    /// The offsets of the next read and of the end.
    at: u64,
    end: u64,
    /// The bytes that were read. Those from `pushed` on are not decompressed yet.
    raw: Vec<u8>,
    pushed: usize,
    gzip: Option<Box<MultiGzDecoder<Vec<u8>>>>,
    /// The decompressed bytes. Those from `taken` on can be taken.
    ready: Vec<u8>,
    taken: usize,
    turn: usize,
}

impl<F: Fs> Input<F> {
    /// Reads `file`, which is `size` bytes long and may be compressed by gzip(1).
    pub(super) fn new(export: Arc<Export<F>>, file: F::Handle, size: u64, gzip: bool) -> Self {
        let gzip = gzip.then(|| Box::new(MultiGzDecoder::new(Vec::new())));
        Self { export, file, at: 0, end: size, raw: Vec::new(), pushed: 0, gzip, ready: Vec::new(), taken: 0, turn: 0 }
    }

    /// The next bytes, at most `most`; empty at the end.
    ///
    /// # Errors
    /// [`Stop::Damaged`] if the data cannot be decompressed, or its checksum is wrong; [`Stop::Reading`].
    pub(super) async fn take(&mut self, most: usize) -> Result<&[u8], Stop> {
        while self.taken == self.ready.len() && self.more().await? {}
        let length = most.min(self.ready.len() - self.taken);
        let from = self.taken;
        self.taken += length;
        self.turn += length;
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        Ok(&self.ready[from..from + length])
    }

    /// Reads or decompresses more bytes. Returns false at the end.
    async fn more(&mut self) -> Result<bool, Stop> {
        self.taken = 0;
        self.ready.clear();
        if self.pushed == self.raw.len() {
            let length = CHUNK.min(usize::try_from(self.end - self.at).unwrap_or(CHUNK));
            if length == 0 {
                return self.finish();
            }
            let read = self.export.fs().read(&self.file, self.at, length).await.map_err(Stop::Reading)?;
            if read.is_empty() {
                return Err(Stop::Damaged("became shorter while it was read".to_owned()));
            }
            self.at += read.len() as u64;
            (self.raw, self.pushed) = (read, 0);
        }
        match &mut self.gzip {
            None => {
                self.pushed = 0;
                self.ready = std::mem::take(&mut self.raw);
            }
            Some(gzip) => {
                self.pushed += gzip.write(&self.raw[self.pushed..]).map_err(|error| not_gzip(&error))?;
                std::mem::swap(&mut self.ready, gzip.get_mut());
            }
        }
        Ok(true)
    }

    /// Takes the last bytes from the decompressor. Returns false if that was done before.
    fn finish(&mut self) -> Result<bool, Stop> {
        let Some(gzip) = self.gzip.take() else { return Ok(false) };
        self.ready = gzip.finish().map_err(|error| not_gzip(&error))?;
        Ok(true)
    }
}

fn not_gzip(error: &std::io::Error) -> Stop {
    Stop::Damaged(format!("cannot be decompressed: {error}"))
}
