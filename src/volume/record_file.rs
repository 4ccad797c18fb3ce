//! The common form of all records: small JSON files, each named after its object, which start with a version.

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::export::fs::{Cookie, Entry, Fs, Name, Status, Step, gone};
use crate::export::layout::Layout;
use crate::export::{Export, LISTED};
use crate::nfs::text::excerpt;
use crate::volume::id::VolumeName;

/// The version of the records that this driver writes. The driver refuses to read newer ones.
const VERSION: u32 = 1;
/// How many records are read at the same time.
const READS: usize = 16;

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize)]
struct Versioned<'a, R> {
    version: u32,
    #[serde(flatten)]
    record: &'a R,
}

/// The record of an object (a volume, a snapshot or a group) in a directory of `.csi-nfs`.
pub trait RecordFile: Serialize + DeserializeOwned + Send + Sync {
    /// The kind of object, for messages.
    const OF: &'static str;
    /// The directory below `.csi-nfs`, for messages.
    const DIRECTORY: &'static str;
    /// The end of the file's name, after the object's name.
    const SUFFIX: &'static str;

    /// What an operator can do about a record that cannot be used.
    fn advice(name: &VolumeName) -> String;
    /// The directory that holds the file.
    fn directory<F: Fs>(layout: &Layout<F>) -> &F::Handle;
    /// The name of the lock under which the record is written.
    fn lock_name(name: &VolumeName) -> String;
    /// The object's identifier.
    fn identifier(&self) -> String;
    /// The object's name, if the identifier contains it.
    fn name(&self) -> Option<VolumeName>;

    /// The bytes of the file.
    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&Versioned { version: VERSION, record: self })
            .map_err(|e| Error::Internal(format!("writing the record of {} {}: {e}", Self::OF, self.identifier())))
    }

    /// Parses the record of `name` from the bytes of its file.
    ///
    /// # Errors
    /// [`Error::Record`] if the bytes are damaged, have a newer version, or are the record of another object.
    fn decode(name: &VolumeName, bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| {
            let (directory, suffix, advice) = (Self::DIRECTORY, Self::SUFFIX, Self::advice(name));
            Error::Record(format!(
                "the record `.csi-nfs/{directory}/{name}{suffix}` cannot be used: {reason}; {advice}"
            ))
        };
        // The text of such an error has parts of the file.
        let damaged = |error: serde_json::Error| bad(excerpt(&error.to_string()));
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(bad(format!(
                "it has version {version}, and this driver reads versions up to {VERSION}; upgrade the driver"
            )));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        if record.name().as_ref() != Some(name) {
            return Err(bad(format!("it is the record of {} `{}`", Self::OF, record.identifier())));
        }
        Ok(record)
    }

    /// The name of the record's file.
    fn file(name: &VolumeName) -> Result<Name> {
        name.file(Self::SUFFIX)
    }

    /// The object whose record has the file name `file`; `None` if no record has this name.
    fn of_file(file: &Name) -> Option<VolumeName> {
        VolumeName::of_file(file, Self::SUFFIX)
    }

    /// Reads the record of `name`; `None` if there is none.
    fn read<F: Fs>(export: &Export<F>, name: &VolumeName) -> impl Future<Output = Result<Option<Self>>> + Send {
        async move {
            let Some(layout) = export.layout().await? else { return Ok(None) };
            let bytes = export.read_small(Self::directory(&layout), &Self::file(name)?).await?;
            bytes.map(|bytes| Self::decode(name, &bytes)).transpose()
        }
    }

    /// Like [`Self::read`], of many records, in their order.
    fn read_each<F: Fs>(
        export: &Export<F>,
        names: Vec<VolumeName>,
    ) -> impl Stream<Item = (VolumeName, Result<Option<Self>>)> + Send {
        let read = move |name| async move {
            let read = Self::read(export, &name).await;
            (name, read)
        };
        stream::iter(names).map(read).buffered(READS)
    }

    /// Like [`Self::read_each`], for a list: logs a record that cannot be used and returns `None`.
    fn read_or_skip_each<F: Fs>(
        export: &Export<F>,
        names: Vec<VolumeName>,
    ) -> impl Stream<Item = Result<(VolumeName, Option<Self>)>> + Send {
        Self::read_each(export, names).map(move |(name, read)| Ok((name, or_skip(export, read)?)))
    }

    /// Writes the record, and replaces an existing one. The caller holds the lock ([`lock_name`](Self::lock_name)).
    fn write<F: Fs>(&self, export: &Export<F>) -> impl Future<Output = Result<()>> + Send {
        async move {
            let (name, bytes) = self.named()?;
            let layout = export.make_layout().await?;
            let (lock, file) = (Self::lock_name(&name), Self::file(&name)?);
            export.write_small_under(&lock, Self::directory(&layout), &file, bytes).await
        }
    }

    /// The step that writes the record. The caller holds the lock.
    fn writing<F: Fs>(&self, export: &Export<F>) -> impl Future<Output = Result<Step<F::Handle>>> + Send {
        async move {
            let (name, bytes) = self.named()?;
            let layout = export.make_layout().await?;
            let (lock, file) = (Self::lock_name(&name), Self::file(&name)?);
            export.step_under(&lock, Self::directory(&layout), file, bytes).await
        }
    }

    /// The object's name, and the bytes of the file.
    fn named(&self) -> Result<(VolumeName, Vec<u8>)> {
        let nameless = || Error::Internal(format!("{} {} has no name for its record", Self::OF, self.identifier()));
        Ok((self.name().ok_or_else(nameless)?, self.encode()?))
    }

    /// The step that removes the record of `name`, if there is one. The caller holds the lock.
    fn removal<F: Fs>(export: &Export<F>, name: &VolumeName) -> impl Future<Output = Result<Step<F::Handle>>> + Send {
        async move {
            let layout = export.make_layout().await?;
            Ok(Step::Remove { at: (Self::directory(&layout).clone(), Self::file(name)?) })
        }
    }

    /// Removes the record of `name`, if there is one. The caller holds the lock.
    fn remove<F: Fs>(export: &Export<F>, name: &VolumeName) -> impl Future<Output = Result<()>> + Send {
        async move {
            let layout = export.make_layout().await?;
            gone(export.fs().unlink(Self::directory(&layout), &Self::file(name)?).await)
                .map_err(|status| export.failed(format!("removing the record of {} `{name}`", Self::OF), status))
        }
    }

    /// The names of all objects with a record on an export, sorted.
    fn names<F: Fs>(export: &Export<F>) -> impl Future<Output = Result<Vec<VolumeName>>> + Send {
        async move {
            let Some(layout) = export.layout().await? else { return Ok(Vec::new()) };
            let mut names = export.listed(Self::directory(&layout), |entry| Self::of_file(&entry.name)).await?;
            names.sort_unstable();
            Ok(names)
        }
    }

    /// The names of the first `most` objects that have a record behind the position `from` in the directory of records,
    /// each with the position behind it, in the server's order. A position stays valid for other processes.
    ///
    /// # Errors
    /// [`Error::Token`] if the server does not know the position, or no longer.
    fn some_names<F: Fs>(
        export: &Export<F>,
        from: Cookie,
        most: usize,
    ) -> impl Future<Output = Result<Vec<(VolumeName, Cookie)>>> + Send {
        async move {
            let (mut some, mut next, mut passed) = (Vec::new(), Some(from), 0);
            let Some(layout) = export.layout().await? else { return Ok(some) };
            while let (Some(at), true) = (next, some.len() < most) {
                let page = match export.page(Self::directory(&layout), at).await {
                    Err(Error::Export { status: Status::Inval, .. }) if at == from && from != 0 => {
                        return Err(Error::Token(format!("{} does not know the position any more", export.source())));
                    }
                    page => page?,
                };
                passed += page.entries.len();
                if passed > LISTED + most {
                    return Err(export.failed("listing records among too many other files", Status::FBig));
                }
                let named = |entry: Entry| Some((Self::of_file(&entry.name)?, entry.cookie));
                some.extend(page.entries.into_iter().filter_map(named));
                next = page.next;
            }
            some.truncate(most);
            Ok(some)
        }
    }
}

