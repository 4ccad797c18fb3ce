//! Snapshots of csi-driver-nfs's: an archive of a volume, `NAME/SOURCE.tar.gz` or `NAME/SOURCE.tar` on the share, which tar(1)
//! made.
//!
//! Nothing is kept of them but what they are: whoever finds one, finds it by its form. A directory that is a volume's, or has
//! one in it, is none. The archive is hostile, and may be changed while it is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::fs::{Attr, Fs, FsResult, Kind, Name, OpenMode, Status, Time};
use crate::export::{Export, trash};
use crate::nfs::source::SubDir;
use crate::snapshot::id::ArchiveId;
use crate::snapshot::tree::{How, Stage};
use crate::volume::directory_owners;
use crate::volume::id::VolumeName;
use crate::volume::parameters::ARCHIVED;
use crate::volume::record::Record as VolumeRecord;
use crate::volume::record_file::RecordFile as _;

mod input;
mod members;
mod pax;
mod unpack;

/// The ends of archives' names, and whether these are compressed.
const FORMS: [(&str, bool); 2] = [(".tar.gz", true), (".tar", false)];

/// The most members of an archive, in any case; beyond it, as many as the volume has units of the other size, in bytes.
const MEMBERS: (u64, u64) = (1_000_000, 1024);

/// Why an archive is not unpacked, or not further.
#[derive(Debug)]
enum Stop {
    /// What is wrong with it, as it goes on behind its name.
    Damaged(String),
    /// It holds more bytes than the volume.
    TooLarge,
    /// It has more members than the volume may have.
    TooMany,
    /// It cannot be read.
    Reading(Status),
    /// A member cannot be made.
    Making {
        /// Its path in the volume.
        path: String,
        /// What the server said.
        status: Status,
    },
    /// The other side has ended, with the error that counts.
    Ended,
}

impl Stop {
    fn damaged(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }

    fn making(path: &str, status: Status) -> Self {
        match status {
            Status::Inval | Status::NameTooLong | Status::FBig => {
                Self::Damaged(format!("has a member `{path}` that cannot be made: {status}"))
            }
            status => Self::Making { path: path.to_owned(), status },
        }
    }
}

/// A snapshot that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its identifier.
    pub id: ArchiveId,
    /// The archive's size in bytes: as much as csi-driver-nfs said of it. How much is in it, nobody knows who has not read it.
    pub size: u64,
    /// When the archive was last written.
    pub created: Time,
    file: Name,
    gzip: bool,
    fileid: u64,
}

impl Found {
    /// The identifier of the volume that it is of, as far as can be told: that of the volume with a record, or else the one
    /// which csi-driver-nfs gives a volume without a `subDir`.
    pub async fn source<F: Fs>(&self, export: &Export<F>) -> Result<String> {
        let ArchiveId { server, share, source, .. } = &self.id;
        Ok(match VolumeRecord::read_or_skip(export, source).await? {
            Some(record) => record.id.to_string(),
            None => format!("{server}#{}#{source}##", share.as_str()),
        })
    }
}

/// The snapshot with that identifier; `None` where there is none.
pub async fn find<F: Fs>(export: &Export<F>, id: &ArchiveId) -> Result<Option<Found>> {
    if is_volumes(export, &id.name).await? {
        return Ok(None);
    }
    let failed = |status| export.failed(format!("looking for snapshot `{id}`"), status);
    let Some(dir) = directory(export, &id.name).await.map_err(failed)? else { return Ok(None) };
    for (end, gzip) in FORMS {
        let file = id.source.file(end)?;
        match export.fs().lookup(&dir, &file).await {
            Ok((_, attr)) if attr.kind == Kind::File => return Ok(Some(found(id.clone(), file, gzip, &attr))),
            Ok(_) | Err(Status::NoEnt) => {}
            Err(status) => return Err(failed(status)),
        }
    }
    Ok(None)
}

/// The same, of a snapshot that has to be there (CSI `GetSnapshot`).
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get<F: Fs>(export: &Export<F>, id: &ArchiveId) -> Result<Found> {
    let none = || {
        let ArchiveId { name, source, .. } = id;
        let reason = format!("{} has no archive `{name}/{source}.tar.gz` or `.tar`", export.source());
        Error::not_found(format!("snapshot `{id}`"), reason)
    };
    find(export, id).await?.ok_or_else(none)
}

