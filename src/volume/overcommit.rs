//! The bytes that an export promises to its volumes in total, and the bound that a class can set on them
//! (`overcommit`).
//!
//! **The index.** The sum of the capacities in all records is in one small file, `.csi-nfs/promised/index.json`. It is
//! made when a class with `overcommit` first asks for it. From then on, whoever changes the capacity in a record, or
//! writes or removes a record, of any class, does this under the one lock of the index:
//!
//! 1. [`begin`] writes the index anew: the name of the volume (`open`), and the sum of all *other* volumes (`others`).
//! 2. The caller changes the volume's record.
//! 3. [`Change::end`] releases the lock.
//!
//! What is promised is `others` and what the record of `open` says now. So the index is right at every moment, and
//! after a crash at any moment: the one record that may be old or new is read, and not counted. Nothing has to be
//! undone. The next change adds what that record says to `others`, and opens another. Each step costs the same however
//! many volumes there are. A volume that is backed by a snapshot counts 0. A record whose capacity stays the same
//! needs no change.
//!
//! **Counting.** The index is made, and made anew, by a count of all records under the lock. A count gives the file of
//! each record that it reads a second name (a hard link), `.csi-nfs/promised/FILEID-CAPACITY`. A changed record is a
//! new file, never the old file rewritten, and while a file has a second name, no other file gets its file ID. So
//! another count needs two listings, and reads only the records that are new. The first count reads all: it is done
//! once without the lock, so that nobody waits for it, and then again with it.
//!
//! **Those who do not know the index.** A change that finds no index writes none, because nobody asks. A connection
//! remembers for [`FRESH`] that it found none, so that most exports are rarely asked. Whoever makes the first index says
//! so in the file, waits for [`NOTICE`], and counts then. So the count sees each change that ends within [`SURE`] of
//! that look. A change that takes longer looks again when it has ended: if there is an index now, it may have the record
//! as it was. Then the change removes the index, and the next check makes it anew. What a count cannot see is a
//! controller that dies, or whose machine is paused, between its change and that second look, a driver of an earlier
//! version, and a record that somebody changes or removes by hand. So a check makes the index anew if it is older than
//! [`AGED`], and, before it refuses, if it is older than [`BEFORE_REFUSAL`].

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Entry, Fs, Name, Status, gone};
use crate::export::locks::Guard;
use crate::volume::id::VolumeName;
use crate::volume::limits::Overcommit;
use crate::volume::record::Record;
use crate::volume::record_file::{RecordFile as _, now};

/// The name of the lock of the index. No volume's name contains `#`.
const LOCK: &str = "#promised";
/// The directory of the index and of the second names, in `.csi-nfs`.
const DIRECTORY: &str = "promised";
/// The index, in that directory.
const INDEX: &str = "index.json";
/// How many records are read at the same time.
const READS: usize = 16;
/// How many records GetCapacity reads if there is no index: it writes nothing, so it would read them each time.
const WITHOUT_INDEX: usize = 1000;
/// The age at which a check makes the index anew.
const AGED: Duration = Duration::from_secs(600);
/// The age at which a check makes the index anew before it refuses.
const BEFORE_REFUSAL: Duration = Duration::from_secs(30);
/// For how long a change may rely on an earlier look that found no index.
const FRESH: Duration = Duration::from_secs(1);
/// A change that ends within this time of that look is seen by every count that began after the look. It is shorter
/// than [`NOTICE`], because clocks differ.
const SURE: Duration = Duration::from_secs(2);
/// How long the first count waits for changes that do not know of it.
const NOTICE: Duration = Duration::from_secs(3);

/// The version of the index that this driver writes and reads.
const VERSION: u32 = 1;
/// More than all volumes of an export can have. A sum with it does not overflow.
const MOST: u128 = u128::MAX >> 1;
/// What is in the file while the records are counted.
const COUNTING: &str = "counting";

