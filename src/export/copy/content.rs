//! Copies the content of files: by CLONE where the server can, otherwise by reading and writing, without the holes.
//!
//! A server that cannot clone is asked to COPY small files, which is one operation instead of two. Linux's server
//! copies larger files asynchronously, and its client first asks after three seconds whether the copy is done, so these
//! are read and written here (see `docs/benchmarks.md`). After a COPY of a small file was slow, COPY is not used any
//! more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future;
use tokio::time::Instant;

use super::Copy;
use crate::export::copy::directory::{Dir, Pair};
use crate::export::copy::entry::Place;
use crate::export::copy::error::{CopyError, Side, Stop};
use crate::export::fs::{Attr, Fs, Kind, Name, Seek, Status};

/// The size of one read and one write.
const CHUNK: u64 = 1 << 20;
/// How much is written before it is committed, while more is read. It bounds the dirty data of the client and the time
/// of a commit.
const PART: u64 = 32 << 20;
/// A file up to this size is taken to have no holes if its allocated size is not smaller than its length.
const NO_HOLES: u64 = 64 << 10;
/// A server that needs longer than this to copy a small file does more than copy it, or is busy.
const LONG: Duration = Duration::from_secs(1);
/// The block size in which servers allocate.
const BLOCK: usize = 4096;

// Actions, for error messages.

const READING: &str = "reading";
const WRITING: &str = "writing";
const CLONING: &str = "cloning";
const OFFLOADING: &str = "having the server copy";
const SEEKING: &str = "finding the holes of";
const COMMITTING: &str = "committing";

/// How files can be copied, as far as this is known.
pub(super) struct Ways {
    clone: AtomicBool,
    /// Whether a file was cloned.
    cloned: AtomicBool,
    copy: AtomicBool,
}

impl Ways {
    pub(super) fn new(same_export: bool) -> Self {
        Self { clone: AtomicBool::new(same_export), cloned: AtomicBool::new(false), copy: AtomicBool::new(same_export) }
    }
}

impl<F: Fs> Copy<F> {
    /// Whether the content of a file is copied by a few operations.
    pub(super) fn is_quick(&self, attr: &Attr) -> bool {
        attr.size <= CHUNK || self.shared.ways.cloned.load(Ordering::Relaxed)
    }

    /// Copies files at once, as far as the client and the server can. Says of each entry whether it is copied.
    pub(super) async fn clone_entries(
        &self,
        dir: &Dir<F>,
        pair: &Pair<F>,
        entries: &[(Name, Kind)],
    ) -> Result<Vec<bool>, CopyError> {
        let mut copied = vec![false; entries.len()];
        if !self.shared.ways.clone.load(Ordering::Relaxed) {
            return Ok(copied);
        }
        let files = entries.iter().enumerate().filter(|(_, (_, kind))| *kind == Kind::File);
        let (numbers, names): (Vec<usize>, Vec<Name>) = files.map(|(number, (name, _))| (number, name.clone())).unzip();
        let cloned = self.target.clone_entries(&pair.source, &pair.target, &names).await;
        for ((number, name), cloned) in numbers.into_iter().zip(&names).zip(cloned) {
            if let Some(attr) = (Place { dir, pair, name }).target(CLONING, cloned)? {
                self.shared.ways.cloned.store(true, Ordering::Relaxed);
                self.shared.progress.bytes(attr.size);
                self.shared.progress.entry();
                copied[number] = true;
            }
        }
        Ok(copied)
    }

    /// Copies to `target` the content that `file` had when it was opened, onto stable storage. Returns the size to set
    /// on `target` if it is not the right one yet.
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
                    // Content that was appended since is not part of the copy.
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
                // The file was truncated meanwhile, or the server stopped before the end.
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

    /// Copies up to [`PART`] bytes of data, and returns how many.
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
                // The file was truncated meanwhile.
                rest.size = rest.at;
            }
        }
        Ok(copied)
    }

    /// Moves to the next data. Returns whether there is any.
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

/// Whether a file is small and has no holes.
fn has_no_holes(attr: &Attr) -> bool {
    attr.used >= attr.size && attr.size <= NO_HOLES
}

/// The part of a file that is still to be copied.
struct Rest {
    /// The size that the copy will have.
    size: u64,
    /// Everything before this offset is copied.
    at: u64,
    /// There is data up to this offset.
    data_end: u64,
    /// The end of what was written.
    written: u64,
    /// The allocated size is smaller than the length.
    sparse: bool,
    /// The file has holes, and the server cannot say where: blocks of zeros are taken for holes.
    untold: bool,
}

impl Rest {
    fn new(attr: &Attr) -> Self {
        let sparse = attr.used < attr.size;
        let data_end = if has_no_holes(attr) { attr.size } else { 0 };
        Self { size: attr.size, at: 0, data_end, written: 0, sparse, untold: false }
    }

    /// Splits the data that was read at [`Self::at`] into the parts to write, with their offsets.
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