/// Makes `None` of a record that cannot be used, and logs it, so that a list contains the other records.
pub fn or_skip<F: Fs, T>(export: &Export<F>, read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(error @ Error::Record(_)) => {
            tracing::error!(export = %export.source(), %error, "a record cannot be used and is left out of a list");
            Ok(None)
        }
        read => read,
    }
}

/// The current time for a record, in seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A random number for a new record. No earlier or later object of the same name has it. The time in a record is too
/// coarse to distinguish two of them.
pub fn new_generation() -> Option<u64> {
    Some(Uuid::new_v4().as_u64_pair().0)
}

#[cfg(test)]
mod tests {
    use futures_util::stream::TryStreamExt as _;

    use super::*;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::{MemoryFs, MemoryServer, Node};
    use crate::volume::id::VolumeId;
    use crate::volume::record::Record;

    const MANY: usize = 200;

    async fn many(export: &Export<MemoryFs>) -> Vec<VolumeName> {
        let mut names = Vec::new();
        for n in 0..MANY {
            let id = VolumeId::parse(&format!("nfs#export#v{n:03}##")).unwrap();
            Record::unrecorded(&id).write(export).await.unwrap();
            names.push(id.name().unwrap());
        }
        names
    }

    async fn read(export: &Export<MemoryFs>, names: &[VolumeName]) -> Vec<Result<Option<VolumeName>>> {
        let read: Vec<_> = Record::read_each(export, names.to_vec()).collect().await;
        assert!(read.iter().map(|(name, _)| name).eq(names));
        read.into_iter().map(|(_, record)| Ok(record?.and_then(|record| record.name()))).collect()
    }

    #[tokio::test]
    async fn many_records_are_read_in_their_order_and_a_list_has_those_that_can_be_used() {
        let server = MemoryServer::new();
        let export = reach(&server);
        let names = many(&export).await;
        server.remove(".csi-nfs/volumes/v020.json").unwrap();
        server.remove(".csi-nfs/volumes/v150.json").unwrap();
        server.plant(".csi-nfs/volumes/v150.json", Node::file(0o600, "{")).unwrap();
        for (n, (name, record)) in names.iter().zip(read(&export, &names).await).enumerate() {
            match n {
                20 => assert_eq!(record, Ok(None)),
                150 => assert!(matches!(record, Err(Error::Record(_))), "{record:?}"),
                _ => assert_eq!(record.as_ref(), Ok(&Some(name.clone()))),
            }
        }
        let listed: Vec<_> = Record::read_or_skip_each(&export, names).try_collect().await.unwrap();
        let skipped: Vec<_> = listed.iter().filter(|(_, record)| record.is_none()).map(|(name, _)| name).collect();
        assert_eq!((listed.len(), skipped.iter().map(|name| name.as_str()).collect()), (MANY, vec!["v020", "v150"]));
        assert_eq!(read(&reach(&MemoryServer::new()), &[skipped[0].clone()]).await, [Ok(None)]);
    }
}
