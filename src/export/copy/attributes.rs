//! Attributes: owners, modes, times, extended attributes, access control lists.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Copy;
use crate::export::copy::acl;
use crate::export::copy::error::{CopyError, Side, Stop};
use crate::export::fs::{ACLS, Attr, Fs, FsResult, Kind, SetAttr, Status};

// Actions, for error messages.

pub(super) const SETTING: &str = "setting attributes of";
const READING_XATTRS: &str = "reading extended attributes of";
pub(super) const SETTING_XATTRS: &str = "setting extended attributes of";

/// How many access control lists are cached. Further ones are read each time.
const PLAIN: usize = 256;

/// What to set so that an object with the attributes `made` gets those of `source`. A change of the owner clears the
/// special bits of the mode and every write changes the times, so mode and times are always set.
pub(crate) fn difference(source: &Attr, made: &Attr) -> SetAttr {
    let uid = (source.uid != made.uid).then_some(source.uid);
    let gid = (source.gid != made.gid).then_some(source.gid);
    let cleared = source.mode & 0o6000 != 0 && (uid.is_some() || gid.is_some());
    let has_mode = source.kind != Kind::Symlink;
    let mode = (has_mode && (source.mode != made.mode || cleared)).then_some(source.mode);
    SetAttr { size: None, mode, uid, gid, atime: Some(source.atime), mtime: Some(source.mtime) }
}

/// What the copy has learned about the two exports.
#[derive(Default)]
pub(super) struct Attributes {
    without_xattrs: AtomicBool,
    without_acls: AtomicBool,
    /// The access control list that the target returns for an object that was given a mode but no list.
    plain: Mutex<HashMap<Plain, Option<Vec<u8>>>>,
}

/// The name of the list, whether the object is a directory, and its mode.
type Plain = (Vec<u8>, bool, u32);

impl<F: Fs> Copy<F> {
    /// Removes from the copy's root what it inherited from a default access control list of the export. The objects
    /// below then inherit nothing, because a directory gets a list of its own only when everything in it is copied.
    pub(super) async fn clear_inherited(&self, root: &F::Handle) -> FsResult<()> {
        let names = match self.target.list_xattrs(root).await {
            Err(Status::NotSupp) => return Ok(()),
            names => names?,
        };
        for name in names.iter().filter(|name| ACLS.contains(&&name[..])) {
            let list = self.target.get_xattr(root, name).await?;
            let Some(plain) = list.and_then(|list| acl::plain(name, &list)) else { continue };
            self.target.set_xattr(root, name, &plain).await?;
            // Linux' server does not remove a default list over version 4.
            let left = self.target.get_xattr(root, name).await?.and_then(|list| acl::plain(name, &list));
            if left.is_some() {
                tracing::warn!(
                    "the server keeps the default access control list that the copy inherits; run `setfacl -k` on the \
                     export's directory .csi-nfs/staging, so that later copies inherit none"
                );
            }
        }
        Ok(())
    }

    /// Copies the extended attributes of `source`, which has this kind and mode, to `target`, which is complete
    /// otherwise.
    pub(super) async fn copy_xattrs(
        &self,
        source: &F::Handle,
        target: &F::Handle,
        (kind, mode): (Kind, u32),
        path: &(impl Fn() -> String + Sync),
    ) -> Result<(), Stop> {
        if self.shared.attributes.without_xattrs.load(Ordering::Relaxed) {
            return Ok(());
        }
        let failed = |side, action, status| CopyError::failed(side, action, path(), status);
        let reading = |status| match status {
            Status::NoEnt | Status::Stale => Stop::Gone,
            status => failed(Side::Source, READING_XATTRS, status).into(),
        };
        let names = match self.source.list_xattrs(source).await {
            Err(Status::NotSupp) => {
                self.shared.attributes.without_xattrs.store(true, Ordering::Relaxed);
                return Ok(());
            }
            names => names.map_err(reading)?,
        };
        for name in names {
            let is_acl = ACLS.contains(&&*name);
            if is_acl && self.shared.attributes.without_acls.load(Ordering::Relaxed) {
                continue;
            }
            let Some(value) = self.source.get_xattr(source, &name).await.map_err(reading)? else { continue };
            if is_acl && self.plain(target, &name, kind, mode).await.as_ref() == Some(&value) {
                continue;
            }
            match self.target.set_xattr(target, &name, &value).await {
                Err(Status::NotSupp) if is_acl => {
                    self.shared.attributes.without_acls.store(true, Ordering::Relaxed);
                    tracing::warn!("the copy is on an export without access control lists: they are left out");
                }
                Err(Status::NotSupp) => {
                    self.shared.attributes.without_xattrs.store(true, Ordering::Relaxed);
                    tracing::warn!("the copy is on an export without extended attributes: they are left out");
                    return Ok(());
                }
                set => set.map_err(|status| failed(Side::Target, SETTING_XATTRS, status))?,
            }
        }
        Ok(())
    }

    /// The access control list of an object that was given a mode but no list: read from `target`, which has none yet,
    /// or cached from a similar object.
    async fn plain(&self, target: &F::Handle, name: &[u8], kind: Kind, mode: u32) -> Option<Vec<u8>> {
        let known = || self.shared.attributes.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_vec(), kind == Kind::Directory, mode);
        if let Some(list) = known().get(&key) {
            return list.clone();
        }
        let list = self.target.get_xattr(target, name).await.ok()?;
        let mut known = known();
        if known.len() < PLAIN {
            known.insert(key, list.clone());
        }
        list
    }
}
