//! The server's side: objects, and what each operation does to them or answers.

use std::collections::{BTreeMap, HashMap};

use super::content::Content;
use super::tree::{Node, Tree};
use crate::export::fs::{Attr, Cookie, Entry, FsResult, FsStat, Kind, Name, OpenMode, Page, SetAttr, Status, Time};

/// The number of the root directory.
pub(super) const ROOT: u64 = 1;
/// Whom a squashed root acts as.
pub(super) const NOBODY: u32 = 65534;
/// Few, so that listings have several pages.
const PAGE: usize = 16;

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

pub(super) struct State {
    pub(super) inodes: HashMap<u64, Inode>,
    /// The last number given to an object, a client or an open file; none is used again.
    last_number: u64,
    pub(super) total_bytes: u64,
    pub(super) total_inodes: u64,
    used_bytes: u64,
    pub(super) clock: Time,
    pub(super) read_only: bool,
    pub(super) root_squash: bool,
    /// Who holds a byte of a file.
    pub(super) locks: BTreeMap<(u64, i64), Holder>,
    /// How often power was lost.
    pub(super) boot: u64,
}

/// An open file of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) client: u64,
    pub(super) open: u64,
}

pub(super) struct Inode {
    mode: u32,
    uid: u32,
    gid: u32,
    links: u64,
    atime: Time,
    mtime: Time,
    body: Body,
}

enum Body {
    File {
        now: Content,
        /// What a loss of power leaves.
        stable: Content,
    },
    Directory(Directory),
    Symlink(Vec<u8>),
    Special(Kind),
}

struct Directory {
    parent: u64,
    names: BTreeMap<Name, Cookie>,
    entries: BTreeMap<Cookie, (Name, u64)>,
    last: Cookie,
}

impl Directory {
    fn new(parent: u64) -> Self {
        Self { parent, names: BTreeMap::new(), entries: BTreeMap::new(), last: 0 }
    }

    fn get(&self, name: &Name) -> Option<u64> {
        Some(self.entries.get(self.names.get(name)?)?.1)
    }

    fn insert(&mut self, name: &Name, fileid: u64) {
        self.last += 1;
        self.names.insert(name.clone(), self.last);
        self.entries.insert(self.last, (name.clone(), fileid));
    }

    fn remove(&mut self, name: &Name) {
        if let Some(cookie) = self.names.remove(name) {
            self.entries.remove(&cookie);
        }
    }
}

impl Inode {
    fn kind(&self) -> Kind {
        match &self.body {
            Body::File { .. } => Kind::File,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special(kind) => *kind,
        }
    }

