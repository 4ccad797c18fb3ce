//! Copies that the server makes.

use crate::export::fs::{Attr, Fs as _, FsResult, Kind, Name, OpenMode, SetAttr, Status};
use crate::export::user::handle::UserHandle;
use crate::export::user::xattrs::{self, LIST, MOST};
use crate::export::user::{AROUND, UserFs, at, in_parts, is_at};
use crate::nfs4::attributes::attribute::{ACL, NUMLINKS, SIZE};
use crate::nfs4::attributes::{OBJECT, Values};
use crate::nfs4::compound::{Compound, How};
use crate::nfs4::results::Results;
use crate::nfs4::state::{FileHandle, StateId};

/// The length of a CLONE up to the end of the source.
const TO_THE_END: u64 = 0;
/// The most files of up to [`SMALL`] bytes in one request: servers remember answers of 2 KiB, and need some time for a file.
const TOGETHER: usize = 4;
const SMALL: u64 = 1 << 20;

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

/// A regular file with one name and without extended attributes.
struct Plain<'a> {
    name: &'a Name,
    at: FileHandle,
    attr: Attr,
    acl: Option<Vec<u8>>,
}

/// What a request has made of a file.
enum Made {
    /// Nothing, or an empty file.
    Nothing,
    /// The copy, and whether it has the attributes and the access control list of the file.
    Copy { copy: UserHandle, is_set: bool, is_listed: bool },
}

/// The copies of files in two requests for some of them: what they are, and all that makes the copies. The results are those of
/// the names, up to the first that is an error.
pub(super) async fn clone_entries(
    fs: &UserFs,
    from: &UserHandle,
    to: &UserHandle,
    names: &[Name],
) -> Vec<FsResult<Option<Attr>>> {
    let mut done = Vec::with_capacity(names.len());
    while done.len() < names.len() {
        let seen = match seen(fs, from, &names[done.len()..]).await {
            Ok(seen) => seen,
            Err(status) => {
                done.push(Err(status));
                return done;
            }
        };
        let mut rest = &seen[..];
        while let Some(first) = rest.first() {
            let small = |file: &&Plain<'_>| file.attr.size <= SMALL;
            let plain: Vec<&Plain<'_>> = match first {
                Some(first) if small(&first) => rest.iter().map_while(|file| file.as_ref().filter(small)).collect(),
                first => first.iter().collect(),
            };
            let made = match &plain[..] {
                [] => vec![Ok(None)],
                plain => cloned(fs, to, &plain[..plain.len().min(TOGETHER)]).await,
            };
            rest = &rest[made.len()..];
            done.extend(made);
            if done.last().is_some_and(FsResult::is_err) {
                return done;
            }
        }
    }
    done
}

/// PUTFH, LOOKUP, GETATTR and LISTXATTRS of as many of these files as a request takes, up to the first that is not there:
/// one result at least. There is `None` for anything but plain files.
async fn seen<'a>(fs: &UserFs, dir: &UserHandle, names: &'a [Name]) -> FsResult<Vec<Option<Plain<'a>>>> {
    let (dir, attributes): (_, Vec<u32>) =
        (dir.directory()?, OBJECT.into_iter().chain(fs.0.acls.then_some(ACL)).collect());
    let each = |before: Compound, name: &Name| {
        let found = before.put(dir).lookup(name.as_bytes()).handle().attributes(&attributes);
        if fs.0.xattrs { found.list_xattrs(0, MOST.min(fs.0.read)) } else { found }
    };
    let one = each(Compound::default(), &names[0]).count();
    let at_once = (fs.0.client.limits().operations - AROUND - at(dir).count()) / one;
    let some = &names[..names.len().min(at_once.max(1) as usize)];
    fs.ask(some.iter().fold(at(dir), each), |results| {
        let mut seen = Vec::with_capacity(some.len());
        if is_at(results).is_ok() {
            seen.extend(some.iter().map_while(|name| plain(fs, results, name).ok()));
        }
        Ok(if seen.is_empty() { vec![None] } else { seen })
    })
    .await
}

fn plain<'a>(fs: &UserFs, results: &mut Results<'_>, name: &'a Name) -> FsResult<Option<Plain<'a>>> {
    results.put()?;
    results.lookup()?;
    let (at, attributes) = (results.handle()?, results.attributes()?);
    let no_xattrs = if fs.0.xattrs {
        let (_, names, last) = results.list_xattrs()?;
        last && names.is_empty()
    } else {
        true
    };
    let attr = fs.attr(&attributes).ok().filter(|attr| no_xattrs && attr.kind == Kind::File && attr.links == 1);
    Ok(attr.map(|attr| Plain { name, at, attr, acl: attributes.acl }))
}

