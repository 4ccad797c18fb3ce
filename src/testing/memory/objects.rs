//! Links, FIFOs, sockets, devices, extended attributes.

use crate::export::fs::{FsResult, Kind, Name, Status, is_tenants_xattr};
use crate::testing::memory::inode::Body;
use crate::testing::memory::state::{READ, SEARCH, State, WRITE};

impl State {
    pub(super) fn symlink(&mut self, dir: u64, name: &Name, target: &[u8]) -> FsResult<u64> {
        self.add(dir, name, 0o777, Body::Symlink(target.to_vec()))
    }

    pub(super) fn mknod(&mut self, dir: u64, name: &Name, kind: Kind, mode: u32, device: (u32, u32)) -> FsResult<u64> {
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = if is_device { device } else { (0, 0) };
        if self.root_squash && is_device && self.find(dir, name)?.is_none() {
            self.permit(dir, WRITE | SEARCH)?;
            return Err(Status::Perm);
        }
        self.add(dir, name, mode, Body::Special(kind, device))
    }

    pub(super) fn link(&mut self, object: u64, dir: u64, name: &Name) -> FsResult<()> {
        self.directory(dir)?;
        if self.inode(object)?.kind() == Kind::Directory {
            return Err(Status::IsDir);
        }
        self.permit_change()?;
        self.permit(dir, WRITE | SEARCH)?;
        if self.find(dir, name)?.is_some() {
            return Err(Status::Exist);
        }
        let most = self.abilities.links;
        let inode = self.inode_mut(object)?;
        if inode.links >= most {
            return Err(Status::MLink);
        }
        inode.links += 1;
        self.directory_mut(dir)?.insert(name, object);
        Ok(())
    }

    pub(super) fn readlink(&self, link: u64) -> FsResult<Vec<u8>> {
        match &self.inode(link)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Status::Inval),
        }
    }

    pub(super) fn list_xattrs(&self, object: u64) -> FsResult<Vec<Vec<u8>>> {
        self.permit_xattrs(object)?;
        Ok(self.inode(object)?.xattrs.keys().cloned().collect())
    }

    pub(super) fn get_xattr(&self, object: u64, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        self.permit_xattrs(object)?;
        self.permit(object, READ)?;
        Ok(self.inode(object)?.xattrs.get(name).cloned())
    }

    pub(super) fn set_xattr(&mut self, object: u64, name: &[u8], value: &[u8]) -> FsResult<()> {
        self.permit_xattrs(object)?;
        self.permit_change()?;
        self.permit(object, WRITE)?;
        if !is_tenants_xattr(name) {
            return Err(Status::NotSupp);
        }
        self.inode_mut(object)?.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn permit_xattrs(&self, object: u64) -> FsResult<()> {
        match self.inode(object)?.kind() {
            Kind::File | Kind::Directory if self.abilities.xattrs => Ok(()),
            Kind::File | Kind::Directory => Err(Status::NotSupp),
            _ => Err(Status::Inval),
        }
    }
}
