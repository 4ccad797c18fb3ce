//! CreateVolume: an empty volume, or a volume with content.
//!
//! For a volume with content, the call writes a record that says `pending`. A job of the process copies the content
//! into place (`volume/fill.rs`) and completes the record. A retry joins the job. A read-only volume may be backed by a
//! snapshot instead, without a copy.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::export::run_to_completion::run_to_completion;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::snapshot::content::{self, Content};
use crate::snapshot::copies::Key;
use crate::snapshot::jobs::{self, Jobs, Running};
use crate::snapshot::snapshot_backed;
use crate::snapshot::tree::{How, Stage};
use crate::volume::create::{Create, check_same, create};
use crate::volume::directory;
use crate::volume::exports::Exports;
use crate::volume::fill::{self, Begun};
use crate::volume::id::VolumeName;
use crate::volume::lock::lock;
use crate::volume::record::{Origin, Record};
use crate::volume::record_file::RecordFile as _;

/// A request for a volume.
#[derive(Debug, Clone)]
pub struct CreateVolume {
    /// The volume.
    pub volume: Create,
    /// The export that the volume is created on.
    pub share: Source,
    /// The mount options for that export.
    pub options: MountOptions,
    /// The mount options of the secret. The driver uses them for the export of the content's source.
    pub secret: Option<MountOptions>,
    /// Whether a snapshot may back the volume: the volume is read-only, and its class allows it.
    pub may_show: bool,
    /// How long the call waits.
    pub waits: Waits,
}

/// Until when a call waits.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For the quota agent.
    pub agent: Instant,
    /// For a copy, before it answers how far the copy is; `None` until the copy ends.
    pub copy: Option<Instant>,
}

impl CreateVolume {
    fn key(&self) -> Key {
        (self.share.clone(), job(&self.volume.name))
    }

    /// Whether a snapshot may back the volume. A requested mode or owner needs a directory of the volume's own.
    fn may_show(&self) -> bool {
        let asked = &self.volume.asked;
        self.may_show && asked.mode.is_none() && asked.uid.is_none() && asked.gid.is_none()
    }
}

/// Creates a volume, or finds the one that an earlier call with the same arguments created. If the copy of an earlier
/// call is under way, this call joins it.
///
/// # Errors
/// As [`create`](crate::volume::create::create), [`fill::begin`] and [`content::find`]; the error of the copy,
/// including a copy whose caller had gone; [`Error::UnderWay`] if the copy takes longer than the call waits. If the
/// source is gone, the pending volume of an earlier call is deleted.
pub async fn create_volume<C: Connect>(exports: &Exports<C>, jobs: &Arc<Jobs>, asked: &CreateVolume) -> Result<Record> {
    let Some(origin) = &asked.volume.origin else {
        return exports.on(&asked.share, &asked.options, |export| empty(export, asked)).await;
    };
    if let Some(error) = jobs.failure(&asked.key()) {
        return Err(error);
    }
    let work = |export: Arc<Export<C::Fs>>| async move {
        let name = &asked.volume.name;
        let begun = Record::read(&export, name).await?;
        if let Some(record) = &begun {
            check_same(&asked.volume, &asked.volume.id(&export)?, record)?;
        }
        let content = match begun {
            // The volume is complete. Its source may be deleted by now, so the source is not looked for.
            Some(record) if !record.pending => None,
            begun => match find(exports, asked, origin).await {
                Err(gone @ Error::NotFound { .. }) if begun.is_some() => {
                    settle(&export, name).await?.ok_or(gone)?;
                    None
                }
                found => Some(found?),
            },
        };
        match (begin(&export, asked, content.as_ref()).await?, content) {
            (Begun::Whole(record), _) => return Ok(record),
            (Begun::Pending(begun), Some(content)) => {
                let (of, target, filled) = (vec![content.of()], export.clone(), asked.volume.clone());
                let copy = async move |how| fill(&target, &filled, &content, &how).await;
                let running = jobs.join(asked.key(), of, copy);
                if let Err(error) = wait(running, asked).await {
                    return Err(jobs::failed(error, &begun, Record::read(&export, name)).await);
                }
            }
            (Begun::Pending(_), None) => {}
        }
        match Record::read(&export, name).await? {
            Some(record) if !record.pending => Ok(record),
            _ => Err(Error::Interrupted(format!("volume `{name}` changed while it was made; call again"))),
        }
    };
    let answer = exports.on(&asked.share, &asked.options, work).await;
    jobs.end_after(&asked.key(), &answer).await;
    answer
}

/// Waits for a copy as long as the call may. The answer of a call that waited in vain says how far the copy is.
async fn wait(mut running: Running, asked: &CreateVolume) -> Result<()> {
    let Some(until) = asked.waits.copy else { return running.wait().await };
    match timeout_at(until, running.wait()).await {
        Ok(done) => done,
        Err(_) => Err(Error::UnderWay(format!(
            "volume `{}` is being filled: {}; the copy goes on, call again",
            asked.volume.name,
            running.copy()
        ))),
    }
}

