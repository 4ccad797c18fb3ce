//! Checks and reports the free space of an export.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsStat};
use crate::volume::limits::Overcommit;
use crate::volume::overcommit;

/// Returns [`Error::Exhausted`] if the export has fewer than `bytes` bytes or no inodes free.
pub(super) async fn check_free<F: Fs>(export: &Export<F>, bytes: u64) -> Result<()> {
    let stat = statfs(export).await?;
    if stat.available_bytes < bytes {
        return Err(Error::Exhausted(format!(
            "{} has {} bytes free, but {bytes} are requested; free space on the server or request less",
            export.source(),
            stat.available_bytes
        )));
    }
    if stat.total_inodes > 0 && stat.free_inodes == 0 {
        return Err(Error::Exhausted(format!("{} has no inodes free; delete files on the server", export.source())));
    }
    Ok(())
}

async fn statfs<F: Fs>(export: &Export<F>) -> Result<FsStat> {
    let fs = export.fs();
    fs.statfs(&fs.root()).await.map_err(|e| export.failed("asking for the free space", e))
}

/// The largest capacity of a new volume in bytes (CSI `GetCapacity`).
pub async fn available<F: Fs>(export: &Export<F>, overcommit: Option<Overcommit>) -> Result<u64> {
    let free = statfs(export).await?.available_bytes;
    Ok(free.min(overcommit::left(export, overcommit).await?))
}