/// The snapshot in the directory of that name, which has nothing else in it; `None` where there is none. What cannot be
/// looked at is none of this driver's.
pub async fn find_in<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Found>> {
    match only_archive(export, name).await {
        Ok(Some(found)) if !is_volumes(export, name).await? => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(status @ Status::TimedOut) => Err(export.failed(format!("looking at directory `{name}`"), status)),
        Err(status) => {
            tracing::debug!(export = %export.source(), directory = %name, %status, "whether it is a snapshot cannot be seen");
            Ok(None)
        }
    }
}

async fn only_archive<F: Fs>(export: &Export<F>, name: &VolumeName) -> FsResult<Option<Found>> {
    let Some(dir) = directory(export, name).await? else { return Ok(None) };
    let (mut entries, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next
        && entries.len() < 2
    {
        let page = export.fs().readdir(&dir, from).await?;
        entries.extend(page.entries.into_iter().map(|entry| entry.name));
        next = page.next;
    }
    let [file] = &entries[..] else { return Ok(None) };
    let form = |(end, gzip)| Some((VolumeName::of_file(file, end)?, gzip));
    let Some((source, gzip)) = FORMS.into_iter().find_map(form) else { return Ok(None) };
    let Some(id) = ArchiveId::new(export.source(), name.clone(), source) else { return Ok(None) };
    let (_, attr) = export.fs().lookup(&dir, file).await?;
    Ok((attr.kind == Kind::File).then(|| found(id, file.clone(), gzip, &attr)))
}

fn found(id: ArchiveId, file: Name, gzip: bool, attr: &Attr) -> Found {
    Found { id, size: attr.size, created: attr.mtime, file, gzip, fileid: attr.fileid }
}

/// The names of directories that may be snapshots, sorted: those that are no recorded volume's of the same name.
pub async fn names<F: Fs>(export: &Export<F>) -> Result<BTreeSet<VolumeName>> {
    let mut names: BTreeSet<VolumeName> =
        export.names(&export.fs().root()).await?.iter().filter_map(|name| VolumeName::of_file(name, "")).collect();
    names.retain(|name| name.as_str() != SubDir::PRIVATE && !name.as_str().starts_with(ARCHIVED));
    for volume in VolumeRecord::names(export).await? {
        names.remove(&volume);
    }
    Ok(names)
}

/// The directory of that name on the share; `None` where there is none.
async fn directory<F: Fs>(export: &Export<F>, name: &VolumeName) -> FsResult<Option<F::Handle>> {
    match export.fs().lookup(&export.fs().root(), &Name::new(name.as_str())?).await {
        Ok((dir, attr)) => Ok((attr.kind == Kind::Directory).then_some(dir)),
        Err(Status::NoEnt) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Whether the directory of that name is a volume's, or a volume with a record is in it.
async fn is_volumes<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<bool> {
    match VolumeRecord::read(export, name).await {
        Ok(Some(record)) if record.id.sub_dir.as_str() == name.as_str() => return Ok(true),
        // Nobody knows which directory it is of.
        Err(Error::Record(_)) => return Ok(true),
        read => drop(read?),
    }
    let Some(layout) = export.layout().await? else { return Ok(false) };
    Ok(export.find(&layout.paths, &name.file("")?).await?.is_some())
}

/// Deletes a snapshot (CSI `DeleteSnapshot`): its archive, and its directory where nothing else is in that. One that is not
/// there is deleted.
pub async fn delete<F: Fs>(export: &Export<F>, id: &ArchiveId) -> Result<()> {
    // As a volume with that directory would be locked.
    let _lock = export.lock(&[id.name.as_str()]).await?;
    // What a volume that is gone has left of a claim is cleared away.
    directory_owners::neighbours(export, &SubDir::parse("snapshot_id", id.name.as_str())?, None).await?;
    let Some(found) = find(export, id).await? else { return Ok(()) };
    let failed = |status| export.failed(format!("deleting snapshot `{id}`"), status);
    let Some(dir) = directory(export, &id.name).await.map_err(failed)? else { return Ok(()) };
    if only_archive(export, &id.name).await.map_err(failed)?.as_ref() == Some(&found) {
        return trash::discard(export, &export.fs().root(), &id.name.file("")?).await.map(drop);
    }
    tracing::warn!(export = %export.source(), snapshot = %id, "its directory holds something else, and stays");
    trash::discard(export, &dir, &found.file).await.map(drop)
}

/// An archive that a volume is made from.
pub struct Archive<F: Fs> {
    export: Arc<Export<F>>,
    found: Found,
    limit: u64,
}

impl<F: Fs> Clone for Archive<F> {
    fn clone(&self) -> Self {
        Self { export: self.export.clone(), found: self.found.clone(), limit: self.limit }
    }
}

impl<F: Fs> Archive<F> {
    /// The archive that was found on an export, for a volume of up to `limit` bytes; `u64::MAX` for one that has what there is
    /// room for.
    pub fn new(export: Arc<Export<F>>, found: Found, limit: u64) -> Self {
        Self { export, found, limit }
    }

    /// Its identifier.
    pub fn id(&self) -> &ArchiveId {
        &self.found.id
    }

    /// The bytes that its volume has at least. How much is in it shows only while it is unpacked; without a limit that is not asked.
    pub fn size(&self) -> u64 {
        if self.limit == u64::MAX { 0 } else { self.found.size }
    }

    /// Unpacks it in staging, whole; answers its root.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is gone; [`Error::Precondition`] where it is damaged, leads out of the volume, or changed
    /// meanwhile; [`Error::CapacityOutOfRange`] where it holds more than the limit; [`Error::Interrupted`] where the work was
    /// cancelled; [`Error::Export`] with the path that could not be made.
    pub async fn unpack(&self, stage: &Stage<F>, how: &How) -> Result<F::Handle> {
        let (file, attr) = self.open().await?;
        let to = stage.make().await?;
        let input = input::Input::new(self.export.clone(), file, attr.size, self.found.gzip);
        let mut members = members::Members::new(input, MEMBERS.0.max(self.limit / MEMBERS.1));
        let target = stage.export();
        let limits = (self.limit, how.options.in_flight);
        let stopped = tokio::select! {
            biased;
            () = how.cancel.cancelled() => {
                return Err(Error::Interrupted(format!("unpacking {self} was broken off; call again")));
            }
            () = how.progress.tell() => Ok(()),
            done = unpack::unpack(&mut members, target.fs(), &to, limits, &how.progress) => done,
        };
        let (_, now) = self.open().await?;
        if (now.fileid, now.size, now.mtime) != (attr.fileid, attr.size, attr.mtime) {
            return Err(Error::Precondition(format!(
                "{self} was written to while it was read; call again when that is over"
            )));
        }
        stopped.map_err(|stop| self.error(target, stop)).map(|()| to)
    }

    /// Opens the archive, which is the one that was found.
    async fn open(&self) -> Result<(F::Handle, Attr)> {
        let Found { id, file, fileid, .. } = &self.found;
        let gone = || Error::not_found(format!("snapshot `{id}`"), "its archive was deleted meanwhile");
        let failed = |status| self.export.failed(format!("opening {self}"), status);
        let dir = directory(&self.export, &id.name).await.map_err(failed)?.ok_or_else(gone)?;
        match self.export.fs().open(&dir, file, OpenMode::Read).await {
            Ok((_, attr)) if attr.fileid != *fileid => Err(gone()),
            Err(Status::NoEnt) => Err(gone()),
            opened => opened.map_err(failed),
        }
    }

    fn error(&self, target: &Export<F>, stop: Stop) -> Error {
        let limit = self.limit;
        match stop {
            Stop::Damaged(reason) => Error::Precondition(format!(
                "{self} {reason}; put the archive in order, or delete the snapshot and make the volume of something else"
            )),
            Stop::TooLarge => Error::CapacityOutOfRange(format!(
                "{self} holds more than {limit} bytes; ask for a volume that is large enough for what is in it"
            )),
            Stop::TooMany => Error::CapacityOutOfRange(format!(
                "{self} has more members than a volume of {limit} bytes may have; ask for a larger one"
            )),
            Stop::Reading(status) => self.export.failed(format!("reading {self}"), status),
            Stop::Making { path, status } => target.failed(format!("unpacking {self}: making `{path}`"), status),
            Stop::Ended => Error::Internal(format!("unpacking {self} broke off")),
        }
    }
}

impl<F: Fs> std::fmt::Display for Archive<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "archive `{}/{}` of {}", self.found.id.name, self.found.file, self.export.source())
    }
}

#[cfg(test)]
pub(crate) mod tests;
