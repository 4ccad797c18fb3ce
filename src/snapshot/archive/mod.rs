//! Snapshots of csi-driver-nfs: tar(1) archives, `NAME/SOURCE.tar.gz` or `NAME/SOURCE.tar` on the share.
//!
//! The driver has no records of these snapshots and recognizes them by their names. The directory of a volume, or a
//! directory that contains one, is never a snapshot. An archive may be hostile, and may change while the driver reads
//! it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::fs::{Attr, Fs, FsResult, Kind, Name, OpenMode, Status, Time};
use crate::export::{Export, trash};
use crate::nfs::source::SubDir;
use crate::snapshot::id::ArchiveId;
use crate::snapshot::tree::{How, Stage};
use crate::volume::id::VolumeName;
use crate::volume::parameters::ARCHIVED;
use crate::volume::record::Record as VolumeRecord;
use crate::volume::record_file::{RecordFile as _, or_skip};
use crate::volume::{claims, directory_owners};

mod input;
mod members;
mod pax;
mod unpack;

/// The suffixes of archive names, and whether such an archive is compressed.
const FORMS: [(&str, bool); 2] = [(".tar.gz", true), (".tar", false)];

/// The limit on the tar headers of an archive: 1,000,000, or one for each 1024 bytes of the volume if that is more.
const MEMBERS: (u64, u64) = (1_000_000, 1024);

/// Why unpacking an archive stopped.
#[derive(Debug)]
enum Stop {
    /// The archive is refused. The text says why, and follows the archive's name in the message.
    Damaged(String),
    /// The files have more bytes than the volume may have.
    TooLarge,
    /// The archive has more members than the volume may have.
    TooMany,
    /// The archive cannot be read.
    Reading(Status),
    /// A member cannot be created.
    Making {
        /// The member's path in the volume.
        path: String,
        /// The server's answer.
        status: Status,
    },
    /// The other half of the work has ended. Its error is the one to report.
    Ended,
}

impl Stop {
    fn damaged(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }

    fn making(path: &str, status: Status) -> Self {
        match status {
            // An earlier member is a directory and has that path: nobody else makes anything in staging.
            Status::IsDir | Status::Inval | Status::NameTooLong | Status::FBig => {
                Self::Damaged(format!("has a member `{path}` that cannot be created: {status}"))
            }
            status => Self::Making { path: path.to_owned(), status },
        }
    }
}

/// An archive that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The snapshot's identifier.
    pub id: ArchiveId,
    /// The size of the archive file in bytes, which csi-driver-nfs reports, too. Only unpacking shows the size of the
    /// content.
    pub size: u64,
    /// When the archive was last written.
    pub created: Time,
    file: Name,
    gzip: bool,
    fileid: u64,
}

impl Found {
    /// The likely identifier of the source volume: that of the recorded volume with its name, or else the identifier
    /// that csi-driver-nfs gives a volume of that name without a `subDir`.
    pub async fn source<F: Fs>(&self, export: &Export<F>) -> Result<String> {
        let ArchiveId { server, share, source, .. } = &self.id;
        Ok(match or_skip(export, VolumeRecord::read(export, source).await)? {
            Some(record) => record.id.to_string(),
            None => format!("{server}#{}#{source}##", share.as_str()),
        })
    }
}

/// Finds the snapshot with that identifier.
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

/// Finds a snapshot that must exist (CSI `GetSnapshot`).
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

