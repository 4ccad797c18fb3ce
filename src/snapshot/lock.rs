//! The two locks of a snapshot: one for its record, one for its copy in staging.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::snapshot::record::Record;
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile as _;

/// The name of a snapshot's copy in staging, and of the lock of that copy. It has a `#`, which no volume's name has.
pub fn job(name: &VolumeName) -> String {
    format!("#snapshot#{name}")
}

/// Locks a snapshot's record.
pub async fn lock<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Guard<F>> {
    export.lock(&[&Record::lock_name(name)]).await
}
