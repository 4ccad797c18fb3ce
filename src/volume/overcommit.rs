//! What the volumes of an export are promised in all, and the bound that a class may set to it (`overcommit`).
//!
//! Who promises more under a bound holds a lock of the export, adds up what all records say, and writes its own before it
//! gives the lock back: two controllers never promise the same room.
//!
//! Records are not all read for that. One that was read gets a second name, `.csi-nfs/promised/FILEID-CAPACITY`. A record
//! is replaced by another file and never written again, and as long as its file has that second name, no other file gets its
//! number: where a listing of the records shows that number, the capacity is known. So nobody else has to know of this, and what is
//! missing there, or left, is made up for by the next who counts.

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

/// The lock of who counts. (No volume's name has a `#`.)
const LOCK: &str = "#promised";
/// Records read at once.
const READS: usize = 8;

/// Refuses `more` bytes that would go beyond the bound. The answer is kept until the record that promises them is written.
///
/// # Errors
/// [`Error::Exhausted`], with the figures; [`Error::Record`] where a record cannot be read, and so not be counted.
pub async fn check<F: Fs>(export: &Export<F>, bound: Option<Overcommit>, more: u64) -> Result<Option<Guard<F>>> {
    let Some(bound) = bound.filter(|_| more > 0) else { return Ok(None) };
    let (lock, size, promised) = count(export).await?;
    if promised.saturating_add(more) > bound.of(size) {
        return Err(Error::Exhausted(format!(
            "{} has {size} bytes, of which {promised} are promised to volumes, and {more} more are asked for: beyond `overcommit` {} of its class; delete volumes, enlarge the export, or use a class that allows more",
            export.source(),
            String::from(bound)
        )));
    }
    Ok(Some(lock))
}

/// How much more may be promised under a bound.
pub async fn left<F: Fs>(export: &Export<F>, bound: Option<Overcommit>) -> Result<u64> {
    let Some(bound) = bound else { return Ok(u64::MAX) };
    let (_lock, size, promised) = count(export).await?;
    Ok(bound.of(size).saturating_sub(promised))
}

/// The export's size and what is promised of it, for as long as the lock is held.
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
    // What it was the second name of is gone.
    for stale in known.values() {
        gone(fs.unlink(&counted, &stale.name).await)
            .map_err(|status| export.failed(format!("removing `.csi-nfs/promised/{}`", stale.name), status))?;
    }
    let reads = stream::iter(unknown).map(|volume| read(export, &layout.volumes, &counted, volume));
    let read: Vec<u64> = reads.buffer_unordered(READS).try_collect().await?;
    Ok((lock, size, read.into_iter().fold(promised, u64::saturating_add)))
}

/// Reads what a volume is promised, and gives its record the second name.
async fn read<F: Fs>(export: &Export<F>, records: &F::Handle, counted: &F::Handle, volume: VolumeName) -> Result<u64> {
    let Some((file, attr, content)) = export.open_small(records, &Record::file(&volume)?).await? else { return Ok(0) };
    let record = Record::decode(&volume, &content)?;
    // What shows a snapshot has nothing of its own.
    let promised = if record.backing_snapshot.is_some() { 0 } else { record.capacity };
    match export.fs().link(&file, counted, &name(export, &format!("{}-{promised}", attr.fileid))?).await {
        // Replaced or removed meanwhile, or a file system without links: it is read again the next time.
        Ok(()) | Err(Status::Exist | Status::NoEnt | Status::Stale | Status::NotSupp | Status::Perm) => Ok(promised),
        Err(status) => Err(export.failed(format!("noting what volume `{volume}` is promised"), status)),
    }
}

/// What a second name says.
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
