//! The content of files.

use crate::export::fs::{Fs as _, FsResult, Name, OpenMode, Seek, Status};
use crate::export::user::handle::UserHandle;
use crate::export::user::{UserFs, at, is_at, not_regular};
use crate::nfs4::attributes::Values;
use crate::nfs4::attributes::attribute::{FSID, NUMLINKS, SIZE, TYPE};
use crate::nfs4::codes::Code;
use crate::nfs4::compound::{Compound, How};
use crate::nfs4::results::{Failure, Listed, Listing, Results};
use crate::nfs4::state::StateId;

/// The most bytes of names in the answer to a READDIR for a directory that has few or is of no use: some twenty.
const FEW: u32 = 1 << 10;

/// READ, until `length` or the end of the file.
pub(super) async fn read(fs: &UserFs, file: &UserHandle, offset: u64, length: usize) -> FsResult<Vec<u8>> {
    let state = file.opened(false)?.state;
    let mut data = Vec::new();
    while data.len() < length {
        let (from, most) =
            (offset + data.len() as u64, fs.0.read.min(u32::try_from(length - data.len()).unwrap_or(u32::MAX)));
        let compound = Compound::default().put(&file.0.at).read(state, from, most);
        let end = fs.ask(compound, |results| {
            results.put()?;
            let (more, end) = results.data(most as usize)?;
            data.extend_from_slice(more);
            // Without the end, nothing more would be a file that looks truncated.
            if more.is_empty() && !end { Err(Status::Io) } else { Ok(end) }
        });
        if end.await? {
            break;
        }
    }
    Ok(data)
}

/// WRITE, until everything is written.
pub(super) async fn write(fs: &UserFs, file: &UserHandle, offset: u64, data: &[u8]) -> FsResult<()> {
    let open = file.opened(true)?;
    let mut written = 0;
    while written < data.len() {
        let part = &data[written..data.len().min(written + fs.0.write as usize)];
        let compound = Compound::default().put(&file.0.at).write(open.state, offset + written as u64, false, part);
        let (count, verifier) = fs
            .ask(compound, |results| {
                results.put()?;
                Ok(results.write()?)
            })
            .await?;
        if count == 0 || count as usize > part.len() {
            return Err(Status::Io);
        }
        open.wrote(verifier);
        written += count as usize;
    }
    Ok(())
}

/// LOOKUP, GETATTR and READ in one request. A larger file than one READ takes is opened and read.
pub(super) async fn read_file(fs: &UserFs, dir: &UserHandle, name: &Name, limit: usize) -> FsResult<Vec<u8>> {
    let whole = fs.ask(reading(fs, at(dir.directory()?), name, limit), |results| content(fs, results, limit));
    if let Some(content) = whole.await? {
        return Ok(content);
    }
    let (file, attr) = fs.open(dir, name, OpenMode::Read).await?;
    if attr.size > limit as u64 { Err(Status::FBig) } else { read(fs, &file, 0, limit).await }
}

/// READDIR of a directory, and what [`read_file`] asks for. With a LOOKUP for each name there would be a request for each: one
/// ends at the first name that is not there.
pub(super) async fn read_file_if_lacking(
    fs: &UserFs,
    (dir, name, limit): (&UserHandle, &Name, usize),
    (lacking, names): (&UserHandle, &[Name]),
) -> FsResult<Option<FsResult<Vec<u8>>>> {
    let listed = at(lacking.directory()?).readdir(0, [0; 8], FEW, &[]);
    let found = listed.put(dir.directory()?).attributes(&[NUMLINKS]);
    fs.ask(reading(fs, found, name, limit), |results| {
        is_at(results)?;
        let Listed { entries, last } = results.readdir()?;
        let is_one = |entry: &Listing<'_>| names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(entry.name));
        if !last || entries.iter().any(is_one) {
            return Ok(None);
        }
        Ok(content(fs, results, limit).transpose())
    })
    .await
}

