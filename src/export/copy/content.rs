//! Content of files: cloned, or copied without the holes.
//!
//! Where the server cannot clone, it is asked to copy small files (COPY), which takes one operation in place of two. Larger ones
//! Linux's server copies asynchronously, and its client asks whether they are done after three seconds: they are read and
//! written here (see `docs/benchmarks.md`). As soon as a small one takes long, COPY is not asked for any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future;
use tokio::time::Instant;

use super::Copy;
use crate::export::copy::entry::Place;
use crate::export::copy::error::{Side, Stop};
use crate::export::fs::{Attr, Fs, Seek, Status};

/// As much as is read and written at once.
const CHUNK: u64 = 1 << 20;
/// As much as is written before it is committed while more is read: what the client keeps back, and what a commit may take,
/// are bounded by it.
const PART: u64 = 32 << 20;
/// Files up to this size that have as much allocated as they are long are taken to have no holes.
const NO_HOLES: u64 = 64 << 10;
/// A server that takes longer for the copy of so small a file does more than copying it. Others may be busy.
const LONG: Duration = Duration::from_secs(1);
/// The unit in which servers allocate.
const BLOCK: usize = 4096;

// What is tried, for errors.

const READING: &str = "reading";
const WRITING: &str = "writing";
const CLONING: &str = "cloning";
const OFFLOADING: &str = "having the server copy";
const SEEKING: &str = "finding the holes of";
const COMMITTING: &str = "committing";

/// How files can be copied, as far as it is known.
pub(super) struct Ways {
    clone: AtomicBool,
    /// A file was cloned.
    cloned: AtomicBool,
    copy: AtomicBool,
}

impl Ways {
    pub(super) fn new(same_export: bool) -> Self {
        Self { clone: AtomicBool::new(same_export), cloned: AtomicBool::new(false), copy: AtomicBool::new(same_export) }
    }
}

impl<F: Fs> Copy<F> {
    /// Whether a file's content is copied in a few operations.
    pub(super) fn is_quick(&self, attr: &Attr) -> bool {
        attr.size <= CHUNK || self.shared.ways.cloned.load(Ordering::Relaxed)
    }

    /// Fills `target` with the content that `file` had when it was opened; answers the size to give it, where that is not
    /// the one it has. What is in it is on stable storage then.
    pub(super) async fn copy_content(
        &self,
        place: &Place<'_, F>,
        file: &F::Handle,
        attr: &Attr,
        target: &F::Handle,
    ) -> Result<Option<u64>, Stop> {
        if attr.size == 0 {
            return Ok(None);
        }
        if self.shared.ways.clone.load(Ordering::Relaxed) {
            match self.target.clone_file(file, target).await {
                Ok(size) => {
                    self.shared.ways.cloned.store(true, Ordering::Relaxed);
                    self.shared.progress.bytes(attr.size);
                    // What was added since is no part of it.
                    return Ok((size > attr.size).then_some(attr.size));
                }
                Err(Status::NotSupp | Status::XDev) => {
                    self.shared.ways.clone.store(false, Ordering::Relaxed);
                    self.shared.ways.cloned.store(false, Ordering::Relaxed);
                }
                Err(status) => return place.source(CLONING, Err(status)),
            }
        }
        if has_no_holes(attr) && self.shared.ways.copy.load(Ordering::Relaxed) {
            let start = Instant::now();
            let copied = self.target.copy(file, target, 0, attr.size).await;
            if start.elapsed() > LONG {
                self.shared.ways.copy.store(false, Ordering::Relaxed);
            }
            match copied {
                Ok(copied) if copied == attr.size => {
                    place.target(COMMITTING, self.target.commit(target).await)?;
                    self.shared.progress.bytes(attr.size);
                    return Ok(None);
                }
                // It was cut off meanwhile, or the server does not go on.
                Ok(_) => {}
                Err(Status::NotSupp | Status::XDev) => self.shared.ways.copy.store(false, Ordering::Relaxed),
                Err(status) => return place.source(OFFLOADING, Err(status)),
            }
        }
        self.copy_data(place, file, attr, target).await
    }

