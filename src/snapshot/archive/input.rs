//! The bytes of an archive as they come from the export, decompressed on the way.
//!
//! Nothing blocks here: what was read is pushed through the decompressor, which gives at most 32 KiB for each push, so that
//! memory is bounded whatever the archive says, and the work can end at any point.

use std::io::Write as _;
use std::sync::Arc;

use flate2::write::MultiGzDecoder;

use super::Stop;
use crate::export::Export;
use crate::export::fs::Fs;

/// As much as is read at once.
const CHUNK: usize = 1 << 20;
/// After so many bytes that need no waiting, others get their turn.
const TURN: usize = 1 << 20;

/// An archive that is being read.
pub(super) struct Input<F: Fs> {
    export: Arc<Export<F>>,
    file: F::Handle,
    /// Where reading goes on, and where it ends.
    at: u64,
    end: u64,
    /// What was read and is not decompressed yet, from `pushed` on.
    raw: Vec<u8>,
    pushed: usize,
    gzip: Option<Box<MultiGzDecoder<Vec<u8>>>>,
    /// What can be taken, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
    turn: usize,
}

impl<F: Fs> Input<F> {
    /// The content of `file`, which is `size` bytes long, compressed by gzip(1) or not.
    pub(super) fn new(export: Arc<Export<F>>, file: F::Handle, size: u64, gzip: bool) -> Self {
        let gzip = gzip.then(|| Box::new(MultiGzDecoder::new(Vec::new())));
        Self { export, file, at: 0, end: size, raw: Vec::new(), pushed: 0, gzip, ready: Vec::new(), taken: 0, turn: 0 }
    }

    /// Some bytes, at most `most`; none at the end.
    ///
    /// # Errors
    /// [`Stop::Damaged`] where it cannot be decompressed, or the checksum of what was does not fit.
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

    /// Goes a step on; false where there is no more.
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

    /// Takes what the decompressor still has; false where there was nothing.
    fn finish(&mut self) -> Result<bool, Stop> {
        let Some(gzip) = self.gzip.take() else { return Ok(false) };
        self.ready = gzip.finish().map_err(|error| not_gzip(&error))?;
        Ok(true)
    }
}

fn not_gzip(error: &std::io::Error) -> Stop {
    Stop::Damaged(format!("cannot be decompressed: {error}"))
}
