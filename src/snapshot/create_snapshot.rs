//! CreateSnapshot and CreateVolumeGroupSnapshot: one workflow for a snapshot of one volume and for a group of
//! snapshots.
//!
//! The call writes a record that says `pending`. A job of the process copies the trees and changes the record to
//! `ready`. A retry joins the job. `single.rs` and `group.rs` have the steps on the export.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::export::run_to_completion::run_to_completion;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::snapshot::content::tree_of_volume;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::jobs::{self, Jobs};
use crate::snapshot::lock::job;
use crate::snapshot::record::{Record, State};
use crate::snapshot::tree::{How, Tree};
use crate::snapshot::{group, single};
use crate::volume::exports::Exports;
use crate::volume::id::VolumeId;

/// How long a call waits for the copy. After that, it answers that the snapshot is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot of one volume, or a group of snapshots.
pub trait Taken: Clone + Send + Sync + 'static {
    /// The record of the snapshot or group.
    type Record: Clone + PartialEq + Send + Sync + 'static;

    /// The name of the copy job.
    fn job(&self) -> String;
    /// The state that the record says.
    fn state(record: &Self::Record) -> State;
    /// Finds the record that an earlier call wrote.
    fn find<F: Fs>(&self, export: &Export<F>) -> impl Future<Output = Result<Option<Self::Record>>> + Send;
    /// Writes the pending record, or finds the record that an earlier call wrote.
    fn begin<F: Fs>(
        &self,
        export: &Export<F>,
        trees: &[Tree<F>],
        mount_options: Vec<String>,
    ) -> impl Future<Output = Result<Self::Record>> + Send;
    /// Copies the volumes' trees, and changes the record to `ready`.
    fn fill<F: Fs>(
        &self,
        export: &Arc<Export<F>>,
        trees: &[Tree<F>],
        how: &How,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Deletes the pending snapshot or group of that record. Does nothing if the record has changed.
    fn give_up<F: Fs>(export: &Export<F>, record: &Self::Record) -> impl Future<Output = Result<()>> + Send;
}

impl Taken for single::Create {
    type Record = Record;

    fn job(&self) -> String {
        job(&self.name)
    }

    fn state(record: &Record) -> State {
        record.state
    }

    async fn find<F: Fs>(&self, export: &Export<F>) -> Result<Option<Record>> {
        single::find(export, &self.name, &self.source).await
    }

    async fn begin<F: Fs>(&self, export: &Export<F>, trees: &[Tree<F>], mount_options: Vec<String>) -> Result<Record> {
        single::begin(export, self, only(trees)?, mount_options).await
    }

    async fn fill<F: Fs>(&self, export: &Arc<Export<F>>, trees: &[Tree<F>], how: &How) -> Result<()> {
        single::fill(export, &self.name, only(trees)?, how).await.map(drop)
    }

    async fn give_up<F: Fs>(export: &Export<F>, record: &Record) -> Result<()> {
        single::give_up(export, record).await
    }
}

/// The tree of the snapshot's one source volume.
fn only<F: Fs>(trees: &[Tree<F>]) -> Result<&Tree<F>> {
    match trees {
        [tree] => Ok(tree),
        _ => Err(Error::Internal(format!("a snapshot has one source volume, not {}", trees.len()))),
    }
}

impl Taken for group::Create {
    type Record = GroupRecord;

    fn job(&self) -> String {
        group::job(&self.name)
    }

    fn state(record: &GroupRecord) -> State {
        record.state
    }

    async fn find<F: Fs>(&self, export: &Export<F>) -> Result<Option<GroupRecord>> {
        group::find(export, &self.name, &self.sources).await
    }

    async fn begin<F: Fs>(
        &self,
        export: &Export<F>,
        trees: &[Tree<F>],
        mount_options: Vec<String>,
    ) -> Result<GroupRecord> {
        group::begin(export, self, trees, mount_options).await
    }

    async fn fill<F: Fs>(&self, export: &Arc<Export<F>>, trees: &[Tree<F>], how: &How) -> Result<()> {
        group::fill(export, &self.name, trees, how).await
    }

