//! The state of the server, and the steps that operations consist of.

use std::collections::{BTreeMap, HashMap};

use crate::export::fs::{FsResult, Kind, LockMode, Name, Status, Time};
use crate::testing::memory::inode::{Body, Directory, Inode};

/// The `fileid` of the root directory.
pub(super) const ROOT: u64 = 1;
/// The user and group of a squashed root.
pub(super) const NOBODY: u32 = 65534;

// Permission bits.

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const SEARCH: u32 = 1;

#[derive(Clone)]
pub(super) struct State {
    pub(super) inodes: HashMap<u64, Inode>,
    /// The last number given to an object, a client or an open file. Numbers are not reused.
    last_number: u64,
    pub(super) total_bytes: u64,
    pub(super) total_inodes: u64,
    /// The limits of directories that have one.
    pub(super) limits: HashMap<u64, u64>,
    pub(super) used_bytes: u64,
    pub(super) clock: Time,
    pub(super) read_only: bool,
    pub(super) root_squash: bool,
    pub(super) abilities: Abilities,
    /// The holder of each locked byte.
    pub(super) locks: BTreeMap<(u64, i64, Holder), LockMode>,
    /// The number of times that the server lost power.
    pub(super) boot: u64,
}

/// The optional features that the server supports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    pub(super) clone: bool,
    pub(super) copy: bool,
    pub(super) seek: bool,
    pub(super) xattrs: bool,
    pub(super) locks: bool,
    /// The maximum number of names of an object.
    pub(super) links: u64,
}

impl Default for Abilities {
    fn default() -> Self {
        Self { clone: true, copy: true, seek: true, xattrs: true, locks: true, links: u64::MAX }
    }
}

/// An open file of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) client: u64,
    pub(super) open: u64,
}

impl State {
    pub(super) fn new(total_bytes: u64, total_inodes: u64) -> Self {
        let clock = Time { seconds: 1_767_225_600, nanoseconds: 0 };
        let root = Inode {
            mode: 0o755,
            uid: 0,
            gid: 0,
            links: 2,
            atime: clock,
            mtime: clock,
            xattrs: BTreeMap::new(),
            body: Body::Directory(Directory::new(ROOT)),
        };
        Self {
            inodes: HashMap::from([(ROOT, root)]),
            last_number: ROOT,
            total_bytes,
            total_inodes,
            limits: HashMap::new(),
            used_bytes: 0,
            clock,
            read_only: false,
            root_squash: false,
            abilities: Abilities::default(),
            locks: BTreeMap::new(),
            boot: 0,
        }
    }

    /// The server's time. It advances by a microsecond with each call, so that changes are ordered.
    pub(super) fn now(&mut self) -> Time {
        self.clock.nanoseconds += 1000;
        if self.clock.nanoseconds >= 1_000_000_000 {
            self.clock.nanoseconds -= 1_000_000_000;
            self.clock.seconds += 1;
        }
        self.clock
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn inode(&self, fileid: u64) -> FsResult<&Inode> {
        self.inodes.get(&fileid).ok_or(Status::Stale)
    }

    pub(super) fn inode_mut(&mut self, fileid: u64) -> FsResult<&mut Inode> {
        self.inodes.get_mut(&fileid).ok_or(Status::Stale)
    }

    pub(super) fn directory(&self, fileid: u64) -> FsResult<&Directory> {
        match &self.inode(fileid)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NotDir),
        }
    }

    /// The directory, mutable.
    pub(super) fn directory_mut(&mut self, fileid: u64) -> FsResult<&mut Directory> {
        let now = self.now();
        let inode = self.inode_mut(fileid)?;
        inode.mtime = now;
        match &mut inode.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NotDir),
        }
    }

    /// Checks that the caller has the permissions `want` on the object. Root has all permissions. A squashed root has
    /// those that the mode gives nobody.
    pub(super) fn permit(&self, fileid: u64, want: u32) -> FsResult<()> {
        let inode = self.inode(fileid)?;
        let granted = match (inode.uid, inode.gid) {
            (NOBODY, _) => inode.mode >> 6,
            (_, NOBODY) => inode.mode >> 3,
            _ => inode.mode,
        };
        if self.root_squash && granted & want != want { Err(Status::Access) } else { Ok(()) }
    }

    pub(super) fn permit_change(&self) -> FsResult<()> {
        if self.read_only { Err(Status::RoFs) } else { Ok(()) }
    }

    /// Checks that the caller may remove the object from the directory. In a sticky directory, only the owners of the
    /// object and of the directory may.
    pub(super) fn permit_removal(&self, dir: u64, object: u64) -> FsResult<()> {
        self.permit_change()?;
        self.permit(dir, WRITE | SEARCH)?;
        let directory = self.inode(dir)?;
        let owners = [directory.uid, self.inode(object)?.uid];
        if self.root_squash && directory.mode & 0o1000 != 0 && !owners.contains(&NOBODY) {
            return Err(Status::Perm);
        }
        Ok(())
    }

    pub(super) fn find(&self, dir: u64, name: &Name) -> FsResult<Option<u64>> {
        let found = self.directory(dir)?.get(name);
        self.permit(dir, SEARCH)?;
        Ok(found)
    }

    /// Whether `inner` is `outer` or below it.
    pub(super) fn contains(&self, outer: u64, inner: u64) -> FsResult<bool> {
        let mut at = inner;
        while at != outer && at != ROOT {
            at = self.directory(at)?.parent;
        }
        Ok(at == outer)
    }

    pub(super) fn add(&mut self, dir: u64, name: &Name, mode: u32, body: Body) -> FsResult<u64> {
        self.directory(dir)?;
        self.permit_change()?;
        self.permit(dir, WRITE | SEARCH)?;
        if self.find(dir, name)?.is_some() {
            return Err(Status::Exist);
        }
        if self.inodes.len() as u64 >= self.total_inodes {
            return Err(Status::NoSpc);
        }
        let own = if self.root_squash { NOBODY } else { 0 };
        let is_directory = matches!(body, Body::Directory(_));
        let (now, fileid) = (self.now(), self.number());
        let parent = self.inode_mut(dir)?;
        let (mode, gid) = match parent.mode & 0o2000 {
            0 => (mode, own),
            setgid if is_directory => (mode | setgid, parent.gid),
            _ => (mode, parent.gid),
        };
        parent.links += u64::from(is_directory);
        let links = if is_directory { 2 } else { 1 };
        self.inodes.insert(
            fileid,
            Inode { mode, uid: own, gid, links, atime: now, mtime: now, xattrs: BTreeMap::new(), body },
        );
        self.directory_mut(dir)?.insert(name, fileid);
        Ok(fileid)
    }

    /// Removes the entry, and the object if that was its last name.
    pub(super) fn drop_entry(&mut self, dir: u64, name: &Name, object: u64) -> FsResult<()> {
        self.directory_mut(dir)?.remove(name);
        let inode = self.inode_mut(object)?;
        let is_directory = inode.kind() == Kind::Directory;
        inode.links -= 1;
        if is_directory || inode.links == 0 {
            if let Some(Inode { body: Body::File { now, .. }, .. }) = self.inodes.remove(&object) {
                self.used_bytes -= now.used();
            }
            self.locks.retain(|(fileid, ..), _| *fileid != object);
        }
        if is_directory {
            self.inode_mut(dir)?.links -= 1;
        }
        Ok(())
    }
}
