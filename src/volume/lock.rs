//! The lock of a volume, under which it is changed.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::volume::id::{VolumeId, VolumeName};

/// Locks a volume for a change: its name, and the part of the export that its directory is in.
pub async fn lock<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Guard<F>> {
    let name = id.name();
    let first = id.sub_dir.first();
    export.lock(&[name.as_ref().map_or(first, VolumeName::as_str), first]).await
}