/// Finds the snapshot in the directory of that name. The archive must be the directory's only entry. A directory that
/// the driver cannot read is not a snapshot.
pub async fn find_in<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Found>> {
    match only_archive(export, name).await {
        Ok(Some(found)) if !is_volumes(export, name).await? => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(status) if status.is_unanswered() => Err(export.failed(format!("looking at directory `{name}`"), status)),
        Err(status) => {
            let export = export.source();
            tracing::debug!(%export, directory = %name, %status, "cannot tell whether this directory is a snapshot");
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

/// The names on the share that may be directories of snapshots, sorted: all but the driver's own directory, archived
/// volumes, and the names of recorded volumes.
pub async fn names<F: Fs>(export: &Export<F>) -> Result<BTreeSet<VolumeName>> {
    let named = export.listed(&export.fs().root(), |entry| VolumeName::of_file(&entry.name, "")).await?;
    let mut names: BTreeSet<VolumeName> = named.into_iter().collect();
    names.retain(|name| name.as_str() != SubDir::PRIVATE && !name.as_str().starts_with(ARCHIVED));
    for volume in VolumeRecord::names(export).await? {
        names.remove(&volume);
    }
    Ok(names)
}

/// The directory of that name on the share.
async fn directory<F: Fs>(export: &Export<F>, name: &VolumeName) -> FsResult<Option<F::Handle>> {
    match export.fs().lookup(&export.fs().root(), &Name::new(name.as_str())?).await {
        Ok((dir, attr)) => Ok((attr.kind == Kind::Directory).then_some(dir)),
        Err(Status::NoEnt) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Whether the directory of that name belongs to a recorded volume, or `.csi-nfs/paths` has an entry for it or for a
/// directory in it.
async fn is_volumes<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<bool> {
    match VolumeRecord::read(export, name).await {
        Ok(Some(record)) if record.id.sub_dir.as_str() == name.as_str() => return Ok(true),
        // The record does not say which directory the volume has, so assume this one.
        Err(Error::Record(_)) => return Ok(true),
        read => drop(read?),
    }
    let Some(layout) = export.layout().await? else { return Ok(false) };
    let entries = claims::read(export, &layout.paths, &name.file("")?).await?;
    Ok(!entries.claims.is_empty() || entries.node.is_some())
}

/// Deletes a snapshot (CSI `DeleteSnapshot`): its archive, and its directory if that has no other content. Succeeds if
/// the snapshot does not exist.
pub async fn delete<F: Fs>(export: &Export<F>, id: &ArchiveId) -> Result<()> {
    // The lock needs the private directory, which a call for a snapshot that does not exist must not leave.
    if export.layout().await?.is_none() && find(export, id).await?.is_none() {
        return Ok(());
    }
    // The lock of a volume that would have this directory.
    let lock = export.lock(&[id.name.as_str()]).await?;
    // This clears stale owner entries, which would make the directory look like one of a volume.
    directory_owners::neighbours(export, &SubDir::parse("snapshot_id", id.name.as_str())?, None, &lock).await?;
    let Some(found) = find(export, id).await? else { return Ok(()) };
    let failed = |status| export.failed(format!("deleting snapshot `{id}`"), status);
    let Some(dir) = directory(export, &id.name).await.map_err(failed)? else { return Ok(()) };
    if only_archive(export, &id.name).await.map_err(failed)?.as_ref() == Some(&found) {
        return trash::discard(export, &export.fs().root(), &id.name.file("")?).await.map(drop);
    }
    tracing::warn!(export = %export.source(), snapshot = %id, "kept the snapshot's directory, which has other content");
    trash::discard(export, &dir, &found.file).await.map(drop)
}

/// An archive to create a volume from.
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
    /// An archive that was found on `export`, for a volume of up to `limit` bytes; `u64::MAX` is no limit.
    pub fn new(export: Arc<Export<F>>, found: Found, limit: u64) -> Self {
        Self { export, found, limit }
    }

    /// The snapshot's identifier.
    pub fn id(&self) -> &ArchiveId {
        &self.found.id
    }

    /// The least size in bytes of the volume: the archive's size, or 0 if the volume has no limit. The content may be
    /// larger; only unpacking shows that.
    pub fn size(&self) -> u64 {
        if self.limit == u64::MAX { 0 } else { self.found.size }
    }

    /// Unpacks the whole archive into a staging directory, and returns that directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the archive was deleted or replaced; [`Error::Precondition`] if the archive is damaged,
    /// leads out of the volume, or changed during the call; [`Error::CapacityOutOfRange`] if the content exceeds the
    /// limit; [`Error::Interrupted`] if the work was cancelled; [`Error::Export`] with the path that could not be
    /// created.
    pub async fn unpack(&self, stage: &Stage<F>, how: &How) -> Result<F::Handle> {
        let (file, attr) = self.open().await?;
        let to = stage.make().await?;
        let input = input::Input::new(self.export.clone(), file, attr.size, self.found.gzip);
        let mut members = members::Members::new(input, MEMBERS.0.max(self.limit / MEMBERS.1));
        let target = stage.export();
        how.progress.begin();
        let limits = (self.limit, how.options.in_flight);
        let stopped = tokio::select! {
            biased;
            () = how.cancel.cancelled() => {
                return Err(Error::Interrupted(format!("unpacking {self} was interrupted; call again")));
            }
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

    /// Opens the archive, and checks that it is still the file that was found.
    async fn open(&self) -> Result<(F::Handle, Attr)> {
        let Found { id, file, fileid, .. } = &self.found;
        let gone =
            || Error::not_found(format!("snapshot `{id}`"), "its archive was deleted or replaced during the call");
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
                "{self} {reason}; repair the archive, or delete the snapshot and create the volume from another source"
            )),
            Stop::TooLarge => {
                Error::CapacityOutOfRange(format!("{self} holds more than {limit} bytes; create a larger volume"))
            }
            Stop::TooMany => Error::CapacityOutOfRange(format!(
                "{self} has more members than a volume of {limit} bytes may have; create a larger volume"
            )),
            Stop::Reading(status) => self.export.failed(format!("reading {self}"), status),
            Stop::Making { path, status } => target.failed(format!("unpacking {self}: creating `{path}`"), status),
            Stop::Ended => Error::Internal(format!("unpacking {self} stopped without a result")),
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
