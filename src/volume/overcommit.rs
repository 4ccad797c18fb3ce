//! The bytes that an export promises to its volumes in total, and the bound that a class can set on them
//! (`overcommit`).
//!
//! To promise more bytes under a bound, a controller locks the count, adds up the capacities in all records, and writes
//! its own record before it releases the lock. So two controllers never promise the same space.
//!
//! A count does not read every record. When a count reads a record, it gives the record's file a second name (a hard
//! link), `.csi-nfs/promised/FILEID-CAPACITY`. A changed record is a new file, never the old file rewritten. While a
//! file has a second name, no other file gets its file ID. So if the listing of the records shows that file ID, the
//! next count knows the capacity without reading the record. Nothing else maintains the second names: each count adds
//! those that are missing and removes those that are stale.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Entry, Fs, Name, Status, gone};
use crate::export::locks::Guard;
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::limits::Overcommit;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// The name of the lock for counting. No volume's name contains `#`.
const LOCK: &str = "#promised";
/// How many records are read at the same time.
const READS: usize = 8;

/// Checks that `more` bytes can be promised under `bound`. The caller holds the returned lock until it has written the
/// record that promises them. Returns `None` if there is nothing to check.
///
/// # Errors
/// [`Error::Exhausted`] if the bytes would exceed the bound; [`Error::Record`] if a record cannot be used and so cannot
/// be counted.
pub async fn check<F: Fs>(export: &Export<F>, bound: Option<Overcommit>, more: u64) -> Result<Option<Guard<F>>> {
    let Some(bound) = bound.filter(|_| more > 0) else { return Ok(None) };
    let (lock, size, promised) = count(export).await?;
    if promised.saturating_add(more) > bound.of(size) {
        return Err(Error::Exhausted(format!(
            "{} has {size} bytes, and {promised} bytes are promised to volumes; {more} more bytes would exceed \
             `overcommit` {} of the class; delete volumes, enlarge the export, or use a class that allows more",
            export.source(),
            String::from(bound)
        )));
    }
    Ok(Some(lock))
}

/// How many more bytes can be promised under `bound`; [`u64::MAX`] if there is no bound.
pub async fn left<F: Fs>(export: &Export<F>, bound: Option<Overcommit>) -> Result<u64> {
    let Some(bound) = bound else { return Ok(u64::MAX) };
    let (_lock, size, promised) = count(export).await?;
    Ok(bound.of(size).saturating_sub(promised))
}

/// Returns the lock for counting, the export's size and the promised bytes. While the caller holds the lock, no other
/// controller promises more under a bound.
async fn count<F: Fs>(export: &Export<F>) -> Result<(Guard<F>, u64, u64)> {
    let fs = export.fs();
    let lock = export.lock(&[LOCK]).await?;
    let size = fs.statfs(&fs.root()).await.map_err(|e| export.failed("asking for the size", e))?.total_bytes;
    let layout = export.make_layout().await?;
    let path = [SubDir::PRIVATE, "promised"].map(|part| name(export, part));
    let counted = export.make_dirs(&fs.root(), path.into_iter().collect::<Result<Vec<_>>>()?, 0o700).await?;
    let mut known: HashMap<u64, Entry> =
        export.entries(&counted).await?.into_iter().map(|entry| (entry.fileid, entry)).collect();
    let (mut promised, mut unknown) = (0_u64, Vec::new());
    for entry in export.entries(&layout.volumes).await? {
        let Some(volume) = Record::of_file(&entry.name) else { continue };
        match known.get(&entry.fileid).and_then(|entry| capacity(&entry.name)) {
            Some(capacity) => {
                known.remove(&entry.fileid);
                promised = promised.saturating_add(capacity);
            }
            None => unknown.push(volume),
        }
    }
    // The remaining second names are those of records that were removed or replaced.
    for stale in known.values() {
        gone(fs.unlink(&counted, &stale.name).await)
            .map_err(|status| export.failed(format!("removing `.csi-nfs/promised/{}`", stale.name), status))?;
    }
    let reads = stream::iter(unknown).map(|volume| read(export, &layout.volumes, &counted, volume));
    let read: Vec<u64> = reads.buffer_unordered(READS).try_collect().await?;
    Ok((lock, size, read.into_iter().fold(promised, u64::saturating_add)))
}

/// Reads the bytes that a volume is promised, and gives its record the second name.
async fn read<F: Fs>(export: &Export<F>, records: &F::Handle, counted: &F::Handle, volume: VolumeName) -> Result<u64> {
    let Some((file, attr, content)) = export.open_small(records, &Record::file(&volume)?).await? else { return Ok(0) };
    let record = Record::decode(&volume, &content)?;
    // A volume that is backed by a snapshot has no content of its own.
    let promised = if record.backing_snapshot.is_some() { 0 } else { record.capacity };
    match export.fs().link(&file, counted, &name(export, &format!("{}-{promised}", attr.fileid))?).await {
        // The record was replaced or removed meanwhile, or the file system has no hard links: the next count reads it.
        Ok(()) | Err(Status::Exist | Status::NoEnt | Status::Stale | Status::NotSupp | Status::Perm) => Ok(promised),
        Err(status) => Err(export.failed(format!("recording the bytes that volume `{volume}` is promised"), status)),
    }
}

/// The capacity in a second name.
fn capacity(name: &Name) -> Option<u64> {
    std::str::from_utf8(name.as_bytes()).ok()?.split_once('-')?.1.parse().ok()
}

fn name<F: Fs>(export: &Export<F>, text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| export.failed(format!("naming `{text}`"), status))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

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
}
