//! Finds and creates the directories of volumes.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Kind, Name, SetAttr, Status, Step};
use crate::export::owner_access;
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::parameters::Attributes;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// The default mode of a volume's directory, and the mode of the directories that are created above it.
const DIRECTORY_MODE: u32 = 0o755;

/// The directory; `None` if it does not exist or is not a directory.
pub async fn find<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<Option<F::Handle>> {
    match export.find_dir(&export.fs().root(), sub_dir.names()).await {
        Err(Error::Export { status: Status::NotDir, .. }) => Ok(None),
        found => found,
    }
}

/// Whether a directory exists and is not empty.
pub(super) async fn has_content<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<bool> {
    match find(export, sub_dir).await? {
        Some(dir) => Ok(!export.is_empty(&dir).await?),
        None => Ok(false),
    }
}

/// Whether the directory in the volume's place is the one that was staged for the volume.
pub async fn is_placed<F: Fs>(export: &Export<F>, record: &Record) -> Result<bool> {
    let found = file_id(export, record).await?;
    Ok(found.is_some() && found == record.staged)
}

/// The file ID of the directory in the volume's place; `None` if there is no directory.
pub async fn file_id<F: Fs>(export: &Export<F>, record: &Record) -> Result<Option<u64>> {
    let failed = |status| export.failed(format!("looking at directory `{}`", record.id.sub_dir), status);
    match find(export, &record.id.sub_dir).await? {
        Some(dir) => Ok(Some(export.fs().getattr(&dir).await.map_err(failed)?.fileid)),
        None => Ok(None),
    }
}

/// Creates a volume's directory so that nobody sees it without its mode and owner. An existing directory gets the mode
/// and owner that `attributes` set. Returns whether the directory existed.
pub(super) async fn make<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    sub_dir: &SubDir,
    attributes: Attributes,
) -> Result<bool> {
    export.despite_removals(|| make_in_place(export, name, sub_dir, attributes)).await
}

/// Like [`make`], and then writes the volume's record, both in one request where the client can. Returns whether both is
/// done. If not, the caller goes on step by step, and meets what is in the way.
pub(super) async fn make_and_record<F: Fs>(
    export: &Export<F>,
    sub_dir: &SubDir,
    attributes: Attributes,
    record: &Record,
) -> Result<bool> {
    let Some(mode) = plain(attributes) else { return Ok(false) };
    let make = || async {
        let at = make_parent(export, sub_dir).await?;
        let (done, ended) = export.fs().in_order(&[Step::Mkdir { at, mode }, record.writing(export).await?]).await;
        match ended {
            Err(status) if status.is_unanswered() || (done, status) == (0, Status::Stale) => {
                Err(export.failed(format!("creating directory `{sub_dir}` and its record"), status))
            }
            ended => Ok(ended.is_ok()),
        }
    };
    export.despite_removals(make).await
}

/// The mode of a directory that is made at once with all that `attributes` set; `None` if that takes several steps.
fn plain(attributes: Attributes) -> Option<u32> {
    let mode = attributes.mode.unwrap_or(DIRECTORY_MODE);
    (attributes.uid.is_none() && attributes.gid.is_none() && mode <= 0o777).then_some(mode)
}

async fn make_in_place<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    sub_dir: &SubDir,
    attributes: Attributes,
) -> Result<bool> {
    let fs = export.fs();
    let failed = |status| export.failed(format!("creating directory `{sub_dir}`"), status);
    let (parent, last) = make_parent(export, sub_dir).await?;
    if let Some(mode) = plain(attributes) {
        match fs.mkdir(&parent, &last, mode).await {
            Err(Status::Exist) => {}
            made => return made.map(|_| false).map_err(failed),
        }
    }
    if let Some((directory, attr)) = export.find(&parent, &last).await? {
        if attr.kind != Kind::Directory {
            return Err(failed(Status::NotDir));
        }
        return fs.setattr(&directory, set_attr(attributes)).await.map(|()| true).map_err(failed);
    }
    let layout = export.make_layout().await?;
    let staged = Name::new(name.as_str()).map_err(failed)?;
    let (directory, _) = match fs.mkdir(&layout.staging, &staged, 0o700).await {
        // A process that crashed here left it. Because of the volume's lock, nobody else uses it.
        Err(Status::Exist) => fs.lookup(&layout.staging, &staged).await.map_err(failed)?,
        made => made.map_err(failed)?,
    };
    let attr = SetAttr { mode: attributes.mode.or(Some(DIRECTORY_MODE)), ..set_attr(attributes) };
    let place = async {
        fs.setattr(&directory, attr).await?;
        owner_access::rename(fs, (&layout.staging, &staged), (&parent, &last)).await
    };
    let placed = place.await;
    if let Err(status) = placed
        && !status.is_unanswered()
        && let Err(left) = fs.rmdir(&layout.staging, &staged).await
    {
        // Setting the owner fails, for example, if the server squashes root.
        tracing::debug!(name = %staged, %left, "a directory stays in staging and will be swept later");
    }
    placed.map(|()| false).map_err(failed)
}

/// The directory that contains a volume's directory, which is made if it is missing, and the name there. Until something
/// is in it, another call may remove it: see [`Export::despite_removals`].
pub(super) async fn make_parent<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<(F::Handle, Name)> {
    let (above, last) = split(sub_dir)?;
    Ok((export.make_dirs(&export.fs().root(), above, DIRECTORY_MODE).await?, last))
}

/// The path of the directory above a directory; `None` for one that is directly in the share.
pub(super) fn above(sub_dir: &SubDir) -> Option<&str> {
    sub_dir.as_str().rsplit_once('/').map(|(above, _)| above)
}

/// The names of the directories above a directory, from the share downwards, and its own name.
pub(super) fn split(sub_dir: &SubDir) -> Result<(Vec<Name>, Name)> {
    let mut names: Vec<Name> = sub_dir.names().collect();
    let last = names.pop().ok_or_else(|| Error::Internal("the volume's directory has an empty path".to_owned()))?;
    Ok((names, last))
}

pub(super) fn set_attr(attributes: Attributes) -> SetAttr {
    SetAttr { mode: attributes.mode, uid: attributes.uid, gid: attributes.gid, ..SetAttr::default() }
}
