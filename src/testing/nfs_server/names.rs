//! Operations on filehandles, on names in directories, and on extended attributes.

use super::compound::Request;
use super::{Done, Refused, attributes};
use crate::export::fs::{Fs as _, Kind, Name};
use crate::nfs4::attributes::kind;
use crate::nfs4::codes::{Code, op};
use crate::nfs4::xdr::{Reader, Writer};

/// Cookies up to this one have a meaning of their own (RFC 8881, section 18.23.3).
const RESERVED: u64 = 2;
/// What the export puts before the names of extended attributes, and the protocol does not.
const PREFIX: &[u8] = b"user.";
/// The names of extended attributes in one answer: few, so that tests need several.
const XATTRS: usize = 2;
/// The most bytes of a symbolic link's target, and of an extended attribute's value.
const MOST: usize = 64 << 10;

/// A name in a request.
fn name(from: &mut Reader<'_>) -> Done<Name> {
    Ok(Name::new(from.opaque(MOST)?)?)
}

/// `change_info4`.
pub(super) fn change(to: &mut Writer) -> &mut Writer {
    to.bool(true).u64(0).u64(1)
}

impl Request<'_> {
    pub(super) async fn name(&mut self, operation: u32, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let fs = &self.service.fs;
        match operation {
            op::PUTROOTFH => self.current = Some(fs.getattr(&fs.root()).await?.fileid),
            op::PUTFH => {
                let handle = from.opaque(128)?;
                let handle = handle.try_into().map_err(|_| Refused(Code::BADHANDLE))?;
                self.current = Some(u64::from_be_bytes(handle));
            }
            op::SAVEFH => self.saved = Some(self.at()?),
            op::GETFH => _ = to.opaque(&self.at()?.to_be_bytes()),
            op::LOOKUP => self.current = Some(fs.lookup(&fs.object(self.at()?), &name(from)?).await?.1.fileid),
            op::LOOKUPP => self.current = Some(fs.parent(&fs.object(self.at()?)).await?.1.fileid),
            op::READLINK => _ = to.opaque(&fs.readlink(&fs.object(self.at()?)).await?),
            op::CREATE => self.create(from, to).await?,
            op::REMOVE => self.remove(&name(from)?, to).await?,
            op::RENAME => {
                let (saved, current) = (fs.object(self.saved()?), fs.object(self.at()?));
                fs.rename(&saved, &name(from)?, &current, &name(from)?).await?;
                change(change(to));
            }
            op::LINK => {
                fs.link(&fs.object(self.saved()?), &fs.object(self.at()?), &name(from)?).await?;
                change(to);
            }
            op::READDIR => self.readdir(from, to).await?,
            _ => return Err(Refused(Code::NOTSUPP)),
        }
        Ok(())
    }

    async fn create(&mut self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (fs, dir) = (&self.service.fs, self.service.fs.object(self.at()?));
        let kind = kind(from.u32()?)?;
        let (mut target, mut device) = (Vec::new(), (0, 0));
        match kind {
            Kind::Symlink => target = from.opaque(MOST)?.to_vec(),
            Kind::CharDevice | Kind::BlockDevice => device = (from.u32()?, from.u32()?),
            _ => {}
        }
        let (name, (set, attributes)) = (name(from)?, attributes::read(from)?);
        let mode = set.mode.unwrap_or(0);
        let (_, attr) = match kind {
            Kind::Directory => fs.mkdir(&dir, &name, mode).await?,
            Kind::Symlink => fs.symlink(&dir, &name, &target).await?,
            Kind::File => return Err(Refused(Code::INVAL)),
            _ => fs.mknod(&dir, &name, kind, mode, device).await?,
        };
        self.current = Some(attr.fileid);
        change(to).list(&attributes);
        Ok(())
    }

    async fn remove(&self, name: &Name, to: &mut Writer) -> Done<()> {
        let (fs, dir) = (&self.service.fs, self.service.fs.object(self.at()?));
        match fs.lookup(&dir, name).await?.1.kind {
            Kind::Directory => fs.rmdir(&dir, name).await?,
            _ => fs.unlink(&dir, name).await?,
        }
        change(to);
        Ok(())
    }

    /// A page of the export in memory is small: the limits in the request do not matter.
    async fn readdir(&self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (fs, dir) = (&self.service.fs, self.service.fs.object(self.at()?));
        let (cookie, _verifier): (_, [u8; 8]) = (from.u64()?, from.array()?);
        let (_names, _all, wanted) = (from.u32()?, from.u32()?, from.list(8)?);
        let mut page = fs.readdir(&dir, cookie.saturating_sub(RESERVED)).await?;
        while let (true, Some(next)) = (page.entries.is_empty(), page.next) {
            page = fs.readdir(&dir, next).await?;
        }
        to.fixed(&[0; 8]);
        for entry in page.entries {
            to.bool(true).u64(entry.cookie + RESERVED).opaque(entry.name.as_bytes());
            attributes::write(fs, entry.fileid, &wanted, to).await?;
        }
        to.bool(false).bool(page.next.is_none());
        Ok(())
    }

    /// GETXATTR, SETXATTR and LISTXATTRS.
    pub(super) async fn xattrs(&mut self, operation: u32, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (fs, object) = (&self.service.fs, self.service.fs.object(self.at()?));
        let prefixed = |name: &[u8]| [PREFIX, name].concat();
        match operation {
            op::GETXATTR => {
                let value = fs.get_xattr(&object, &prefixed(from.opaque(MOST)?)).await?;
                to.opaque(&value.ok_or(Refused(Code::NOXATTR))?);
            }
            op::SETXATTR => {
                let (_how, name, value) = (from.u32()?, from.opaque(MOST)?, from.opaque(MOST)?);
                fs.set_xattr(&object, &prefixed(name), value).await?;
                change(to);
            }
            _ => {
                let (cookie, _most) = (from.u64()?, from.u32()?);
                let names: Vec<Vec<u8>> = fs.list_xattrs(&object).await?;
                let left = names.iter().filter_map(|name| name.strip_prefix(PREFIX)).skip(cookie as usize);
                let now: Vec<&[u8]> = left.clone().take(XATTRS).collect();
                to.u64(cookie + now.len() as u64).u32(now.len() as u32);
                now.iter().for_each(|name| _ = to.opaque(name));
                to.bool(left.count() <= XATTRS);
            }
        }
        Ok(())
    }
}
