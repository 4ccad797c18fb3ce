//! Looks at volumes one after the other, for those that are not well.

use futures_util::stream::{Stream, StreamExt as _};

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::volume::health::{self, Condition};
use crate::volume::id::VolumeName;
use crate::volume::quota::Reports;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// How many volumes are looked at at the same time.
const LOOKS: usize = 8;

/// A volume that was looked at.
#[derive(Debug, Clone)]
pub struct Looked {
    /// Its record.
    pub record: Record,
    /// What is wrong with the volume itself, besides what is wrong with its export.
    pub conditions: Vec<Condition>,
}

/// Looks at volumes, and returns them in the same order. There is nothing to tell of one that was deleted meanwhile or
/// is still being filled.
pub fn looks<F: Fs>(
    export: &Export<F>,
    reports: &Reports<F>,
    names: Vec<VolumeName>,
) -> impl Stream<Item = Result<(VolumeName, Option<Looked>)>> {
    let look = move |read: Result<_>| async move {
        let (name, record) = read?;
        look(export, reports, name, record).await
    };
    Record::read_or_skip_each(export, names).map(look).buffered(LOOKS)
}

async fn look<F: Fs>(
    export: &Export<F>,
    reports: &Reports<F>,
    name: VolumeName,
    record: Option<Record>,
) -> Result<(VolumeName, Option<Looked>)> {
    let Some(record) = record.filter(|record| !record.pending) else { return Ok((name, None)) };
    let directory = export.find_dir(&export.fs().root(), record.path()?).await?.is_some();
    let of_limits = health::of_limits(export, reports, &name, &record).await?;
    let conditions = health::of_volume(&record.id, directory).into_iter().chain(of_limits).collect();
    Ok((name, Some(Looked { record, conditions })))
}
