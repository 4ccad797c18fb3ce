//! What is done with many names of a directory: as much in one request as the server takes.

use crate::export::fs::{Fs as _, FsResult, Name, Status};
use crate::export::user::handle::UserHandle;
use crate::export::user::{UserFs, at, content, is_at, not_empty};
use crate::nfs4::compound::Compound;
use crate::nfs4::results::Results;

/// The operations of a request besides those for each name: SEQUENCE, and those of [`at`].
const AROUND: usize = 3;
/// The most bytes of a file that is read together with others. Records are smaller.
const SMALL: u32 = 4096;

/// For how many names a request has operations, each with so many.
fn at_once(fs: &UserFs, operations: usize) -> usize {
    (fs.0.client.limits().operations as usize - AROUND) / operations
}

/// Operations for each of `names` in `dir`, and their results up to the first that fails, which is the last one.
async fn each<T>(
    fs: &UserFs,
    dir: &UserHandle,
    names: &[Name],
    ask: impl Fn(Compound, &Name) -> Compound,
    read: impl Fn(&mut Results<'_>) -> FsResult<T>,
) -> FsResult<Vec<FsResult<T>>> {
    let compound = names.iter().fold(at(dir.directory()?), ask);
    fs.ask(compound, |results| {
        is_at(results)?;
        let mut done = Vec::with_capacity(names.len());
        while done.len() < names.len() && done.last().is_none_or(FsResult::is_ok) {
            done.push(read(results));
        }
        Ok(done)
    })
    .await
}

/// REMOVE of as many names as a request takes, again and again. What is in the way of a name is said by a request that
/// begins with it, so that the session repeats what the server delays.
pub(super) async fn remove(fs: &UserFs, dir: &UserHandle, names: &[Name]) -> (usize, FsResult<()>) {
    let mut gone = 0;
    while gone < names.len() {
        let part = &names[gone..names.len().min(gone + at_once(fs, 1))];
        let removed = each(fs, dir, part, Compound::remove, |results| results.remove().map_err(not_empty)).await;
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

/// LOOKUP, GETATTR and READ of as many files as a request takes, again and again. A larger file is read by itself.
pub(super) async fn read_files(fs: &UserFs, dir: &UserHandle, names: &[Name], limit: usize) -> Vec<FsResult<Vec<u8>>> {
    let Ok(at) = dir.directory() else { return vec![Err(Status::NotDir); names.len()] };
    let count = SMALL.min(u32::try_from(limit).unwrap_or(u32::MAX));
    let ask = |compound: Compound, name: &Name| content::part(compound.put(at), name, count);
    let part_of = |results: &mut Results<'_>| {
        results.put()?;
        content::part_of(fs, results, limit, count)
    };
    let mut read = Vec::with_capacity(names.len());
    while read.len() < names.len() {
        let part = &names[read.len()..names.len().min(read.len() + at_once(fs, content::PART + 1))];
        match each(fs, dir, part, ask, part_of).await {
            Ok(done) => {
                for (name, content) in part.iter().zip(done) {
                    read.push(match content {
                        Ok(None) => fs.read_file(dir, name, limit).await,
                        Ok(Some(content)) => Ok(content),
                        Err(status) => Err(status),
                    });
                }
            }
            Err(status) => read.resize(names.len(), Err(status)),
        }
    }
    read
}