/// Reads a file of the current directory.
fn reading(fs: &UserFs, at: Compound, name: &Name, limit: usize) -> Compound {
    at.lookup(name.as_bytes()).attributes(&[TYPE, SIZE, FSID]).read(StateId::ANONYMOUS, 0, count(fs, limit))
}

/// The results of [`reading`], from those of [`at`] on. There is `None` if the file needs another READ.
fn content(fs: &UserFs, results: &mut Results<'_>, limit: usize) -> FsResult<Option<Vec<u8>>> {
    is_at(results)?;
    results.lookup()?;
    let attributes = results.attributes()?;
    if attributes.fsid != Some(fs.0.fsid) {
        return Err(Status::XDev);
    }
    let (kind, size) = attributes.kind.zip(attributes.size).ok_or(Status::Io)?;
    match not_regular(kind) {
        Some(status) => return Err(status),
        None if size > limit as u64 => return Err(Status::FBig),
        None => {}
    }
    let (data, end) = results.data(count(fs, limit) as usize)?;
    Ok((end || data.len() == limit).then(|| data.to_vec()))
}

/// The bytes of one READ.
fn count(fs: &UserFs, limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX).min(fs.0.read)
}

/// OPEN, WRITE to stable storage, and CLOSE in one request. More than one WRITE takes is written in parts.
pub(super) async fn write_file(fs: &UserFs, dir: &UserHandle, name: &Name, mode: u32, content: &[u8]) -> FsResult<()> {
    if content.len() > fs.0.write as usize {
        let (file, _) = fs.create(dir, name, mode).await?;
        write(fs, &file, 0, content).await?;
        return fs.commit(&file).await;
    }
    let compound = with_content(fs, dir, name, mode, content)?;
    fs.ask(compound, |results| is_written(fs, results, content.len())).await
}

/// OPEN of a new file, WRITE and CLOSE.
pub(super) fn with_content(
    fs: &UserFs,
    dir: &UserHandle,
    name: &Name,
    mode: u32,
    content: &[u8],
) -> FsResult<Compound> {
    let (client, values) = (&fs.0.client, Values::mode(mode));
    let open = at(dir.directory()?).open(client.client_id(), client.new_owner(), true, How::Guarded(&values), name);
    Ok(open.handle().write(StateId::CURRENT, 0, true, content).close(StateId::CURRENT))
}

/// The results of [`with_content`].
fn is_written(fs: &UserFs, results: &mut Results<'_>, length: usize) -> FsResult<()> {
    is_at(results)?;
    let state = results.open()?;
    has_content(fs, results, state, length)
}

/// The results of [`with_content`] after OPEN.
pub(super) fn has_content(fs: &UserFs, results: &mut Results<'_>, state: StateId, length: usize) -> FsResult<()> {
    let at = results.handle()?;
    let written = results.write().and_then(|written| results.close().map(|()| written));
    match written {
        Ok((count, _)) if count as usize == length => Ok(()),
        Ok(_) => Err(Status::Io),
        Err(failure) => {
            // It is still open. The drop of a handle closes it.
            drop(UserHandle::file(at, fs.0.client.clone(), state, OpenMode::ReadWrite));
            Err(failure.into())
        }
    }
}

/// SEEK.
pub(super) async fn seek(fs: &UserFs, file: &UserHandle, offset: u64, what: Seek) -> FsResult<Option<u64>> {
    let state = file.opened(false)?.state;
    let number = match what {
        Seek::Data => 0,
        Seek::Hole => 1,
    };
    let compound = Compound::default().put(&file.0.at).seek(state, offset, number);
    let found = fs.ask(compound, |results| {
        results.put()?;
        match (results.seek(), what) {
            (Ok((true, _)), Seek::Data) | (Err(Failure::Code(Code::NXIO)), _) => Ok(None),
            (found, _) => Ok(Some(found?.1)),
        }
    });
    match found.await {
        // Without SEEK, all is data.
        Err(Status::NotSupp) => {
            let size = fs.getattr(file).await?.size;
            let answer = if what == Seek::Data { offset } else { size };
            Ok(Some(answer).filter(|_| offset < size))
        }
        found => found,
    }
}
