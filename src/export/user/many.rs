//! What is done with many names of a directory: as much in one request as the server takes.
//!
//! Files are not read so: Linux's server (7.2) answers each READ of a request but the first with other bytes than those of
//! the file.

use crate::export::fs::{FsResult, Name, Status};
use crate::export::user::handle::UserHandle;
use crate::export::user::{UserFs, at, is_at, not_empty};
use crate::nfs4::compound::Compound;

/// The operations of a request besides those for each name: SEQUENCE, and those of [`at`].
const AROUND: usize = 3;

/// REMOVE of each of `names`, and the results up to the first that fails, which is the last one.
async fn each(fs: &UserFs, dir: &UserHandle, names: &[Name]) -> FsResult<Vec<FsResult<()>>> {
    let compound = names.iter().fold(at(dir.directory()?), Compound::remove);
    // The server has each removal on its disk before the next.
    fs.ask(compound.long(), |results| {
        is_at(results)?;
        let mut done = Vec::with_capacity(names.len());
        while done.len() < names.len() && done.last().is_none_or(FsResult::is_ok) {
            done.push(results.remove().map_err(not_empty));
        }
        Ok(done)
    })
    .await
}

/// REMOVE of as many names as a request takes, again and again. What is in the way of a name is said by a request that
/// begins with it, so that the session repeats what the server delays.
pub(super) async fn remove(fs: &UserFs, dir: &UserHandle, names: &[Name]) -> (usize, FsResult<()>) {
    let (at_once, mut gone) = (fs.0.client.limits().operations as usize - AROUND, 0);
    while gone < names.len() {
        let part = &names[gone..names.len().min(gone + at_once)];
        let removed = each(fs, dir, part).await;
        let is_gone = |removed: &FsResult<()>| matches!(removed, Ok(()) | Err(Status::NoEnt));
        match removed {
            Ok(removed) if removed.first().is_some_and(is_gone) => {
                gone += removed.iter().filter(|done| is_gone(done)).count()
            }
            Ok(removed) => return (gone, removed.into_iter().next().unwrap_or(Err(Status::Io))),
            Err(status) => return (gone, Err(status)),
        }
    }
    (gone, Ok(()))
}
