//! Extended attributes (RFC 8276), and access control lists as Linux shows them among these.

use crate::export::fs::{FsResult, Kind, Status};
use crate::export::user::UserFs;
use crate::export::user::handle::UserHandle;
use crate::nfs4::attributes::Values;
use crate::nfs4::attributes::attribute::ACL;
use crate::nfs4::codes::Code;
use crate::nfs4::compound::Compound;
use crate::nfs4::results::Failure;
use crate::nfs4::state::StateId;

/// What Linux puts before the names of tenants' attributes, and the protocol does not.
const PREFIX: &[u8] = b"user.";
/// How Linux calls the access control list.
pub(super) const LIST: &[u8] = b"system.nfs4_acl";
/// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux.
pub(super) const MOST: u32 = 64 << 10;

fn check(object: &UserHandle) -> FsResult<()> {
    // Other objects have none that are tenants'.
    if matches!(object.0.kind, Kind::File | Kind::Directory) { Ok(()) } else { Err(Status::Inval) }
}

/// LISTXATTRS.
pub(super) async fn list(fs: &UserFs, object: &UserHandle) -> FsResult<Vec<Vec<u8>>> {
    check(object)?;
    let (mut names, mut cookie, mut size) = (Vec::new(), 0, 0);
    let (lists, attributes) = (fs.0.acls, fs.0.xattrs);
    let mut last = !attributes;
    while !last {
        let compound = Compound::default().put(&object.0.at).list_xattrs(cookie, MOST.min(fs.0.read));
        let next = fs
            .ask(compound, |results| {
                results.put()?;
                let (next, more, end) = results.list_xattrs()?;
                if more.is_empty() && !end {
                    // The list would never end.
                    return Err(Status::Io);
                }
                size += more.iter().map(|name| name.len() + 1).sum::<usize>();
                names.extend(more.into_iter().map(|name| [PREFIX, name].concat()));
                last = end;
                Ok(next)
            })
            .await?;
        if !last && (size > MOST as usize || next == cookie) {
            // The list would never end.
            return Err(Status::Io);
        }
        cookie = next;
    }
    match (lists, attributes) {
        (false, false) => return Err(Status::NotSupp),
        (true, _) => names.push(LIST.to_vec()),
        (false, true) => {}
    }
    Ok(names)
}

/// GETXATTR, or GETATTR of the access control list.
pub(super) async fn get(fs: &UserFs, object: &UserHandle, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
    check(object)?;
    let put = Compound::default().put(&object.0.at);
    if name == LIST {
        return fs
            .ask(put.attributes(&[ACL]), |results| {
                results.put()?;
                Ok(results.attributes()?.acl)
            })
            .await;
    }
    let name = name.strip_prefix(PREFIX).ok_or(Status::NotSupp)?;
    fs.ask(put.get_xattr(name), |results| {
        results.put()?;
        match results.get_xattr(MOST as usize) {
            Err(Failure::Code(Code::NOXATTR)) => Ok(None),
            value => Ok(Some(value?.to_vec())),
        }
    })
    .await
}

/// SETXATTR, or SETATTR of the access control list.
pub(super) async fn set(fs: &UserFs, object: &UserHandle, name: &[u8], value: &[u8]) -> FsResult<()> {
    check(object)?;
    let put = Compound::default().put(&object.0.at);
    if name == LIST {
        let list = Values::acl(value).ok_or(Status::Inval)?;
        return fs
            .ask(put.set(StateId::ANONYMOUS, &list), |results| {
                results.put()?;
                Ok(results.set()?)
            })
            .await;
    }
    let name = name.strip_prefix(PREFIX).ok_or(Status::NotSupp)?;
    fs.ask(put.set_xattr(name, value), |results| {
        results.put()?;
        Ok(results.set_xattr()?)
    })
    .await
}