    async fn copy_data(
        &self,
        place: &Place<'_, F>,
        file: &F::Handle,
        attr: &Attr,
        target: &F::Handle,
    ) -> Result<Option<u64>, Stop> {
        let mut rest = Rest::new(attr);
        let mut part = self.copy_part(place, file, target, &mut rest).await?;
        while part > 0 {
            let commit = async { place.target(COMMITTING, self.target.commit(target).await).map_err(Stop::from) };
            (part, ()) = future::try_join(self.copy_part(place, file, target, &mut rest), commit).await?;
        }
        Ok((rest.size != rest.written).then_some(rest.size))
    }

    /// Copies up to [`PART`] bytes of data; answers how many.
    async fn copy_part(
        &self,
        place: &Place<'_, F>,
        file: &F::Handle,
        target: &F::Handle,
        rest: &mut Rest,
    ) -> Result<u64, Stop> {
        let mut copied = 0;
        while copied < PART && rest.at < rest.size {
            if rest.at >= rest.data_end && !self.next_data(place, file, rest).await? {
                break;
            }
            let length = CHUNK.min(rest.data_end - rest.at);
            let data = place.source(READING, self.source.read(file, rest.at, length as usize).await)?;
            let read = data.len() as u64;
            self.shared.progress.bytes(read);
            for (offset, data) in rest.allocated(data) {
                rest.written = offset + data.len() as u64;
                copied += data.len() as u64;
                place.target(WRITING, self.target.write(target, offset, data).await)?;
            }
            rest.at += read;
            if read < length {
                // It was cut off meanwhile.
                rest.size = rest.at;
            }
        }
        Ok(copied)
    }

    /// Goes on to where there is data; whether there is.
    async fn next_data(&self, place: &Place<'_, F>, file: &F::Handle, rest: &mut Rest) -> Result<bool, Stop> {
        let seek = async |from, what| place.source(SEEKING, self.source.seek(file, from, what).await);
        let Some(data) = seek(rest.at, Seek::Data).await?.filter(|data| *data < rest.size) else {
            self.shared.progress.bytes(rest.size - rest.at);
            rest.at = rest.size;
            return Ok(false);
        };
        let hole = seek(data, Seek::Hole).await?.unwrap_or(rest.size).min(rest.size);
        if data < rest.at || hole <= data {
            return Err(place.error(Side::Source, SEEKING, Status::Io).into());
        }
        rest.untold = data == 0 && hole == rest.size && rest.sparse;
        self.shared.progress.bytes(data - rest.at);
        (rest.at, rest.data_end) = (data, hole);
        Ok(true)
    }
}

/// Whether a file is small, and has as much allocated as it is long.
fn has_no_holes(attr: &Attr) -> bool {
    attr.used >= attr.size && attr.size <= NO_HOLES
}

/// What is left of a file to copy.
struct Rest {
    /// The size that the copy is to have.
    size: u64,
    /// Up to here everything is copied.
    at: u64,
    /// Up to here there is data.
    data_end: u64,
    /// The end of what was written.
    written: u64,
    /// Less is allocated than the file is long.
    sparse: bool,
    /// There are holes, and nobody says where: what is zero is taken for one.
    untold: bool,
}

impl Rest {
    fn new(attr: &Attr) -> Self {
        let sparse = attr.used < attr.size;
        let data_end = if has_no_holes(attr) { attr.size } else { 0 };
        Self { size: attr.size, at: 0, data_end, written: 0, sparse, untold: false }
    }

    /// The parts of what was read at [`Self::at`] that are to be written, and where.
    fn allocated(&self, data: Vec<u8>) -> Vec<(u64, Vec<u8>)> {
        if !self.untold {
            return if data.is_empty() { Vec::new() } else { vec![(self.at, data)] };
        }
        let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut offset = self.at;
        for block in data.chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                match parts.last_mut() {
                    Some((start, part)) if *start + part.len() as u64 == offset => part.extend_from_slice(block),
                    _ => parts.push((offset, block.to_vec())),
                }
            }
            offset += block.len() as u64;
        }
        parts
    }
}
