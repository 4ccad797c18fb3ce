//! Finds snapshots and groups by their identifiers (CSI `GetSnapshot`), and lists the snapshots of an export (CSI
//! `ListSnapshots`).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::id::{GroupId, KnownId};
use crate::snapshot::record::{Record, State};
use crate::snapshot::{archive, group};
use crate::volume::exports::Exports;
use crate::volume::id::VolumeName;
use crate::volume::record_file::{RecordFile as _, or_skip};

/// How many snapshots [`list`] reads at the same time.
const READS: usize = 16;

/// A snapshot that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A snapshot of this driver.
    Own(Record),
    /// A snapshot of csi-driver-nfs.
    Archive(archive::Found),
}

impl Found {
    /// The identifier of the snapshot's source volume.
    pub async fn source<F: Fs>(&self, export: &Export<F>) -> Result<String> {
        match self {
            Self::Own(record) => Ok(record.source.clone()),
            Self::Archive(found) => found.source(export).await,
        }
    }
}

/// Finds a snapshot, pending or ready. Returns it with the export that it is on.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find<C: Connect>(
    exports: &Exports<C>,
    id: &KnownId,
    secret: Option<&MountOptions>,
) -> Result<(Arc<Export<C::Fs>>, Found)> {
    let find = |export: Arc<Export<C::Fs>>| async move {
        let found = match id {
            KnownId::Own(id) => Found::Own(get(&export, &id.name).await?),
            KnownId::Archive(id) => Found::Archive(archive::get(&export, id).await?),
        };
        Ok((export, found))
    };
    exports.on(&id.export(), &options(exports, id, secret).await?, find).await
}

/// The mount options for a snapshot's export: those of the secret, or else those of the snapshot's record.
pub async fn options<C: Connect>(
    exports: &Exports<C>,
    id: &KnownId,
    secret: Option<&MountOptions>,
) -> Result<MountOptions> {
    let recorded = |export: Arc<Export<C::Fs>>| async move {
        let KnownId::Own(id) = id else { return Ok(None) };
        Ok(Record::read(&export, &id.name).await?.map(|record| record.mount_options))
    };
    exports.recorded_options(&id.export(), secret, recorded).await
}

/// Finds a group, pending or ready (CSI `GetVolumeGroupSnapshot`).
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find_group<C: Connect>(
    exports: &Exports<C>,
    id: &GroupId,
    secret: Option<&MountOptions>,
) -> Result<GroupRecord> {
    let options = group_options(exports, id, secret).await?;
    let get = |export: Arc<Export<C::Fs>>| async move { group::get(&export, &id.name).await };
    exports.on(&id.export, &options, get).await
}

/// The mount options for a group's export: those of the secret, or else those of the group's record.
pub async fn group_options<C: Connect>(
    exports: &Exports<C>,
    id: &GroupId,
    secret: Option<&MountOptions>,
) -> Result<MountOptions> {
    let recorded = |export: Arc<Export<C::Fs>>| async move {
        Ok(GroupRecord::read(&export, &id.name).await?.map(|record| record.mount_options))
    };
    exports.recorded_options(&id.export, secret, recorded).await
}

/// Reads a snapshot, pending or ready, that must exist (CSI `GetSnapshot`).
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Record> {
    read(export, name).await?.ok_or_else(|| {
        Error::not_found(format!("snapshot `{name}`"), format!("{} has no record of it", export.source()))
    })
}

/// Reads a snapshot, pending or ready. A snapshot of a group has the state of its group.
pub async fn read<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Record>> {
    let record = Record::read(export, name).await?.filter(|record| record.state != State::Deleted);
    let Some(Record { group: Some(group), .. }) = &record else { return Ok(record) };
    match GroupRecord::read(export, group).await?.map(|group| group.state) {
        Some(State::Ready) => Ok(record),
        Some(state @ State::Pending) => Ok(record.map(|record| Record { state, ..record })),
        Some(State::Deleted) | None => Ok(None),
    }
}

/// Lists the snapshots of an export that are ready, sorted by name, each with the identifier of its source volume.
///
/// The list starts behind the name `after` and has at most `room` + 1 snapshots. If `source` is given, the list has
/// only snapshots of that volume.
pub async fn list<F: Fs>(
    export: &Export<F>,
    after: Option<&VolumeName>,
    source: Option<&str>,
    room: usize,
) -> Result<Vec<(VolumeName, (Found, String))>> {
    // Each name, and whether a snapshot of that name has a record. A name is listed once: an archive with the name of a
    // recorded snapshot is not listed, and is found only by its identifier.
    let archives = archive::names(export).await?.into_iter().map(|name| (name, false));
    let mut names: BTreeMap<VolumeName, bool> = archives.collect();
    names.extend(Record::names(export).await?.into_iter().map(|name| (name, true)));
    names.retain(|name, _| after.is_none_or(|last| name > last));
    let look = async |(name, recorded): (VolumeName, bool)| {
        let found = match recorded {
            true => or_skip(export, read(export, &name).await)?
                .filter(|record| record.state == State::Ready)
                .map(Found::Own),
            false => archive::find_in(export, &name).await?.map(Found::Archive),
        };
        let Some(found) = found else { return Ok(None) };
        let of = found.source(export).await?;
        Ok(source.is_none_or(|source| of == source).then_some((name, (found, of))))
    };
    let found = stream::iter(names).map(look).buffered(READS).try_filter_map(|found| std::future::ready(Ok(found)));
    found.take(room.saturating_add(1)).try_collect().await
}