    async fn give_up<F: Fs>(export: &Export<F>, record: &GroupRecord) -> Result<()> {
        group::give_up(export, record).await
    }
}

/// A request for a snapshot or for a group of snapshots.
#[derive(Debug, Clone)]
pub struct CreateSnapshot<T> {
    /// The snapshot or group.
    pub what: T,
    /// The source volumes, in the order in which `what` names them.
    pub volumes: Vec<VolumeId>,
    /// The export that the snapshot or group is created on.
    pub share: Source,
    /// The mount options for that export, if the class or the secret has any.
    pub options: Option<MountOptions>,
    /// The mount options of the secret. The driver uses them for the exports of the source volumes.
    pub secret: Option<MountOptions>,
}

/// Creates a snapshot or a group of snapshots, or finds the one that an earlier call with the same arguments created.
///
/// If the copy of an earlier call is under way, this call joins it. If the copy takes longer than [`PATIENCE`], the
/// call returns the pending record, and the copy continues.
///
/// # Errors
/// As [`single::begin`] and [`group::begin`]. [`Error::NotFound`] if a source volume does not exist: then the pending
/// snapshot or group of an earlier call is deleted. The error of the copy, including a copy whose caller had gone.
pub async fn create_snapshot<C: Connect, T: Taken>(
    exports: &Exports<C>,
    jobs: &Arc<Jobs>,
    asked: &CreateSnapshot<T>,
) -> Result<T::Record> {
    let CreateSnapshot { what, share, secret, .. } = asked;
    let options = &mount_options(exports, asked).await?;
    let key = &(share.clone(), what.job());
    if let Some(error) = jobs.failure(key) {
        return Err(error);
    }
    let work = |export: Arc<Export<C::Fs>>| async move {
        let ready =
            async || Ok::<_, Error>(what.find(&export).await?.filter(|record| T::state(record) == State::Ready));
        let found = what.find(&export).await?;
        if let Some(record) = found.as_ref().filter(|record| T::state(record) == State::Ready) {
            return Ok(record.clone());
        }
        let trees = asked.volumes.iter().map(|volume| tree_of_volume(exports, volume, secret.as_ref()));
        let trees = try_join_all(trees).await;
        if let (Err(Error::NotFound { .. }), Some(pending)) = (&trees, found) {
            let given_up = export.clone();
            run_to_completion(async move { T::give_up(&given_up, &pending).await }).await?;
            // The copy may have ended meanwhile.
            if let Some(ready) = ready().await? {
                return Ok(ready);
            }
        }
        let trees = trees?;
        let begin = {
            let (what, export, trees, options) = (what.clone(), export.clone(), trees.clone(), options.recorded());
            async move { what.begin(&export, &trees, options).await }
        };
        let begun = run_to_completion(begin).await?;
        if T::state(&begun) == State::Ready {
            return Ok(begun);
        }
        let of = trees.iter().map(|tree| tree.of.to_string()).collect();
        let (taken, target) = (what.clone(), export.clone());
        let copy = async move |how| taken.fill(&target, &trees, &how).await;
        match timeout(PATIENCE, jobs.join(key.clone(), of, copy).wait()).await {
            Ok(Err(error)) => Err(jobs::failed(error, &begun, what.find(&export)).await),
            Ok(Ok(())) => {
                let gone =
                    || Error::Interrupted("the snapshot was deleted just after it was taken; call again".to_owned());
                ready().await?.ok_or_else(gone)
            }
            Err(_) => Ok(begun),
        }
    };
    let answer = exports.on(share, options, work).await;
    jobs.end_after(key, &answer).await;
    answer
}

/// The mount options for the export that the snapshot or group is created on.
async fn mount_options<C: Connect, T>(exports: &Exports<C>, asked: &CreateSnapshot<T>) -> Result<MountOptions> {
    match (&asked.options, asked.volumes.first()) {
        (Some(options), _) => Ok(options.clone()),
        (None, Some(volume)) if asked.share == volume.export() => {
            exports.volume_options(volume, asked.secret.as_ref()).await
        }
        (None, _) => Ok(exports.configured(&asked.share).clone()),
    }
}