/// The index, as the file has it.
#[derive(Serialize, Deserialize)]
struct Json {
    version: u32,
    /// A string, because the sum may have more than 64 bits.
    others: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<String>,
    counted: u64,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Index {
    /// The bytes that are promised to all volumes except `open`.
    others: u128,
    /// The volume whose record says itself what is promised to it.
    open: Option<VolumeName>,
    /// When the records were last counted, in seconds since the epoch.
    counted: u64,
}

/// A change of a volume's record that is counted. [`Change::end`] ends it.
#[must_use]
pub struct Change<F: Fs>(Begun<F>);

enum Begun<F: Fs> {
    /// The change is counted in the index, whose lock is held for its drop.
    Counted { _lock: Guard<F> },
    /// There was no index at this time.
    Uncounted { looked: Instant },
}

/// Begins to write or remove the record of the volume `name`, which will have at most `more` bytes more than now, and
/// checks that they can be promised under `bound`. The caller holds the volume's lock, and changes nothing but this
/// record until it ends the change.
///
/// # Errors
/// [`Error::Exhausted`] if the bytes would exceed the bound; [`Error::Record`] if there is a bound and a record cannot
/// be used and so cannot be counted.
pub async fn begin<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    bound: Option<Overcommit>,
    more: u64,
) -> Result<Change<F>> {
    match bound.filter(|_| more > 0) {
        Some(bound) => check(export, name, bound, more).await,
        None => note(export, name).await,
    }
}

impl<F: Fs> Change<F> {
    /// Ends the change, after the record was written or removed.
    pub async fn end(self, export: &Export<F>) -> Result<()> {
        if let Begun::Uncounted { looked } = self.0
            && looked.elapsed() >= SURE
            && exists(export).await?
        {
            let _lock = export.lock(&[LOCK]).await?;
            forget(export).await?;
        }
        Ok(())
    }
}

/// How many more bytes can be promised under `bound`; [`u64::MAX`] if there is no bound. Writes nothing. Without an
/// index, it may be too much on an export with many volumes: see [`WITHOUT_INDEX`].
pub async fn left<F: Fs>(export: &Export<F>, bound: Option<Overcommit>) -> Result<u64> {
    let Some(bound) = bound else { return Ok(u64::MAX) };
    let promised = match indexed(export).await? {
        Some(promised) => promised,
        None => without_index(export).await?,
    };
    let most = u128::from(bound.of(export.stat().await?.total_bytes));
    Ok(u64::try_from(most.saturating_sub(promised)).unwrap_or(u64::MAX))
}

/// The bytes that are promised to all volumes, as the index has them; `None` if there is no index. Reads two files.
pub async fn indexed<F: Fs>(export: &Export<F>) -> Result<Option<u128>> {
    let Some(index) = read(export).await? else { return Ok(None) };
    let open = match &index.open {
        Some(open) => promised(export, open).await?,
        None => 0,
    };
    Ok(Some(index.others + open))
}

/// Begins a change under a bound. Makes the index if there is none.
async fn check<F: Fs>(export: &Export<F>, name: &VolumeName, bound: Overcommit, more: u64) -> Result<Change<F>> {
    if !exists(export).await? {
        // The long part of the first count: see the module's documentation.
        count(export).await?;
    }
    let lock = export.lock(&[LOCK]).await?;
    let on_export = read(export).await?;
    let notice = if on_export.is_some() { Duration::ZERO } else { NOTICE };
    let opened = match on_export.clone().filter(|index| index.age() < AGED) {
        Some(index) => index.opened(export, name).await?,
        None => None,
    };
    let (mut index, mut own) = match opened {
        Some(opened) => opened,
        None => make(export, name, notice).await?,
    };
    let (size, wanted) = (export.stat().await?.total_bytes, u128::from(more));
    let most = u128::from(bound.of(size));
    if index.others + own + wanted > most && index.age() >= BEFORE_REFUSAL {
        (index, own) = make(export, name, Duration::ZERO).await?;
    }
    if on_export.as_ref() != Some(&index) {
        write(export, index.encode()?).await?;
    }
    let promised = index.others + own;
    if promised + wanted > most {
        return Err(Error::Exhausted(format!(
            "{} has {size} bytes, and {promised} bytes are promised to volumes; {more} more bytes would exceed \
             `overcommit` {} of the class; delete volumes, enlarge the export, or use a class that allows more",
            export.source(),
            String::from(bound)
        )));
    }
    Ok(Change(Begun::Counted { _lock: lock }))
}

