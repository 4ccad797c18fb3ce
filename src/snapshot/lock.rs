//! The locks of a snapshot: of its record, and of its copy.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::snapshot::record::Record;
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile as _;

/// What the copy of a snapshot is called in staging, and its lock. (No volume's name has a `#`.)
pub fn job(name: &VolumeName) -> String {
    format!("#snapshot#{name}")
}

/// Locks a snapshot's record.
pub(super) async fn lock<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Guard<F>> {
    export.lock(&[&Record::lock_name(name)]).await
}
