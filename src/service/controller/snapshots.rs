//! Snapshots.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;

use super::{Controller, known, secret_options};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::service::call_span;
use crate::service::controller::content::Content;
use crate::service::controller::list::{Page, READS, Token};
use crate::service::controller::volumes::known_id;
use crate::service::int64;
use crate::service::proto::csi;
use crate::service::run_to_completion::run_to_completion;
use crate::snapshot::archive::{self};
use crate::snapshot::id::KnownId;
use crate::snapshot::lifecycle;
use crate::snapshot::parameters::Parameters;
use crate::snapshot::record::{Record, State};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::or_skip;

/// How long CreateSnapshot waits for the copy; then it answers that the snapshot is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot that was found.
pub(super) enum Known {
    Own(Record),
    Archive(archive::Found),
}

impl<C: Connect> Controller<C> {
    pub(super) async fn create_snapshot(&self, request: csi::CreateSnapshotRequest) -> Result<csi::Snapshot> {
        let name = VolumeName::parse("name", &request.name)?;
        if request.source_volume_id.is_empty() {
            return Err(Error::invalid("source_volume_id", "missing"));
        }
        let id = known_id(&request.source_volume_id)?;
        let parameters = Parameters::parse(&request.parameters)?;
        let share = parameters.place(&id.export());
        let options = self.target_options(&share, parameters, &id, &request.secrets).await?;
        let key = (share.clone(), lifecycle::job(&name));
        if let Some(error) = self.jobs.failure(&key) {
            return Err(error);
        }
        let source = request.source_volume_id;
        let work = |export: Arc<Export<C::Fs>>| {
            let (key, name, source, id) = (key.clone(), name.clone(), source.clone(), id.clone());
            let (options, secrets) = (&options, &request.secrets);
            async move {
                let found = lifecycle::find(&export, &name, &source).await?;
                if let Some(record) = found.as_ref().filter(|record| record.state == State::Ready) {
                    return Ok(record.clone());
                }
                let content = self.content_of_volume(&id, secrets).await;
                if let (Err(Error::NotFound { .. }), Some(pending)) = (&content, found) {
                    let export = export.clone();
                    run_to_completion(async move { lifecycle::give_up(&export, &pending).await }).await?;
                }
                let Content { tree, of, size } = content?;
                let create = lifecycle::Create { name: name.clone(), source, size, mount_options: options.recorded() };
                let begin = {
                    let (export, tree) = (export.clone(), tree.clone());
                    async move { lifecycle::begin(&export, &create, &tree).await }
                };
                let begun = run_to_completion(begin).await?;
                if begun.state == State::Ready {
                    return Ok(begun);
                }
                let (target, copied) = (export.clone(), name.clone());
                let copy = async move |how| lifecycle::fill(&target, &copied, &tree, &how).await;
                let mut copy = self.jobs.join(key, vec![of], copy);
                in_time(copy.wait(), begun, lifecycle::get(&export, &name)).await
            }
        };
        self.on(&share, &options, work).await.map(|record| snapshot(&record))
    }

    /// The options to mount an export with on which a snapshot of a volume is put.
    pub(super) async fn target_options(
        &self,
        share: &Source,
        parameters: Parameters,
        volume: &VolumeId,
        secrets: &HashMap<String, String>,
    ) -> Result<MountOptions> {
        call_span::server(share.server.as_str());
        match (parameters.mount_options, secret_options(secrets)?) {
            (Some(options), _) | (None, Some(options)) => Ok(options),
            (None, None) if *share == volume.export() => self.volume_options(volume, share, secrets).await,
            (None, None) => Ok(self.settings.mount_options.clone()),
        }
    }

    pub(super) async fn delete_snapshot(&self, request: csi::DeleteSnapshotRequest) -> Result<()> {
        if request.snapshot_id.is_empty() {
            return Err(Error::invalid("snapshot_id", "missing"));
        }
        // CSI: a snapshot that cannot exist is deleted.
        let Ok(id) = KnownId::parse(&request.snapshot_id) else { return Ok(()) };
        if let KnownId::Own(id) = &id {
            self.jobs.end(&(id.export(), lifecycle::job(&id.name))).await;
        }
        let delete = |export: Arc<Export<C::Fs>>| {
            let id = id.clone();
            run_to_completion(async move {
                match id {
                    KnownId::Own(id) => lifecycle::delete(&export, &id.name).await,
                    KnownId::Archive(id) => archive::delete(&export, &id).await,
                }
            })
        };
        let (share, options) = self.snapshot_options(&id, &request.secrets).await?;
        self.on(&share, &options, delete).await?;
        self.jobs.end_copies_of(&id.to_string());
        Ok(())
    }

    pub(super) async fn get_snapshot(&self, id: &str, secrets: &HashMap<String, String>) -> Result<csi::Snapshot> {
        if id.is_empty() {
            return Err(Error::invalid("snapshot_id", "missing"));
        }
        match self.find_snapshot(&known_snapshot(id)?, secrets).await? {
            (_, Known::Own(record)) => Ok(snapshot(&record)),
            (export, Known::Archive(found)) => archived(&export, &found).await,
        }
    }

