//! The effect and the result of each operation. Errors are checked in the order of Linux's client and server.

use crate::export::fs::{Attr, Cookie, Entry, FsResult, FsStat, Kind, LockMode, Name, OpenMode, Page, SetAttr, Status};
use crate::testing::memory::content::Content;
use crate::testing::memory::inode::{Body, Directory};
use crate::testing::memory::state::{Holder, NOBODY, READ, SEARCH, State, WRITE};

/// The number of cookies that a page of a listing covers. It is small, so that listings have several pages. Removed
/// names leave short and empty pages.
const PAGE: u64 = 16;

impl State {
    pub(super) fn lookup(&self, dir: u64, name: &Name) -> FsResult<(u64, Attr)> {
        let fileid = self.find(dir, name)?.ok_or(Status::NoEnt)?;
        Ok((fileid, self.getattr(fileid)?))
    }

    pub(super) fn getattr(&self, fileid: u64) -> FsResult<Attr> {
        Ok(self.inode(fileid)?.attr(fileid))
    }

    pub(super) fn setattr(&mut self, fileid: u64, attr: SetAttr) -> FsResult<()> {
        let squashed = self.root_squash;
        self.permit_change()?;
        let inode = self.inode_mut(fileid)?;
        let foreign = squashed && inode.uid != NOBODY;
        let gives = attr.uid.is_some_and(|uid| uid != inode.uid)
            || attr.gid.is_some_and(|gid| gid != inode.gid && gid != NOBODY);
        if foreign || squashed && gives {
            return Err(Status::Perm);
        }
        if let Some(size) = attr.size {
            return self.set_size(fileid, size);
        }
        if attr.mode.is_some() && inode.kind() == Kind::Symlink {
            return Err(Status::NotSupp);
        }
        if attr.uid.is_some() || attr.gid.is_some() {
            inode.uid = attr.uid.unwrap_or(inode.uid);
            inode.gid = attr.gid.unwrap_or(inode.gid);
            // chown(2) clears setuid, and setgid unless it marks mandatory locking.
            match inode.kind() {
                Kind::Directory | Kind::Symlink => {}
                _ if inode.mode & 0o010 != 0 => inode.mode &= !0o6000,
                _ => inode.mode &= !0o4000,
            }
        }
        if let Some(mode) = attr.mode {
            let strip = if squashed && inode.gid != NOBODY { 0o2000 } else { 0 };
            inode.mode = mode & !strip;
        }
        inode.atime = attr.atime.unwrap_or(inode.atime);
        inode.mtime = attr.mtime.unwrap_or(inode.mtime);
        Ok(())
    }

    pub(super) fn mkdir(&mut self, dir: u64, name: &Name, mode: u32) -> FsResult<u64> {
        self.add(dir, name, mode, Body::Directory(Directory::new(dir)))
    }

    pub(super) fn create(&mut self, dir: u64, name: &Name, mode: u32) -> FsResult<u64> {
        self.add(dir, name, mode, Body::File { now: Content::default(), stable: Content::default() })
    }

    pub(super) fn open_or_create(&mut self, dir: u64, name: &Name, mode: u32) -> FsResult<u64> {
        match self.open(dir, name, OpenMode::ReadWrite) {
            Err(Status::NoEnt) => self.create(dir, name, mode),
            opened => opened.map(|(fileid, _)| fileid),
        }
    }

    pub(super) fn open(&self, dir: u64, name: &Name, mode: OpenMode) -> FsResult<(u64, Attr)> {
        let (fileid, attr) = self.lookup(dir, name)?;
        match attr.kind {
            Kind::File => {}
            Kind::Directory => return Err(Status::IsDir),
            Kind::Symlink => return Err(Status::Symlink),
            _ => return Err(Status::WrongType),
        }
        match mode {
            OpenMode::Read => self.permit(fileid, READ)?,
            OpenMode::ReadWrite => {
                self.permit_change()?;
                self.permit(fileid, READ | WRITE)?;
            }
        }
        Ok((fileid, attr))
    }

    pub(super) fn read(&self, fileid: u64, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        check_offset(offset, length)?;
        match &self.inode(fileid)?.body {
            Body::File { now, .. } => Ok(now.read(offset, length)),
            _ => Err(Status::Inval),
        }
    }

