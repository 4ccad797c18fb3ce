//! Finds snapshots and groups by their identifiers (CSI `GetSnapshot`), and lists the snapshots of an export (CSI
//! `ListSnapshots`).

use std::future::ready;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Cookie, Fs};
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
/// How many names of snapshots it has at a time.
const NAMES: usize = 1000;

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

/// A place in the list of an export's snapshots. First come those with a record, then the archives of csi-driver-nfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At this position of the server in the directory of records; 0 is the beginning.
    Records(Cookie),
    /// Behind the archive of this name.
    Archives(VolumeName),
}

/// A snapshot of a list: the place behind it, what was found, and the identifier of its source volume.
pub type Listed = (Place, (Found, String));

/// Lists the snapshots of an export that are ready, from a place on: at most `room` + 1. If `source` is given, the list
/// has only snapshots of that volume.
pub async fn list<F: Fs>(export: &Export<F>, from: Place, source: Option<&str>, room: usize) -> Result<Vec<Listed>> {
    let most = room.saturating_add(1);
    let (mut listed, after) = match from {
        Place::Records(from) => (records(export, from, source, most).await?, None),
        Place::Archives(last) => (Vec::new(), Some(last)),
    };
    if listed.len() < most {
        listed.extend(archives(export, after.as_ref(), source, most - listed.len()).await?);
    }
    Ok(listed)
}

async fn records<F: Fs>(
    export: &Export<F>,
    mut from: Cookie,
    source: Option<&str>,
    most: usize,
) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    let look = async |(name, behind): (VolumeName, Cookie)| {
        let record = or_skip(export, read(export, &name).await)?.filter(|record| record.state == State::Ready);
        of_source(export, Place::Records(behind), record.map(Found::Own), source).await
    };
    while listed.len() < most {
        let names = Record::some_names(export, from, (most - listed.len()).min(NAMES)).await?;
        let Some((_, last)) = names.last() else { break };
        from = *last;
        let found = stream::iter(names).map(look).buffered(READS).try_filter_map(|found| ready(Ok(found)));
        listed.extend(found.try_collect::<Vec<_>>().await?);
    }
    Ok(listed)
}

/// An archive with the name of a recorded snapshot is not listed, and is found only by its identifier.
async fn archives<F: Fs>(
    export: &Export<F>,
    after: Option<&VolumeName>,
    source: Option<&str>,
    most: usize,
) -> Result<Vec<Listed>> {
    let mut names = archive::names(export).await?;
    names.retain(|name| after.is_none_or(|last| name > last));
    let look = async |name: VolumeName| {
        let mut found = archive::find_in(export, &name).await?;
        if found.is_some() && is_recorded(export, &name).await? {
            found = None;
        }
        of_source(export, Place::Archives(name), found.map(Found::Archive), source).await
    };
    let found = stream::iter(names).map(look).buffered(READS).try_filter_map(|found| ready(Ok(found)));
    found.take(most).try_collect().await
}

/// Whether a snapshot of that name has a record, even one that cannot be read.
async fn is_recorded<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<bool> {
    let Some(layout) = export.layout().await? else { return Ok(false) };
    Ok(export.find(&layout.snapshots, &Record::file(name)?).await?.is_some())
}

/// What was found, if it is a snapshot of the volume `source`.
async fn of_source<F: Fs>(
    export: &Export<F>,
    place: Place,
    found: Option<Found>,
    source: Option<&str>,
) -> Result<Option<Listed>> {
    let Some(found) = found else { return Ok(None) };
    let of = found.source(export).await?;
    Ok(source.is_none_or(|source| of == source).then_some((place, (found, of))))
}