    fn attr(&self, fileid: u64) -> Attr {
        let (size, used) = match &self.body {
            Body::File { now, .. } => (now.size(), now.used()),
            Body::Directory(directory) => (directory.entries.len() as u64 * 32, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special(_) => (0, 0),
        };
        Attr {
            kind: self.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            used,
            links: self.links,
            fileid,
            device: (0, 0),
            atime: self.atime,
            mtime: self.mtime,
        }
    }
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
            body: Body::Directory(Directory::new(ROOT)),
        };
        Self {
            inodes: HashMap::from([(ROOT, root)]),
            last_number: ROOT,
            total_bytes,
            total_inodes,
            used_bytes: 0,
            clock,
            read_only: false,
            root_squash: false,
            locks: BTreeMap::new(),
            boot: 0,
        }
    }

    // Helpers.

    /// The server's time; a microsecond later each time, so that changes have an order.
    fn now(&mut self) -> Time {
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

    fn inode(&self, fileid: u64) -> FsResult<&Inode> {
        self.inodes.get(&fileid).ok_or(Status::Stale)
    }

    fn inode_mut(&mut self, fileid: u64) -> FsResult<&mut Inode> {
        self.inodes.get_mut(&fileid).ok_or(Status::Stale)
    }

    fn directory(&self, fileid: u64) -> FsResult<&Directory> {
        match &self.inode(fileid)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NotDir),
        }
    }

    /// The directory, about to be changed.
    fn directory_mut(&mut self, fileid: u64) -> FsResult<&mut Directory> {
        let now = self.now();
        let inode = self.inode_mut(fileid)?;
        inode.mtime = now;
        match &mut inode.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NotDir),
        }
    }

    /// Whether the caller may do `want` to the object: root may do all, a squashed root what the mode grants.
    fn permit(&self, fileid: u64, want: u32) -> FsResult<()> {
        let inode = self.inode(fileid)?;
        let granted = match (inode.uid, inode.gid) {
            (NOBODY, _) => inode.mode >> 6,
            (_, NOBODY) => inode.mode >> 3,
            _ => inode.mode,
        };
        if self.root_squash && granted & want != want { Err(Status::Access) } else { Ok(()) }
    }

    fn permit_change(&self) -> FsResult<()> {
        if self.read_only { Err(Status::RoFs) } else { Ok(()) }
    }

    /// Whether the caller may take the object out of the directory; the sticky bit keeps it for the two owners.
    fn permit_removal(&self, dir: u64, object: u64) -> FsResult<()> {
        self.permit_change()?;
        self.permit(dir, WRITE | SEARCH)?;
        let directory = self.inode(dir)?;
        let owners = [directory.uid, self.inode(object)?.uid];
        if self.root_squash && directory.mode & 0o1000 != 0 && !owners.contains(&NOBODY) {
            return Err(Status::Perm);
        }
        Ok(())
    }

    fn find(&self, dir: u64, name: &Name) -> FsResult<Option<u64>> {
        let found = self.directory(dir)?.get(name);
        self.permit(dir, SEARCH)?;
        Ok(found)
    }

    /// Whether `inner` is `outer` or somewhere below it.
    fn contains(&self, outer: u64, inner: u64) -> FsResult<bool> {
        let mut at = inner;
        while at != outer && at != ROOT {
            at = self.directory(at)?.parent;
        }
        Ok(at == outer)
    }

    fn add(&mut self, dir: u64, name: &Name, mode: u32, body: Body) -> FsResult<u64> {
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
        self.inodes.insert(fileid, Inode { mode, uid: own, gid, links, atime: now, mtime: now, body });
        self.directory_mut(dir)?.insert(name, fileid);
        Ok(fileid)
    }

    /// Takes the entry out, and the object with it when that was its last name.
    fn drop_entry(&mut self, dir: u64, name: &Name, object: u64) -> FsResult<()> {
        self.directory_mut(dir)?.remove(name);
        let inode = self.inode_mut(object)?;
        let is_directory = inode.kind() == Kind::Directory;
        inode.links -= 1;
        if is_directory || inode.links == 0 {
            if let Some(Inode { body: Body::File { now, .. }, .. }) = self.inodes.remove(&object) {
                self.used_bytes -= now.used();
            }
            self.locks.retain(|(fileid, _), _| *fileid != object);
        }
        if is_directory {
            self.inode_mut(dir)?.links -= 1;
        }
        Ok(())
    }

    // Operations.

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
        if attr.mode.is_some() && inode.kind() == Kind::Symlink {
            return Err(Status::NotSupp);
        }
        if attr.uid.is_some() || attr.gid.is_some() {
            inode.uid = attr.uid.unwrap_or(inode.uid);
            inode.gid = attr.gid.unwrap_or(inode.gid);
            // chown(2): setuid goes, and setgid where it is not the mark of mandatory locking.
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
        match &self.inode(fileid)?.body {
            Body::File { now, .. } => Ok(now.read(offset, length)),
            _ => Err(Status::Inval),
        }
    }

    pub(super) fn write(&mut self, fileid: u64, offset: u64, data: &[u8]) -> FsResult<()> {
        self.permit_change()?;
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
        let mut rest = directory.entries.range(from.saturating_add(1)..);
        let (mut entries, mut next) = (Vec::new(), None);
        for (cookie, (name, fileid)) in rest.by_ref().take(PAGE) {
            entries.push(Entry { name: name.clone(), kind: Some(self.inode(*fileid)?.kind()), fileid: *fileid });
            next = Some(*cookie);
        }
        Ok(Page { entries, next: next.filter(|_| rest.next().is_some()) })
    }

    pub(super) fn statfs(&self, dir: u64) -> FsResult<FsStat> {
        self.directory(dir)?;
        let free_bytes = self.total_bytes.saturating_sub(self.used_bytes);
        Ok(FsStat {
            total_bytes: self.total_bytes,
            free_bytes,
            available_bytes: free_bytes,
            total_inodes: self.total_inodes,
            free_inodes: self.total_inodes.saturating_sub(self.inodes.len() as u64),
        })
    }

    pub(super) fn try_lock(&mut self, fileid: u64, byte: i64, holder: Holder) -> FsResult<bool> {
        self.inode(fileid)?;
        Ok(*self.locks.entry((fileid, byte)).or_insert(holder) == holder)
    }

    pub(super) fn unlock(&mut self, fileid: u64, byte: i64, holder: Holder) -> FsResult<()> {
        self.inode(fileid)?;
        if self.locks.get(&(fileid, byte)) == Some(&holder) {
            self.locks.remove(&(fileid, byte));
        }
        Ok(())
    }

    // What a test does to the server.

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

    /// Puts an object at a path, with the directories on the way, as root on the server would.
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
            kind => Body::Special(kind),
        };
        let fileid = self.add(dir, &last, node.mode, body)?;
        let inode = self.inode_mut(fileid)?;
        (inode.mode, inode.uid, inode.gid) = (node.mode, node.uid, node.gid);
        Ok(())
    }

    pub(super) fn tree(&self) -> Tree {
        let mut tree = BTreeMap::new();
        let mut pending = vec![(Vec::new(), ROOT)];
        while let Some((path, fileid)) = pending.pop() {
            let Some(inode) = self.inodes.get(&fileid) else { continue };
            let content = match &inode.body {
                Body::File { now, .. } => now.read(0, usize::MAX),
                Body::Symlink(target) => target.clone(),
                Body::Special(_) => Vec::new(),
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
