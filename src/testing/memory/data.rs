//! Operations that a server performs on content by itself: SEEK, CLONE, COPY, truncation.

use crate::export::fs::{FsResult, Seek, Status};
use crate::testing::memory::content::Content;
use crate::testing::memory::inode::Body;
use crate::testing::memory::operations::check_offset;
use crate::testing::memory::state::State;

impl State {
    pub(super) fn seek(&self, fileid: u64, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        let content = self.content(fileid)?;
        if offset >= content.size() {
            return Ok(None);
        }
        Ok(match what {
            Seek::Data if self.abilities.seek => content.data_from(offset),
            Seek::Data => Some(offset),
            Seek::Hole if self.abilities.seek => Some(content.hole_from(offset)),
            Seek::Hole => Some(content.size()),
        })
    }

    pub(super) fn clone_file(&mut self, source: u64, target: u64) -> FsResult<u64> {
        self.permit_change()?;
        if !self.abilities.clone {
            return Err(Status::NotSupp);
        }
        let content = self.content(source)?.clone();
        let size = content.size();
        self.replace(target, content)?;
        self.commit(target)?;
        Ok(size)
    }

    pub(super) fn copy(&mut self, source: u64, target: u64, offset: u64, length: u64) -> FsResult<u64> {
        self.permit_change()?;
        if !self.abilities.copy {
            return Err(Status::NotSupp);
        }
        check_offset(offset, 1)?;
        let data = self.content(source)?.read(offset, usize::try_from(length).unwrap_or(usize::MAX));
        if data.is_empty() {
            return Ok(0);
        }
        if source == target {
            return Err(Status::Inval);
        }
        self.write(target, offset, &data)?;
        Ok(data.len() as u64)
    }

    pub(super) fn set_size(&mut self, fileid: u64, size: u64) -> FsResult<()> {
        let mut content = self.content(fileid)?.clone();
        content.set_size(size)?;
        self.replace(fileid, content)?;
        // The size is an attribute and therefore stable at once. The data below it is stable only if it was before.
        match &mut self.inode_mut(fileid)?.body {
            Body::File { stable, .. } => stable.set_size(size),
            _ => Err(Status::Inval),
        }
    }

    fn content(&self, fileid: u64) -> FsResult<&Content> {
        match &self.inode(fileid)?.body {
            Body::File { now, .. } => Ok(now),
            _ => Err(Status::Inval),
        }
    }

    fn replace(&mut self, fileid: u64, content: Content) -> FsResult<()> {
        let (others, time) = (self.used_bytes - self.content(fileid)?.used(), self.now());
        if others + content.used() > self.total_bytes.max(self.used_bytes) {
            return Err(Status::NoSpc);
        }
        self.used_bytes = others + content.used();
        let inode = self.inode_mut(fileid)?;
        inode.mtime = time;
        if let Body::File { now, .. } = &mut inode.body {
            *now = content;
        }
        Ok(())
    }
}
