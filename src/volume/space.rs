//! Checks and reports the free space of an export.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::volume::limits::Overcommit;
use crate::volume::overcommit;

/// Returns [`Error::Exhausted`] if the class bounds what its export promises (`overcommit`), and the export has fewer
/// than `bytes` bytes or no inodes free.
///
/// Without a bound a size is a wish: a full NAS must not refuse a claim whose directory needs no space, such as one for
/// a directory that was kept.
pub(super) async fn check_free<F: Fs>(export: &Export<F>, bound: Option<Overcommit>, bytes: u64) -> Result<()> {
    if bound.is_none() {
        return Ok(());
    }
    let stat = export.stat().await?;
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

/// What a new volume can have (CSI `GetCapacity`), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// The free space of the export.
    pub free: u64,
    /// The largest capacity that is promised; `None` if nothing limits it.
    pub largest: Option<u64>,
}

/// What a new volume of a class with that bound can have. Writes nothing.
pub async fn available<F: Fs>(export: &Export<F>, bound: Option<Overcommit>) -> Result<Available> {
    let free = export.stat().await?.available_bytes;
    let largest = match bound {
        Some(_) => Some(free.min(overcommit::left(export, bound).await?)),
        None => None,
    };
    Ok(Available { free, largest })
}