    pub(super) async fn list_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse> {
        let (start, mut page) = (Token::parse(&request.starting_token)?, Page::new(request.max_entries)?);
        let entry = |snapshot| csi::list_snapshots_response::Entry { snapshot: Some(snapshot) };
        if !request.snapshot_id.is_empty() {
            let entries = match self.get_snapshot(&request.snapshot_id, &request.secrets).await {
                Ok(found) if [found.source_volume_id.as_str(), ""].contains(&request.source_volume_id.as_str()) => {
                    vec![entry(found)]
                }
                Ok(_) | Err(Error::NotFound { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            return Ok(csi::ListSnapshotsResponse { entries, next_token: String::new() });
        }
        let source = &request.source_volume_id;
        let mut exports = self.pool.known();
        // The volume's own export may not have been named to this process yet.
        if let Some(share) = VolumeId::parse(source).ok().map(|id| id.export())
            && !exports.iter().any(|(known, _)| *known == share)
        {
            let options = self.reach(&share).await?;
            exports.push((share, options));
            exports.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        for (share, options) in exports {
            if start.is_after(&share) {
                continue;
            }
            let (after, room) = (start.last_of(&share), page.room());
            let ready = |export: Arc<Export<C::Fs>>| async move {
                // Whether it has a record. A name is listed once: an archive of the same name is found by its identifier.
                let archives = archive::names(&export).await?.into_iter().map(|name| (name, false));
                let mut names: BTreeMap<VolumeName, bool> = archives.collect();
                names.extend(lifecycle::names(&export).await?.into_iter().map(|name| (name, true)));
                names.retain(|name, _| after.is_none_or(|last| name > last));
                let read = async |(name, recorded): (VolumeName, bool)| {
                    let found = if recorded {
                        let record = or_skip(&export, lifecycle::read(&export, &name).await)?;
                        record.filter(|record| record.state == State::Ready).map(|record| snapshot(&record))
                    } else {
                        match archive::find_in(&export, &name).await? {
                            Some(found) => Some(archived(&export, &found).await?),
                            None => None,
                        }
                    };
                    let wanted = |found: &csi::Snapshot| source.is_empty() || found.source_volume_id == *source;
                    Ok(found.filter(wanted).map(|found| (name, found)))
                };
                let found =
                    stream::iter(names).map(read).buffered(READS).try_filter_map(|found| std::future::ready(Ok(found)));
                found.take(room.saturating_add(1)).try_collect::<Vec<_>>().await
            };
            if !page.take(&share, self.on(&share, &options, ready).await?) {
                break;
            }
        }
        let next_token = page.next_token();
        let entries = page.entries.into_iter().map(|(_, _, snapshot)| entry(snapshot)).collect();
        Ok(csi::ListSnapshotsResponse { entries, next_token })
    }

    pub(super) async fn find_snapshot(
        &self,
        id: &KnownId,
        secrets: &HashMap<String, String>,
    ) -> Result<(Arc<Export<C::Fs>>, Known)> {
        let (share, options) = self.snapshot_options(id, secrets).await?;
        let get = |export: Arc<Export<C::Fs>>| async move {
            let found = match id {
                KnownId::Own(id) => Known::Own(lifecycle::get(&export, &id.name).await?),
                KnownId::Archive(id) => Known::Archive(archive::get(&export, id).await?),
            };
            Ok((export, found))
        };
        self.on(&share, &options, get).await
    }

    /// The export of a snapshot, and the options to reach it by: the secrets', else those of the snapshot's record.
    async fn snapshot_options(
        &self,
        id: &KnownId,
        secrets: &HashMap<String, String>,
    ) -> Result<(Source, MountOptions)> {
        let share = id.export();
        call_span::server(share.server.as_str());
        let recorded = |export: Arc<Export<C::Fs>>| async move {
            let KnownId::Own(id) = id else { return Ok(None) };
            Ok(Record::read(&export, &id.name).await?.map(|record| record.mount_options))
        };
        let options = self.recorded_options(&share, secrets, recorded).await?;
        Ok((share, options))
    }
}

/// What is answered of a copy that was begun: how it ended, or, where that takes too long, that it goes on.
pub(super) async fn in_time<T>(
    copy: impl Future<Output = Result<()>>,
    begun: T,
    ended: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(PATIENCE, copy).await {
        Ok(done) => {
            done?;
            ended.await
        }
        Err(_) => Ok(begun),
    }
}

/// Parses the identifier of a snapshot that has to exist.
pub(super) fn known_snapshot(text: &str) -> Result<KnownId> {
    known("snapshot", text, KnownId::parse(text))
}

fn snapshot(record: &Record) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: int64(record.size),
        snapshot_id: record.id.to_string(),
        source_volume_id: record.source.clone(),
        creation_time: Some(timestamp(record.created)),
        ready_to_use: record.state == State::Ready,
        group_snapshot_id: record.group_id().map_or_else(String::new, |group| group.to_string()),
        ..csi::Snapshot::default()
    }
}

async fn archived<F: Fs>(export: &Export<F>, found: &archive::Found) -> Result<csi::Snapshot> {
    Ok(csi::Snapshot {
        size_bytes: int64(found.size),
        snapshot_id: found.id.to_string(),
        source_volume_id: found.source(export).await?,
        creation_time: Some(prost_types::Timestamp {
            seconds: found.created.seconds,
            nanos: i32::try_from(found.created.nanoseconds).unwrap_or_default(),
        }),
        ready_to_use: true,
        ..csi::Snapshot::default()
    })
}

/// A time in seconds since the epoch.
pub(super) fn timestamp(seconds: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: int64(seconds), nanos: 0 }
}
