//! DeleteVolume, also of a volume that is being created, copied, or backed by a snapshot.

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use crate::error::Result;
use crate::export::Export;
use crate::export::pool::Connect;
use crate::export::run_to_completion::run_to_completion;
use crate::nfs::options::MountOptions;
use crate::snapshot::create_volume::job;
use crate::snapshot::jobs::Jobs;
use crate::snapshot::snapshot_backed;
use crate::volume::delete::{self, DeletePolicy};
use crate::volume::exports::{Exports, Reached};
use crate::volume::id::VolumeId;
use crate::volume::lock::lock;

/// Deletes a volume. Cancels its creation, and the copies of it. Succeeds if the volume does not exist.
///
/// # Errors
/// As [`delete::delete`].
pub async fn delete_volume<C: Connect>(
    exports: &Exports<C>,
    jobs: &Jobs,
    id: &VolumeId,
    policy: DeletePolicy,
    secret: Option<&MountOptions>,
) -> Result<()> {
    if let Some(name) = id.name() {
        jobs.end(&(id.export(), job(&name))).await;
    }
    let delete = |export: Arc<Export<C::Fs>>, reached: Reached| async move {
        if delete::is_gone(&export, id).await? {
            return Ok(Break(()));
        }
        // A caller may give up while it waits for the lock. After that, the deletion runs to completion.
        let (id, lock) = (id.clone(), lock(&export, id).await?);
        run_to_completion(async move {
            let found = delete::find(&export, &id, &lock).await?;
            if let Some(others) = reached.others(found.record.as_ref())? {
                return Ok(Continue(others));
            }
            match delete::delete(&export, &id, policy, found, &lock).await? {
                Some(record) => snapshot_backed::delete(&export, &record, &lock).await.map(Break),
                None => Ok(Break(())),
            }
        })
        .await
    };
    exports.on_volume_or_again(id, secret, delete).await?;
    jobs.end_copies_of(&id.to_string());
    Ok(())
}
