//! DeleteSnapshot and DeleteVolumeGroupSnapshot, also of a snapshot that is being created or restored.

use std::sync::Arc;

use crate::error::Result;
use crate::export::Export;
use crate::export::pool::Connect;
use crate::export::run_to_completion::run_to_completion;
use crate::nfs::options::MountOptions;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::id::{GroupId, KnownId};
use crate::snapshot::jobs::Jobs;
use crate::snapshot::lock::job;
use crate::snapshot::{archive, delete, find, group};
use crate::volume::exports::Exports;
use crate::volume::record_file::RecordFile as _;

/// Deletes a snapshot. Cancels its copy, and the restores from it. Succeeds if the snapshot does not exist.
///
/// # Errors
/// As [`delete::delete`] and [`archive::delete`].
pub async fn delete_snapshot<C: Connect>(
    exports: &Exports<C>,
    jobs: &Jobs,
    id: &KnownId,
    secret: Option<&MountOptions>,
) -> Result<()> {
    if let KnownId::Own(id) = id {
        jobs.end(&(id.export(), job(&id.name))).await;
    }
    let options = find::options(exports, id, secret).await?;
    let delete = |export: Arc<Export<C::Fs>>| {
        let id = id.clone();
        run_to_completion(async move {
            match id {
                KnownId::Own(id) => delete::delete(&export, &id.name).await,
                KnownId::Archive(id) => archive::delete(&export, &id).await,
            }
        })
    };
    exports.on(&id.export(), &options, delete).await?;
    jobs.end_copies_of(&id.to_string());
    Ok(())
}

/// Deletes a group and its snapshots. `snapshots` must name exactly these. Succeeds if the group does not exist.
///
/// # Errors
/// As [`group::delete`].
pub async fn delete_group<C: Connect>(
    exports: &Exports<C>,
    jobs: &Jobs,
    id: &GroupId,
    snapshots: &[String],
    secret: Option<&MountOptions>,
) -> Result<()> {
    let options = find::group_options(exports, id, secret).await?;
    let read = |export: Arc<Export<C::Fs>>| async move { GroupRecord::read(&export, &id.name).await };
    if let Some(record) = exports.on(&id.export, &options, read).await? {
        // A call that is refused must not cancel the copy.
        record.check_members(snapshots)?;
    }
    jobs.end(&(id.export.clone(), group::job(&id.name))).await;
    let delete = |export: Arc<Export<C::Fs>>| {
        let (name, snapshots) = (id.name.clone(), snapshots.to_vec());
        run_to_completion(async move { group::delete(&export, &name, &snapshots).await })
    };
    exports.on(&id.export, &options, delete).await?;
    snapshots.iter().for_each(|snapshot| jobs.end_copies_of(snapshot));
    Ok(())
}
