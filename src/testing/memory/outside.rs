//! Changes that a test makes on the server without the protocol.

use std::collections::BTreeMap;

use crate::export::fs::{FsResult, Kind, Name, Status};
use crate::testing::memory::content::Content;
use crate::testing::memory::inode::{Body, Directory, Inode};
use crate::testing::memory::state::{ROOT, State};
use crate::testing::memory::tree::{Node, Tree};

impl State {
    pub(super) fn power_loss(&mut self, keep_uncommitted: bool) {
        self.boot += 1;
        self.locks.clear();
        self.used_bytes = 0;
        for inode in self.inodes.values_mut() {
            if let Body::File { now, stable } = &mut inode.body {
                if keep_uncommitted {
                    stable.clone_from(now)
                } else {
                    now.clone_from(stable)
                }
                self.used_bytes += now.used();
            }
        }
    }

    /// Puts an object at a path, creating missing directories, as root on the server would.
    pub(super) fn plant(&mut self, path: &[u8], node: &Node) -> FsResult<()> {
        let restricted = (self.read_only, self.root_squash);
        (self.read_only, self.root_squash) = (false, false);
        let planted = self.plant_freely(path, node);
        (self.read_only, self.root_squash) = restricted;
        planted
    }

    fn plant_freely(&mut self, path: &[u8], node: &Node) -> FsResult<()> {
        let mut names = path.split(|byte| *byte == b'/').map(Name::new).collect::<FsResult<Vec<_>>>()?;
        let last = names.pop().ok_or(Status::Inval)?;
        let mut dir = ROOT;
        for name in &names {
            dir = match self.directory(dir)?.get(name) {
                Some(next) => next,
                None => self.mkdir(dir, name, 0o755)?,
            };
        }
        let mut content = Content::default();
        content.write(0, &node.content)?;
        let body = match node.kind {
            Kind::File => {
                self.used_bytes += content.used();
                Body::File { now: content.clone(), stable: content }
            }
            Kind::Directory => Body::Directory(Directory::new(dir)),
            Kind::Symlink => Body::Symlink(node.content.clone()),
            kind => Body::Special(kind, (0, 0)),
        };
        let fileid = self.add(dir, &last, node.mode, body)?;
        let inode = self.inode_mut(fileid)?;
        (inode.mode, inode.uid, inode.gid) = (node.mode, node.uid, node.gid);
        Ok(())
    }

    /// Removes the object at a path, with everything in it, as root on the server would. Does nothing if no object is
    /// there.
    pub(super) fn remove(&mut self, path: &[u8]) -> FsResult<()> {
        let mut names = path.split(|byte| *byte == b'/').map(Name::new).collect::<FsResult<Vec<_>>>()?;
        let last = names.pop().ok_or(Status::Inval)?;
        let mut dir = ROOT;
        for name in &names {
            let Some(next) = self.directory(dir)?.get(name) else { return Ok(()) };
            dir = next;
        }
        match self.directory(dir)?.get(&last) {
            Some(object) => self.remove_tree(dir, &last, object),
            None => Ok(()),
        }
    }

    fn remove_tree(&mut self, dir: u64, name: &Name, object: u64) -> FsResult<()> {
        if let Body::Directory(directory) = &self.inode(object)?.body {
            let inside: Vec<(Name, u64)> = directory.entries.values().cloned().collect();
            for (name, child) in inside {
                self.remove_tree(object, &name, child)?;
            }
        }
        self.drop_entry(dir, name, object)
    }

    pub(super) fn tree(&self) -> Tree {
        let mut tree = BTreeMap::new();
        let mut pending = vec![(Vec::new(), ROOT)];
        while let Some((path, fileid)) = pending.pop() {
            let Some(inode) = self.inodes.get(&fileid) else { continue };
            let content = match &inode.body {
                Body::File { now, .. } => now.read(0, usize::MAX),
                Body::Symlink(target) => target.clone(),
                Body::Special(..) => Vec::new(),
                Body::Directory(directory) => {
                    for (name, child) in directory.entries.values() {
                        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                        pending.push(([&path, slash, name.as_bytes()].concat(), *child));
                    }
                    Vec::new()
                }
            };
            let Inode { mode, uid, gid, .. } = *inode;
            tree.insert(path, Node { kind: inode.kind(), mode, uid, gid, content });
        }
        tree.remove(&Vec::new());
        Tree(tree)
    }
}
