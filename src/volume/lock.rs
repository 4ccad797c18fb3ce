//! The lock under which a volume is changed.

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::locks::Guard;
use crate::volume::id::{VolumeId, VolumeName};

/// Locks a volume for a change: locks its name and the first path component of its directory.
pub async fn lock<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Guard<F>> {
    let name = id.name();
    let first = id.sub_dir.first();
    export.lock(&[name.as_ref().map_or(first, VolumeName::as_str), first]).await
}
