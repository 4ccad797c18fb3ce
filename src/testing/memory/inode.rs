//! Objects: their attributes and content.

use std::collections::BTreeMap;

use crate::export::fs::{Attr, Cookie, Kind, Name, Time};
use crate::testing::memory::content::Content;

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u64,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) body: Body,
}

#[derive(Clone)]
pub(super) enum Body {
    File {
        now: Content,
        /// What survives a loss of power.
        stable: Content,
    },
    Directory(Directory),
    Symlink(Vec<u8>),
    Special(Kind, (u32, u32)),
}

#[derive(Clone)]
pub(super) struct Directory {
    pub(super) parent: u64,
    names: BTreeMap<Name, Cookie>,
    pub(super) entries: BTreeMap<Cookie, (Name, u64)>,
    last: Cookie,
}

impl Directory {
    pub(super) fn new(parent: u64) -> Self {
        Self { parent, names: BTreeMap::new(), entries: BTreeMap::new(), last: 0 }
    }

    pub(super) fn get(&self, name: &Name) -> Option<u64> {
        Some(self.entries.get(self.names.get(name)?)?.1)
    }

    pub(super) fn insert(&mut self, name: &Name, fileid: u64) {
        self.last += 1;
        self.names.insert(name.clone(), self.last);
        self.entries.insert(self.last, (name.clone(), fileid));
    }

    pub(super) fn remove(&mut self, name: &Name) {
        if let Some(cookie) = self.names.remove(name) {
            self.entries.remove(&cookie);
        }
    }
}

impl Inode {
    pub(super) fn kind(&self) -> Kind {
        match &self.body {
            Body::File { .. } => Kind::File,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    pub(super) fn attr(&self, fileid: u64) -> Attr {
        let (size, used) = match &self.body {
            Body::File { now, .. } => (now.size(), now.used()),
            Body::Directory(directory) => (directory.entries.len() as u64 * 32, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special(..) => (0, 0),
        };
        let device = if let Body::Special(_, device) = self.body { device } else { (0, 0) };
        Attr {
            kind: self.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            used,
            links: self.links,
            fileid,
            device,
            atime: self.atime,
            mtime: self.mtime,
        }
    }
}