/// Settles a volume whose source is gone: waits for a copy under way, here or on another controller, of the source as
/// it was. Returns the volume's record if its content is in place then. Otherwise gives the volume up.
async fn settle<F: Fs>(export: &Arc<Export<F>>, name: &VolumeName) -> Result<Option<Record>> {
    // A caller may give up while it waits for the copy.
    let stage = Stage::take(export, &job(name), &CancellationToken::new()).await?;
    let (export, name) = (export.clone(), name.clone());
    run_to_completion(async move {
        let _stage = stage;
        let record = match Record::read(&export, &name).await? {
            Some(record) if record.pending => record,
            whole => return Ok(whole),
        };
        let lock = lock(&export, &record.id).await?;
        if directory::is_placed(&export, &record).await? {
            return fill::finish(&export, &record, &name, &lock).await.map(Some);
        }
        fill::abandon(&export, &record, &name, &lock).await?;
        Ok(None)
    })
    .await
}

async fn empty<F: Fs>(export: Arc<Export<F>>, asked: &CreateVolume) -> Result<Record> {
    // A caller may give up while it waits for the lock. After that, the creation runs to completion.
    let lock = lock(&export, &asked.volume.id(&export)?).await?;
    let (volume, until) = (asked.volume.clone(), asked.waits.agent);
    run_to_completion(async move { create(&export, &volume, until, &lock).await }).await
}

async fn find<C: Connect>(exports: &Exports<C>, asked: &CreateVolume, origin: &Origin) -> Result<Content<C::Fs>> {
    content::find(exports, origin, asked.volume.capacity, asked.secret.as_ref()).await
}

/// Writes the pending record of a volume with content, or finds the record of an earlier call. `content` is `None` if
/// the volume is complete already.
async fn begin<F: Fs>(export: &Arc<Export<F>>, asked: &CreateVolume, content: Option<&Content<F>>) -> Result<Begun> {
    let lock = lock(export, &asked.volume.id(export)?).await?;
    let size = content.map(Content::size);
    let shown = content.filter(|_| asked.may_show()).and_then(|content| content.snapshot_on(export.source())).cloned();
    let (export, volume, until) = (export.clone(), asked.volume.clone(), asked.waits.agent);
    run_to_completion(async move {
        let begun = Record::read(&export, &volume.name).await?;
        match shown.filter(|_| begun.is_none()) {
            Some(snapshot) => snapshot_backed::create(&export, &volume, &snapshot, &lock).await.map(Begun::Whole),
            None => fill::begin(&export, &volume, size, until, &lock).await,
        }
    })
    .await
}

/// The name of a volume's copy in staging, and of the lock of that copy. It has a `#`, which no volume's name has.
pub fn job(name: &VolumeName) -> String {
    format!("#volume#{name}")
}

/// Copies the content of a pending volume, and completes the volume's record. If the copy fails, gives the volume up.
///
/// # Errors
/// As [`Stage::fill`] and [`Archive::unpack`](crate::snapshot::archive::Archive::unpack); [`Error::Interrupted`] if the
/// volume was deleted during the copy; [`Error::Conflict`] if the volume's directory has other content.
pub async fn fill<F: Fs>(export: &Arc<Export<F>>, volume: &Create, content: &Content<F>, how: &How) -> Result<()> {
    let name = &volume.name;
    let stage = Stage::take(export, &job(name), &how.cancel).await?;
    let turn = how.place.turn(&how.cancel).await;
    let record = match Record::read(export, name).await? {
        Some(record) if !record.pending => return Ok(()),
        Some(record) => record,
        None => return Err(Error::Interrupted(format!("volume `{name}` was deleted while it was filled"))),
    };
    let (record, filled) = if directory::is_placed(export, &record).await? {
        (record, Ok(None))
    } else {
        let anew = async { fill::begin_anew(export, &record, volume, content.size_now().await?).await };
        match anew.await {
            Ok(anew) => {
                let filled = match fill::check_free(export, &anew).await {
                    Ok(()) => content.fill(&stage, how).await.map(Some),
                    Err(taken) => Err(taken),
                };
                (anew, filled)
            }
            Err(error) => (record, Err(error)),
        }
    };
    // What is left to do is short, and waits for locks.
    drop(turn);
    let root = match filled {
        Ok(root) => root,
        Err(error) => {
            give_up(export, &stage, &record, name, how).await?;
            return Err(error);
        }
    };
    let lock = lock(export, &record.id).await?;
    let placed = match root {
        Some(root) => fill::place(export, &record, name, (&root, stage.name()), &lock).await,
        None => Ok(record.clone()),
    };
    if let Err(error @ (Error::Conflict { .. } | Error::Interrupted(_))) = placed {
        drop(lock);
        give_up(export, &stage, &record, name, how).await?;
        return Err(error);
    }
    fill::finish(export, &placed?, name, &lock).await.map(drop)
}

async fn give_up<F: Fs>(
    export: &Export<F>,
    stage: &Stage<F>,
    record: &Record,
    name: &VolumeName,
    how: &How,
) -> Result<()> {
    stage.discard().await?;
    if how.ending.is_cancelled() {
        return Ok(());
    }
    let lock = lock(export, &record.id).await?;
    fill::abandon(export, record, name, &lock).await
}
