//! Converts requests and responses for snapshots.

use std::sync::Arc;

use super::{Controller, existing_volume, secret_options};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::service::call_span;
use crate::service::controller::list::{self, Page, Position, Token};
use crate::service::int64;
use crate::service::proto::csi;
use crate::snapshot::create_snapshot::{CreateSnapshot, create_snapshot};
use crate::snapshot::delete_snapshot::delete_snapshot;
use crate::snapshot::find::{self, Found, Place};
use crate::snapshot::id::KnownId;
use crate::snapshot::parameters::Parameters;
use crate::snapshot::record::State;
use crate::snapshot::single;
use crate::volume::id::{VolumeId, VolumeName};

impl<C: Connect> Controller<C> {
    pub(super) async fn create_snapshot(&self, request: csi::CreateSnapshotRequest) -> Result<csi::Snapshot> {
        let name = VolumeName::parse("name", &request.name)?;
        if request.source_volume_id.is_empty() {
            return Err(Error::invalid("source_volume_id", "missing"));
        }
        let volume = existing_volume(&request.source_volume_id)?;
        let parameters = Parameters::parse(&request.parameters)?;
        let share = parameters.place(&volume.export());
        call_span::export(&share);
        let secret = secret_options(&request.secrets)?;
        let asked = CreateSnapshot {
            what: single::Create { name, source: request.source_volume_id },
            volumes: vec![volume],
            share,
            options: parameters.mount_options.or_else(|| secret.clone()),
            secret,
        };
        let record = create_snapshot(&self.exports, &self.jobs, &asked).await?;
        let source = record.source.clone();
        Ok(answer(&Found::Own(record), source))
    }

    pub(super) async fn delete_snapshot(&self, request: csi::DeleteSnapshotRequest) -> Result<()> {
        if request.snapshot_id.is_empty() {
            return Err(Error::invalid("snapshot_id", "missing"));
        }
        // CSI: a snapshot that cannot exist is deleted.
        let Ok(id) = KnownId::parse(&request.snapshot_id) else { return Ok(()) };
        call_span::export(&id.export());
        let secret = secret_options(&request.secrets)?;
        delete_snapshot(&self.exports, &self.jobs, &id, secret.as_ref()).await
    }

    pub(super) async fn get_snapshot(&self, id: &str, secret: Option<&MountOptions>) -> Result<csi::Snapshot> {
        if id.is_empty() {
            return Err(Error::invalid("snapshot_id", "missing"));
        }
        let id = KnownId::parse_existing(id)?;
        call_span::export(&id.export());
        let (export, found) = find::find(&self.exports, &id, secret).await?;
        let source = found.source(&export).await?;
        Ok(answer(&found, source))
    }

    pub(super) async fn list_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse> {
        let (start, mut page) = (Token::parse(&request.starting_token)?, Page::new(request.max_entries)?);
        let source = Some(request.source_volume_id.as_str()).filter(|source| !source.is_empty());
        if !request.snapshot_id.is_empty() {
            let secret = secret_options(&request.secrets)?;
            let entries = match self.get_snapshot(&request.snapshot_id, secret.as_ref()).await {
                Ok(found) if source.is_none_or(|source| found.source_volume_id == source) => vec![entry(found)],
                Ok(_) | Err(Error::NotFound { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            return Ok(csi::ListSnapshotsResponse { entries, next_token: String::new() });
        }
        let of = self.export_of(source).await?;
        let must = of.as_ref().map(|(share, _)| share.clone());
        for (share, options) in self.reachable(&start, of).await? {
            let (from, room) = (place(&start, &share), page.room());
            let list = |export: Arc<Export<C::Fs>>| {
                let from = from.clone();
                async move { find::list(&export, from, source, room).await }
            };
            let found = match self.exports.on(&share, &options, list).await {
                Err(error) if must.as_ref() == Some(&share) => return Err(error),
                found => list::listed(&share, found)?,
            };
            let found = found.unwrap_or_default().into_iter().map(|(place, found)| (position(place), found));
            if !page.take(&share, found) {
                break;
            }
        }
        let answered = |(share, position, (found, source))| (share, position, entry(answer(&found, source)));
        let (entries, next) = list::in_a_message(page.entries.into_iter().map(answered).collect(), page.next);
        Ok(csi::ListSnapshotsResponse { entries, next_token: list::text(next.as_ref()) })
    }

    /// The export of the volume `source`, which may be new to this process.
    async fn export_of(&self, source: Option<&str>) -> Result<Option<(Source, MountOptions)>> {
        let Some(share) = source.and_then(|source| VolumeId::parse(source).ok()).map(|id| id.export()) else {
            return Ok(None);
        };
        let options = self.exports.reach(&share).await?;
        Ok(Some((share, options)))
    }
}

/// Where the snapshots of an export go on.
fn place(start: &Token, share: &Source) -> Place {
    start.last_of(share).map_or_else(|| Place::Records(start.cookie_of(share)), |last| Place::Archives(last.clone()))
}

fn position(place: Place) -> Position {
    match place {
        Place::Records(cookie) => Position::At(cookie),
        Place::Archives(last) => Position::Behind(last),
    }
}

fn entry(snapshot: csi::Snapshot) -> csi::list_snapshots_response::Entry {
    csi::list_snapshots_response::Entry { snapshot: Some(snapshot) }
}

/// The response for a snapshot of the volume `source`.
fn answer(found: &Found, source: String) -> csi::Snapshot {
    match found {
        Found::Own(record) => csi::Snapshot {
            size_bytes: int64(record.size),
            snapshot_id: record.id.to_string(),
            source_volume_id: source,
            creation_time: Some(timestamp(record.created)),
            ready_to_use: record.state == State::Ready,
            group_snapshot_id: record.group_id().map_or_else(String::new, |group| group.to_string()),
            ..csi::Snapshot::default()
        },
        Found::Archive(found) => csi::Snapshot {
            size_bytes: int64(found.size),
            snapshot_id: found.id.to_string(),
            source_volume_id: source,
            creation_time: Some(prost_types::Timestamp {
                seconds: found.created.seconds,
                nanos: i32::try_from(found.created.nanoseconds).unwrap_or_default(),
            }),
            ready_to_use: true,
            ..csi::Snapshot::default()
        },
    }
}

/// A time in seconds since the epoch.
pub(super) fn timestamp(seconds: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: int64(seconds), nanos: 0 }
}