/// Begins a change that needs no check. If the index cannot be kept, for example because the export is full, removes
/// it: the next check makes it anew.
async fn note<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Change<F>> {
    if let Some(looked) = export.unindexed.within(FRESH) {
        return Ok(Change(Begun::Uncounted { looked }));
    }
    let looked = Instant::now();
    if !exists(export).await? {
        export.unindexed.record(looked);
        return Ok(Change(Begun::Uncounted { looked }));
    }
    let lock = export.lock(&[LOCK]).await?;
    let noted = async {
        let Some(on_export) = read(export).await? else { return Ok(false) };
        let Some((index, _)) = on_export.clone().opened(export, name).await? else { return Ok(false) };
        if index != on_export {
            write(export, index.encode()?).await?;
        }
        Ok::<_, Error>(true)
    };
    match noted.await {
        Ok(true) => return Ok(Change(Begun::Counted { _lock: lock })),
        Ok(false) => {}
        Err(error) => {
            let export = export.source();
            tracing::warn!(%export, %error, "the index of promised bytes is removed, and will be made anew");
        }
    }
    forget(export).await?;
    Ok(Change(Begun::Uncounted { looked: Instant::now() }))
}

impl Index {
    fn age(&self) -> Duration {
        Duration::from_secs(now().abs_diff(self.counted))
    }

    /// The index with the volume `name` open, and what is promised to that volume now. `None` if the index is wrong: it
    /// counts less than that volume alone has.
    async fn opened<F: Fs>(mut self, export: &Export<F>, name: &VolumeName) -> Result<Option<(Self, u128)>> {
        let own = promised(export, name).await?;
        if self.open.as_ref() != Some(name) {
            if let Some(open) = &self.open {
                self.others += promised(export, open).await?;
            }
            let Some(others) = self.others.checked_sub(own) else { return Ok(None) };
            (self.others, self.open) = (others, Some(name.clone()));
        }
        Ok(Some((self, own)))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let json = Json {
            version: VERSION,
            others: self.others.to_string(),
            open: self.open.as_ref().map(VolumeName::to_string),
            counted: self.counted,
        };
        serde_json::to_vec(&json).map_err(|e| Error::Internal(format!("writing the index of promised bytes: {e}")))
    }

    /// `None` for anything that this driver did not write, and for the mark of a count.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let json: Json = serde_json::from_slice(bytes).ok().filter(|json: &Json| json.version == VERSION)?;
        Some(Self {
            others: json.others.parse().ok().filter(|others| *others <= MOST)?,
            open: json.open.map(|name| VolumeName::parse("open", &name)).transpose().ok()?,
            counted: json.counted,
        })
    }
}

/// Counts all records, after it waited for `notice`. The caller holds the lock, and writes the returned index, which has
/// the volume `name` open.
async fn make<F: Fs>(export: &Export<F>, name: &VolumeName, notice: Duration) -> Result<(Index, u128)> {
    // A change that began without an index has to see at its end that the index was made meanwhile.
    write(export, COUNTING.into()).await?;
    tokio::time::sleep(notice).await;
    let counted = now();
    let index = Index { others: count(export).await?, open: None, counted };
    let wrong =
        || Error::Interrupted(format!("the record of volume `{name}` changed while it was counted; call again"));
    index.opened(export, name).await?.ok_or_else(wrong)
}

/// The records of an export, as far as their second names say what is promised.
struct Counted<F: Fs> {
    promised: u128,
    /// Volumes whose records have no second name.
    unknown: Vec<VolumeName>,
    /// Second names of records that were removed or replaced.
    stale: Vec<Name>,
    records: F::Handle,
}

impl<F: Fs> Counted<F> {
    /// Lists `records` and the second names in the directory `names`.
    async fn list(export: &Export<F>, records: F::Handle, names: Option<&F::Handle>) -> Result<Self> {
        let mut known: HashMap<u64, Entry> = match names {
            Some(names) => export.entries(names).await?.into_iter().map(|entry| (entry.fileid, entry)).collect(),
            None => HashMap::new(),
        };
        known.retain(|_, entry| entry.name.as_bytes() != INDEX.as_bytes());
        let (mut promised, mut unknown) = (0, Vec::new());
        for entry in export.entries(&records).await? {
            let Some(volume) = Record::of_file(&entry.name) else { continue };
            match known.get(&entry.fileid).and_then(|entry| capacity(&entry.name)) {
                Some(capacity) => {
                    known.remove(&entry.fileid);
                    promised += u128::from(capacity);
                }
                None => unknown.push(volume),
            }
        }
        let stale = known.into_values().map(|entry| entry.name).collect();
        Ok(Self { promised, unknown, stale, records })
    }
}