    pub(super) fn write(&mut self, fileid: u64, offset: u64, data: &[u8]) -> FsResult<()> {
        self.permit_change()?;
        check_offset(offset, data.len())?;
        let (free, time) = (self.total_bytes.saturating_sub(self.used_bytes), self.now());
        let inode = self.inode_mut(fileid)?;
        let Body::File { now, .. } = &mut inode.body else { return Err(Status::Inval) };
        let before = now.used();
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Status::FBig);
        }
        if now.growth(offset, data.len()) > free {
            return Err(Status::NoSpc);
        }
        now.write(offset, data)?;
        if !data.is_empty() {
            inode.mtime = time;
        }
        let growth = now.used() - before;
        self.used_bytes += growth;
        Ok(())
    }

    pub(super) fn commit(&mut self, fileid: u64) -> FsResult<()> {
        match &mut self.inode_mut(fileid)?.body {
            Body::File { now, stable } => {
                stable.clone_from(now);
                Ok(())
            }
            _ => Err(Status::Inval),
        }
    }

    pub(super) fn rename(&mut self, from_dir: u64, from: &Name, to_dir: u64, to: &Name) -> FsResult<()> {
        self.directory(from_dir)?;
        self.directory(to_dir)?;
        let source = self.find(from_dir, from)?.ok_or(Status::NoEnt)?;
        let target = self.find(to_dir, to)?;
        let is_directory = self.inode(source)?.kind() == Kind::Directory;
        if is_directory && self.contains(source, to_dir)? {
            return Err(Status::Inval);
        }
        if let Some(target) = target {
            let onto_directory = self.inode(target)?.kind() == Kind::Directory;
            if from_dir != to_dir && onto_directory && self.contains(target, from_dir)? {
                return Err(Status::NotEmpty);
            }
            if source == target {
                return Ok(());
            }
            match (is_directory, onto_directory) {
                (true, false) => return Err(Status::NotDir),
                (false, true) => return Err(Status::IsDir),
                _ => self.permit_removal(to_dir, target)?,
            }
        }
        self.permit_removal(from_dir, source)?;
        self.permit(to_dir, WRITE | SEARCH)?;
        if is_directory && from_dir != to_dir {
            self.permit(source, WRITE)?;
        }
        if let Some(target) = target {
            if is_directory && !self.directory(target)?.entries.is_empty() {
                return Err(Status::NotEmpty);
            }
            self.drop_entry(to_dir, to, target)?;
        }
        self.directory_mut(from_dir)?.remove(from);
        self.directory_mut(to_dir)?.insert(to, source);
        if is_directory {
            self.inode_mut(from_dir)?.links -= 1;
            self.inode_mut(to_dir)?.links += 1;
            if let Body::Directory(moved) = &mut self.inode_mut(source)?.body {
                moved.parent = to_dir;
            }
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: u64, name: &Name) -> FsResult<()> {
        let object = self.find(dir, name)?.ok_or(Status::NoEnt)?;
        if self.inode(object)?.kind() == Kind::Directory {
            return Err(Status::IsDir);
        }
        self.permit_removal(dir, object)?;
        self.drop_entry(dir, name, object)
    }

    pub(super) fn rmdir(&mut self, dir: u64, name: &Name) -> FsResult<()> {
        let object = self.find(dir, name)?.ok_or(Status::NoEnt)?;
        let empty = self.directory(object)?.entries.is_empty();
        self.permit_removal(dir, object)?;
        if !empty {
            return Err(Status::NotEmpty);
        }
        self.drop_entry(dir, name, object)
    }

    pub(super) fn readdir(&self, dir: u64, from: Cookie) -> FsResult<Page> {
        let directory = self.directory(dir)?;
        self.permit(dir, READ)?;
        let last = from.saturating_add(PAGE);
        let (mut entries, mut next) = (Vec::new(), None);
        for (cookie, (name, fileid)) in directory.entries.range(from.saturating_add(1)..) {
            if *cookie > last {
                next = Some(last);
                break;
            }
            let kind = Some(self.inode(*fileid)?.kind());
            entries.push(Entry { name: name.clone(), kind, fileid: *fileid, cookie: *cookie });
        }
        Ok(Page { entries, next })
    }

    pub(super) fn statfs(&self, dir: u64) -> FsResult<FsStat> {
        self.directory(dir)?;
        let total_bytes = self.limits.get(&dir).map_or(self.total_bytes, |limit| self.total_bytes.min(*limit));
        let free_bytes = total_bytes.saturating_sub(self.used_bytes);
        Ok(FsStat {
            total_bytes,
            free_bytes,
            available_bytes: free_bytes,
            total_inodes: self.total_inodes,
            free_inodes: self.total_inodes.saturating_sub(self.inodes.len() as u64),
        })
    }

    pub(super) fn try_lock(&mut self, fileid: u64, byte: i64, holder: Holder, mode: LockMode) -> FsResult<bool> {
        self.inode(fileid)?;
        if !self.abilities.locks {
            return Err(Status::NotSupp);
        }
        let mut others =
            self.locks.iter().filter(|((file, at, other), _)| (*file, *at) == (fileid, byte) && *other != holder);
        let refused = others.any(|(_, held)| LockMode::Exclusive == mode.max(*held));
        if !refused {
            self.locks.insert((fileid, byte, holder), mode);
        }
        Ok(!refused)
    }

    pub(super) fn unlock(&mut self, fileid: u64, byte: i64, holder: Holder) -> FsResult<()> {
        self.inode(fileid)?;
        self.locks.remove(&(fileid, byte, holder));
        Ok(())
    }
}

/// Linux uses signed file offsets.
pub(super) fn check_offset(offset: u64, length: usize) -> FsResult<()> {
    if length > 0 && i64::try_from(offset).is_err() { Err(Status::Inval) } else { Ok(()) }
}