/// One request with as many of these files as it takes, up to the first of which nothing is made: one result at least. What
/// the server delays is said by a request that begins with it, so that the session repeats it.
async fn cloned(fs: &UserFs, dir: &UserHandle, files: &[&Plain<'_>]) -> Vec<FsResult<Option<Attr>>> {
    let (mut compound, mut sent) = (Compound::default(), 0);
    for file in files {
        let its = match cloning(fs, dir, file) {
            Ok(its) => its,
            Err(status) => return vec![Err(status)],
        };
        if sent > 0 && compound.count() + its.count() + AROUND > fs.0.client.limits().operations {
            break;
        }
        (compound, sent) = (compound.then(&its), sent + 1);
    }
    let made = fs.ask(compound, |results| {
        let mut made = Vec::with_capacity(sent);
        for file in &files[..sent] {
            let (one, goes_on) = made_of(fs, results, file);
            if made.is_empty() || !matches!(one, Made::Nothing) {
                made.push(one);
            }
            if !goes_on {
                break;
            }
        }
        Ok(made)
    });
    let made = match made.await {
        Ok(made) => made,
        Err(status) => return vec![Err(status)],
    };
    let mut done: Vec<FsResult<_>> = Vec::with_capacity(made.len());
    for (file, made) in files.iter().zip(made) {
        if done.last().is_none_or(FsResult::is_ok) {
            done.push(completed(fs, file, made).await);
        }
    }
    done
}

/// What makes the copy of a file.
fn cloning(fs: &UserFs, dir: &UserHandle, Plain { name, at, attr, acl }: &Plain<'_>) -> FsResult<Compound> {
    let (client, new) = (&fs.0.client, Values::mode(attr.mode & 0o777));
    let place = Compound::default().put(at).save().put(dir.directory()?).attributes(&[NUMLINKS]);
    let mut compound = place.open(client.client_id(), client.new_owner(), true, How::Guarded(&new), name).handle();
    if attr.size > 0 {
        // The state of what this request opens cannot be named here.
        compound = compound.clone_file(StateId::ANONYMOUS, StateId::ANONYMOUS, attr.size);
    }
    compound = in_parts(to_set(attr)).iter().fold(compound, |all, part| all.set(StateId::ANONYMOUS, &Values::of(part)));
    if acl.is_some() {
        compound = compound.attributes(&[ACL]);
    }
    Ok(compound.close(StateId::CURRENT))
}

/// The results of [`cloning`], and whether those of the next file follow.
fn made_of(fs: &UserFs, results: &mut Results<'_>, Plain { attr, acl, .. }: &Plain<'_>) -> (Made, bool) {
    // What fails before the content is there is tried again in steps, which tell what is wrong.
    let placed = results.put().is_ok() && results.save().is_ok() && is_at(results).is_ok();
    let (true, Ok(state), Ok(at)) = (placed, results.open(), results.handle()) else { return (Made::Nothing, false) };
    // The drop of such a handle closes the file.
    let open = |at| UserHandle::file(at, fs.0.client.clone(), state, OpenMode::ReadWrite);
    if attr.size > 0 && results.clone_file().is_err() {
        drop(open(at));
        return (Made::Nothing, false);
    }
    let is_set = in_parts(to_set(attr)).iter().all(|_| results.set().is_ok());
    let is_listed = is_set && (acl.is_none() || results.attributes().is_ok_and(|made| made.acl == *acl));
    let closed = results.close().is_ok();
    let copy = if closed { UserHandle::place(at, Kind::File) } else { open(at) };
    (Made::Copy { copy, is_set, is_listed }, closed)
}

/// What the request has left undone of a copy.
async fn completed(fs: &UserFs, Plain { attr, acl, .. }: &Plain<'_>, made: Made) -> FsResult<Option<Attr>> {
    let Made::Copy { copy, is_set, is_listed } = made else { return Ok(None) };
    if !is_set {
        fs.setattr(&copy, to_set(attr)).await?;
    }
    if let (false, Some(acl)) = (is_listed, acl) {
        xattrs::set(fs, &copy, LIST, acl).await?;
    }
    Ok(Some(*attr))
}

/// The attributes that a copy is given.
fn to_set(&Attr { mode, uid, gid, atime, mtime, .. }: &Attr) -> SetAttr {
    SetAttr { size: None, mode: Some(mode), uid: Some(uid), gid: Some(gid), atime: Some(atime), mtime: Some(mtime) }
}
