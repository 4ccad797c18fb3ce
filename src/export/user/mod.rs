//! An export that this process reaches by itself, without a mount: a client of NFSv4.1 and NFSv4.2 ([`crate::nfs4`]).
//!
//! Each operation is one request, which carries all that belongs to it. Nothing is cached. Every handle is an object of
//! the export's own file system: what a server says is in another one is [`Status::XDev`].
//!
//! The client does not outlive its lease: afterwards each operation is [`Status::Stale`], and the pool connects anew.

use std::sync::Arc;

use crate::export::features::Features;
use crate::export::fs::{Attr, Fs as _, FsResult, Kind, Name, OpenMode, SetAttr, Status};
use crate::export::user::patience::Patience;
use crate::nfs4::attributes::attribute::NUMLINKS;
use crate::nfs4::attributes::{Attributes, OBJECT, Values};
use crate::nfs4::client::Client;
use crate::nfs4::compound::{Compound, How, New};
use crate::nfs4::results::{Failure, Results};
use crate::nfs4::state::FileHandle;

pub use connect::UserSpace;
pub use handle::UserHandle;
#[cfg(test)]
pub use patience::{CONNECTING, LONGEST};

mod connect;
mod content;
mod copies;
mod handle;
mod locks;
mod many;
mod operations;
mod patience;
mod steps;
mod xattrs;

/// The operations of a request besides those of its work: SEQUENCE.
const AROUND: u32 = 1;

/// An export of one server. A clone refers to the same export.
#[derive(Debug, Clone)]
pub struct UserFs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    patience: Patience,
    root: UserHandle,
    /// The file system of the root.
    fsid: (u64, u64),
    /// Whether the export has extended attributes of users, and access control lists.
    xattrs: bool,
    acls: bool,
    /// The most bytes of one READ and of one WRITE.
    read: u32,
    write: u32,
    version: String,
    features: Features,
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Code(code) => code.status(),
            Failure::Malformed => Self::Io,
        }
    }
}

impl From<crate::nfs4::xdr::Malformed> for Status {
    fn from(_: crate::nfs4::xdr::Malformed) -> Self {
        Self::Io
    }
}

impl UserFs {
    /// Sends a request and reads its results.
    async fn ask<T>(&self, compound: Compound, read: impl FnOnce(&mut Results<'_>) -> FsResult<T>) -> FsResult<T> {
        let answer = self.0.patience.call(&self.0.client, compound).await?;
        read(&mut answer.results()?)
    }

    /// An object that was found, with its attributes.
    fn found(&self, at: FileHandle, attributes: &Attributes) -> FsResult<(UserHandle, Attr)> {
        let attr = self.attr(attributes)?;
        Ok((UserHandle::place(at, attr.kind), attr))
    }

    /// The attributes of an object, which must be on the export and have a name.
    fn attr(&self, attributes: &Attributes) -> FsResult<Attr> {
        if attributes.fsid != Some(self.0.fsid) {
            return Err(Status::XDev);
        }
        let attr = attributes.object()?;
        if attr.links == 0 { Err(Status::Stale) } else { Ok(attr) }
    }

    /// CREATE, for everything but files.
    async fn make(
        &self,
        dir: &UserHandle,
        name: &Name,
        what: New<'_>,
        values: &Values,
    ) -> FsResult<(UserHandle, Attr)> {
        let compound = at(dir.directory()?).create(what, name, values).handle().attributes(&OBJECT);
        self.ask(compound, |results| {
            is_at(results)?;
            results.create()?;
            self.found(results.handle()?, &results.attributes()?)
        })
        .await
    }

    /// OPEN. The file is closed again if it turns out to be none of the export.
    async fn opened(
        &self,
        dir: &UserHandle,
        name: &Name,
        mode: OpenMode,
        how: How<'_>,
    ) -> FsResult<(UserHandle, Attr)> {
        let client = &self.0.client;
        let writing = mode == OpenMode::ReadWrite;
        let open = at(dir.directory()?).open(client.client_id(), client.new_owner(), writing, how, name);
        self.ask(open.handle().attributes(&OBJECT), |results| {
            is_at(results)?;
            let state = results.open()?;
            let file = UserHandle::file(results.handle()?, client.clone(), state, mode);
            let attr = self.attr(&results.attributes()?)?;
            if attr.kind == Kind::File { Ok((file, attr)) } else { Err(Status::WrongType) }
        })
        .await
    }

    /// OPEN of a regular file; for anything else, the error that says what it is.
    async fn open_regular(
        &self,
        dir: &UserHandle,
        name: &Name,
        mode: OpenMode,
        how: How<'_>,
    ) -> FsResult<(UserHandle, Attr)> {
        match self.opened(dir, name, mode, how).await {
            Err(status)
                if !status.is_unanswered() && !matches!(status, Status::NoEnt | Status::NotDir | Status::Stale) =>
            {
                match self.lookup(dir, name).await {
                    Ok((_, attr)) => Err(not_regular(attr.kind).unwrap_or(status)),
                    Err(_) => Err(status),
                }
            }
            opened => opened,
        }
    }

    /// REMOVE, of what `condition` lets pass.
    async fn remove(
        &self,
        dir: &UserHandle,
        name: &Name,
        condition: impl FnOnce(Compound) -> Compound,
        passed: impl FnOnce(&mut Results<'_>) -> FsResult<()>,
    ) -> FsResult<()> {
        let dir = dir.directory()?;
        let compound = condition(at(dir).lookup(name.as_bytes())).put(dir).remove(name);
        self.ask(compound, |results| {
            is_at(results)?;
            results.lookup()?;
            passed(results)?;
            results.put()?;
            results.remove().map_err(not_empty)
        })
        .await
    }
}

/// The parts of `attr` that a server has to set one after the other.
fn in_parts(attr: SetAttr) -> Vec<SetAttr> {
    let SetAttr { mode, uid, gid, atime, mtime, .. } = attr;
    let mut parts = vec![attr];
    if mode.is_some() && (uid.is_some() || gid.is_some()) {
        // A new owner takes setuid and setgid from the mode, also from one that is set with it.
        let then = SetAttr { mode, atime, mtime, ..SetAttr::default() };
        parts = vec![SetAttr { mode: None, atime: None, mtime: None, ..attr }, then];
    }
    parts.retain(|part| *part != SetAttr::default());
    parts
}

/// Begins a request about names in a directory. The link count says whether the directory was removed, which a server
/// need not notice.
fn at(dir: &FileHandle) -> Compound {
    Compound::default().put(dir).attributes(&[NUMLINKS])
}

/// The results of [`at`].
fn is_at(results: &mut Results<'_>) -> FsResult<()> {
    results.put()?;
    if results.attributes()?.numlinks == Some(0) { Err(Status::Stale) } else { Ok(()) }
}

/// Why an object of this kind cannot be opened; `None` for a regular file.
fn not_regular(kind: Kind) -> Option<Status> {
    match kind {
        Kind::File => None,
        Kind::Directory => Some(Status::IsDir),
        Kind::Symlink => Some(Status::Symlink),
        _ => Some(Status::WrongType),
    }
}

/// Servers return either error for a directory that is not empty.
fn not_empty(failure: Failure) -> Status {
    match failure.into() {
        Status::Exist => Status::NotEmpty,
        status => status,
    }
}

/// A server that stays on one file system returns XDEV for a quota project.
fn other_project(status: Status) -> Status {
    if status == Status::XDev { Status::OtherProject } else { status }
}
