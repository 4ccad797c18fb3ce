//! Copies that the server makes.

use crate::export::fs::{Attr, Fs as _, FsResult, Kind, Name, OpenMode, SetAttr, Status};
use crate::export::user::handle::UserHandle;
use crate::export::user::xattrs::{self, LIST, MOST};
use crate::export::user::{UserFs, at, in_parts, is_at};
use crate::nfs4::attributes::attribute::{ACL, NUMLINKS, SIZE};
use crate::nfs4::attributes::{OBJECT, Values};
use crate::nfs4::compound::{Compound, How};
use crate::nfs4::state::{FileHandle, StateId};

/// The length of a CLONE up to the end of the source.
const TO_THE_END: u64 = 0;

/// CLONE. The answer has the new size.
pub(super) async fn clone_file(fs: &UserFs, source: &UserHandle, target: &UserHandle) -> FsResult<u64> {
    let (from, to) = (source.opened(false)?.state, target.opened(true)?.state);
    let files = Compound::default().put(&source.0.at).save().put(&target.0.at);
    let compound = files.clone_file(from, to, TO_THE_END).attributes(&[SIZE]);
    let cloned = fs.ask(compound, |results| {
        results.put()?;
        results.save()?;
        results.put()?;
        results.clone_file()?;
        results.attributes()?.size.ok_or(Status::Io)
    });
    match cloned.await {
        // What servers say whose file system cannot clone.
        Err(Status::Inval) => Err(Status::NotSupp),
        cloned => cloned,
    }
}

/// COPY. Servers refuse a part that is not there, so the end is looked for then.
pub(super) async fn copy(
    fs: &UserFs,
    source: &UserHandle,
    target: &UserHandle,
    offset: u64,
    length: u64,
) -> FsResult<u64> {
    let (from, open) = (source.opened(false)?.state, target.opened(true)?);
    if i64::try_from(offset).is_err() {
        return Err(Status::Inval);
    }
    let part = async |length: u64| {
        if length == 0 {
            return Ok(0);
        }
        let files = Compound::default().put(&source.0.at).save().put(&target.0.at);
        let copied = fs.ask(files.copy(from, open.state, offset, length), |results| {
            results.put()?;
            results.save()?;
            results.put()?;
            Ok(results.copy()?)
        });
        let (count, verifier) = copied.await?;
        if count > length {
            return Err(Status::Io);
        }
        open.wrote(verifier);
        Ok(count)
    };
    match part(length).await {
        Err(Status::Inval) => part(length.min(fs.getattr(source).await?.size.saturating_sub(offset))).await,
        copied => copied,
    }
}

/// A file to copy.
struct Seen {
    at: FileHandle,
    attr: Attr,
    acl: Option<Vec<u8>>,
}

/// The copy of a file in two requests: what the file is, and all that makes the copy.
pub(super) async fn clone_entry(
    fs: &UserFs,
    (from_dir, from): (&UserHandle, &Name),
    (dir, name): (&UserHandle, &Name),
) -> FsResult<Option<(UserHandle, Attr)>> {
    let Some(Seen { at: source, attr, acl }) = seen(fs, from_dir, from).await? else { return Ok(None) };
    let Attr { mode, uid, gid, atime, mtime, .. } = attr;
    let set = SetAttr {
        size: None,
        mode: Some(mode),
        uid: Some(uid),
        gid: Some(gid),
        atime: Some(atime),
        mtime: Some(mtime),
    };
    let (parts, new) = (in_parts(set), Values::mode(mode & 0o777));
    let client = &fs.0.client;
    let place = Compound::default().put(&source).save().put(dir.directory()?).attributes(&[NUMLINKS]);
    let mut compound = place.open(client.client_id(), client.new_owner(), true, How::Guarded(&new), name).handle();
    if attr.size > 0 {
        // The state of what this request opens cannot be named here.
        compound = compound.clone_file(StateId::ANONYMOUS, StateId::ANONYMOUS, attr.size);
    }
    compound = parts.iter().fold(compound, |all, part| all.set(StateId::ANONYMOUS, &Values::of(part)));
    if acl.is_some() {
        compound = compound.attributes(&[ACL]);
    }
    let made = fs.ask(compound.close(StateId::CURRENT), |results| {
        // What fails before the content is there is tried again in steps, which tell what is wrong.
        let placed = results.put().is_ok() && results.save().is_ok() && is_at(results).is_ok();
        let (true, Ok(state), Ok(at)) = (placed, results.open(), results.handle()) else { return Ok(None) };
        // The drop of such a handle closes the file.
        let open = |at| UserHandle::file(at, client.clone(), state, OpenMode::ReadWrite);
        if attr.size > 0 && results.clone_file().is_err() {
            drop(open(at));
            return Ok(None);
        }
        let is_set = parts.iter().all(|_| results.set().is_ok());
        let listed = is_set && (acl.is_none() || results.attributes().is_ok_and(|made| made.acl == acl));
        let closed = results.close().is_ok();
        Ok(Some((if closed { UserHandle::place(at, Kind::File) } else { open(at) }, is_set, listed)))
    });
    let Some((copy, is_set, listed)) = made.await? else { return Ok(None) };
    if !is_set {
        fs.setattr(&copy, set).await?;
    }
    if let (false, Some(acl)) = (listed, acl) {
        xattrs::set(fs, &copy, LIST, &acl).await?;
    }
    Ok(Some((copy, attr)))
}

/// LOOKUP, GETATTR and LISTXATTRS of a file. Returns `None` for anything but a regular file with one name and without
/// extended attributes.
async fn seen(fs: &UserFs, dir: &UserHandle, name: &Name) -> FsResult<Option<Seen>> {
    let attributes: Vec<u32> = OBJECT.into_iter().chain(fs.0.acls.then_some(ACL)).collect();
    let mut compound = at(dir.directory()?).lookup(name.as_bytes()).handle().attributes(&attributes);
    if fs.0.xattrs {
        compound = compound.list_xattrs(0, MOST.min(fs.0.read));
    }
    fs.ask(compound, |results| {
        if is_at(results).is_err() || results.lookup().is_err() {
            return Ok(None);
        }
        let (Ok(at), Ok(attributes)) = (results.handle(), results.attributes()) else { return Ok(None) };
        let plain = !fs.0.xattrs || results.list_xattrs().is_ok_and(|(_, names, last)| last && names.is_empty());
        let attr = fs.attr(&attributes).ok().filter(|attr| plain && attr.kind == Kind::File && attr.links == 1);
        Ok(attr.map(|attr| Seen { at, attr, acl: attributes.acl }))
    })
    .await
}