/// Counts all records, and keeps their second names.
async fn count<F: Fs>(export: &Export<F>) -> Result<u128> {
    let layout = export.make_layout().await?;
    let names = directory(export).await?;
    let counted = Counted::<F>::list(export, layout.volumes.clone(), Some(&names)).await?;
    for stale in &counted.stale {
        gone(export.fs().unlink(&names, stale).await)
            .map_err(|status| export.failed(format!("removing `.csi-nfs/promised/{stale}`"), status))?;
    }
    let reads = stream::iter(counted.unknown).map(|volume| link(export, &counted.records, &names, volume));
    let read: Vec<u64> = reads.buffer_unordered(READS).try_collect().await?;
    Ok(read.into_iter().fold(counted.promised, |sum, bytes| sum + u128::from(bytes)))
}

/// Sums what can be read of an export without an index, and writes nothing.
async fn without_index<F: Fs>(export: &Export<F>) -> Result<u128> {
    let Some(layout) = export.layout().await? else { return Ok(0) };
    let counted = Counted::<F>::list(export, layout.volumes.clone(), find(export).await?.as_ref()).await?;
    let volumes = counted.unknown.into_iter().take(WITHOUT_INDEX).collect();
    let add = async |sum, (_, record): (_, Option<Record>)| Ok(sum + u128::from(record.as_ref().map_or(0, of)));
    Record::read_or_skip_each(export, volumes).try_fold(counted.promised, add).await
}

/// Reads the bytes that a volume is promised, and gives its record the second name.
async fn link<F: Fs>(export: &Export<F>, records: &F::Handle, names: &F::Handle, volume: VolumeName) -> Result<u64> {
    let Some((file, attr, content)) = export.open_small(records, &Record::file(&volume)?).await? else { return Ok(0) };
    let promised = of(&Record::decode(&volume, &content)?);
    match export.fs().link(&file, names, &name(export, &format!("{}-{promised}", attr.fileid))?).await {
        // The record was replaced or removed meanwhile, or the file system has no hard links: the next count reads it.
        Ok(()) | Err(Status::Exist | Status::NoEnt | Status::Stale | Status::NotSupp | Status::Perm) => Ok(promised),
        Err(status) => Err(export.failed(format!("recording the bytes that volume `{volume}` is promised"), status)),
    }
}

/// The bytes that the record of a volume promises now.
async fn promised<F: Fs>(export: &Export<F>, volume: &VolumeName) -> Result<u128> {
    Ok(Record::read(export, volume).await?.as_ref().map_or(0, of).into())
}

/// The bytes that a record promises. A volume that is backed by a snapshot has no content of its own.
fn of(record: &Record) -> u64 {
    if record.backing_snapshot.is_some() { 0 } else { record.capacity }
}

/// The capacity in a second name.
fn capacity(name: &Name) -> Option<u64> {
    std::str::from_utf8(name.as_bytes()).ok()?.split_once('-')?.1.parse().ok()
}

/// Whether there is an index, or one is being made.
async fn exists<F: Fs>(export: &Export<F>) -> Result<bool> {
    match find(export).await? {
        Some(directory) => Ok(export.find(&directory, &name(export, INDEX)?).await?.is_some()),
        None => Ok(false),
    }
}

async fn read<F: Fs>(export: &Export<F>) -> Result<Option<Index>> {
    let Some(directory) = find(export).await? else { return Ok(None) };
    Ok(export.read_small(&directory, &name(export, INDEX)?).await?.and_then(|bytes| Index::decode(&bytes)))
}

async fn write<F: Fs>(export: &Export<F>, content: Vec<u8>) -> Result<()> {
    export.write_small_under(LOCK, &directory(export).await?, &name(export, INDEX)?, content).await
}

async fn forget<F: Fs>(export: &Export<F>) -> Result<()> {
    let Some(directory) = find(export).await? else { return Ok(()) };
    gone(export.fs().unlink(&directory, &name(export, INDEX)?).await)
        .map_err(|status| export.failed(format!("removing `.csi-nfs/promised/{INDEX}`"), status))
}

/// The directory of the index and of the second names; `None` if there is none.
async fn find<F: Fs>(export: &Export<F>) -> Result<Option<F::Handle>> {
    let Some(layout) = export.layout().await? else { return Ok(None) };
    export.find_dir(&layout.private, [name(export, DIRECTORY)?]).await
}

async fn directory<F: Fs>(export: &Export<F>) -> Result<F::Handle> {
    let layout = export.make_layout().await?;
    export.make_dirs(&layout.private, [name(export, DIRECTORY)?], 0o700).await
}

fn name<F: Fs>(export: &Export<F>, text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| export.failed(format!("naming `{text}`"), status))
}
