//! Compares two trees.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::export::fs::{ACLS, Attr, Fs, Kind, Name, OpenMode, Seek};

/// The number of bytes of each file that are read at a time.
const CHUNK: usize = 1 << 20;
/// The unit in which holes are compared, since servers allocate in units of different sizes.
const UNIT: u64 = 64 << 10;

/// Which optional properties of two trees are compared.
#[derive(Debug, Clone, Copy)]
pub struct Compared {
    /// Whether access times must be equal. Otherwise an access time in the copy must not be later than in the source,
    /// because copying reads the source and may change its access times.
    pub atimes: bool,
    /// Whether the positions of holes must be equal.
    pub holes: bool,
    /// Whether the times of symbolic links must be equal. Some servers do not store them.
    pub link_times: bool,
}

/// Compares the directory `one` with its copy, including everything below: names, kinds, content, holes, modes, owners,
/// times, devices, extended attributes, access control lists, hard links.
///
/// # Panics
/// If the trees differ. The message has the path.
pub async fn assert_same_tree<F: Fs>(fs: &F, one: &F::Handle, copy_fs: &F, copy: &F::Handle, compared: Compared) {
    let pair = (fs.getattr(one).await.unwrap(), copy_fs.getattr(copy).await.unwrap());
    same(".", &pair.0, &pair.1, compared);
    let mut comparison = Comparison { fs, copy_fs, compared, links: HashMap::new() };
    comparison.xattrs(".", one, copy).await;
    let mut pending = vec![(String::new(), one.clone(), copy.clone())];
    while let Some((path, one, copy)) = pending.pop() {
        comparison.directory(&path, &one, &copy, &mut pending).await;
    }
}

struct Comparison<'a, F> {
    fs: &'a F,
    copy_fs: &'a F,
    compared: Compared,
    /// The file IDs of objects with several names, mapped to the file IDs of their copies.
    links: HashMap<u64, u64>,
}

impl<F: Fs> Comparison<'_, F> {
    async fn directory(
        &mut self,
        path: &str,
        one: &F::Handle,
        copy: &F::Handle,
        pending: &mut Vec<(String, F::Handle, F::Handle)>,
    ) {
        let (names, copied) = (list(self.fs, one).await, list(self.copy_fs, copy).await);
        let only = |some: &BTreeSet<Name>, others: &BTreeSet<Name>| -> Vec<Name> {
            some.iter().filter(|name| !others.contains(name)).cloned().collect()
        };
        let (missing, added) = (only(&names, &copied), only(&copied, &names));
        assert!(missing.is_empty() && added.is_empty(), "in `{path}` missing: {missing:?}, added: {added:?}");
        for name in &names {
            let path = format!("{path}{name}");
            let (here, attr) = self.fs.lookup(one, name).await.unwrap_or_else(|status| panic!("`{path}`: {status}"));
            let (there, copied) =
                self.copy_fs.lookup(copy, name).await.unwrap_or_else(|status| panic!("copy of `{path}`: {status}"));
            if attr.kind != Kind::Directory && attr.links > 1 {
                let first = self.links.insert(attr.fileid, copied.fileid);
                assert_eq!(
                    first.unwrap_or(copied.fileid),
                    copied.fileid,
                    "`{path}` is not linked to the copy of the same file"
                );
                if first.is_some() {
                    continue;
                }
            }
            same(&path, &attr, &copied, self.compared);
            match attr.kind {
                Kind::Directory => pending.push((format!("{path}/"), here.clone(), there.clone())),
                Kind::Symlink => {
                    let targets =
                        (self.fs.readlink(&here).await.unwrap(), self.copy_fs.readlink(&there).await.unwrap());
                    assert!(targets.0 == targets.1, "`{path}` has another target");
                }
                _ => {}
            }
            if attr.kind == Kind::File {
                self.content(&path, (one, copy), name, attr.size).await;
            }
            if matches!(attr.kind, Kind::File | Kind::Directory) {
                self.xattrs(&path, &here, &there).await;
            }
        }
    }

    async fn content(&self, path: &str, dirs: (&F::Handle, &F::Handle), name: &Name, size: u64) {
        let (one, _) = self.fs.open(dirs.0, name, OpenMode::Read).await.unwrap();
        let (copy, _) = self.copy_fs.open(dirs.1, name, OpenMode::Read).await.unwrap();
        let (here, there) = (extents(self.fs, &one, size).await, extents(self.copy_fs, &copy, size).await);
        if self.compared.holes {
            let units = |extents: &[(u64, u64)]| -> Vec<(u64, u64)> {
                let mut units: Vec<(u64, u64)> = Vec::new();
                for (start, end) in extents.iter().map(|(start, end)| (start / UNIT, end.div_ceil(UNIT))) {
                    match units.last_mut() {
                        Some(last) if last.1 >= start => last.1 = last.1.max(end),
                        _ => units.push((start, end)),
                    }
                }
                units
            };
            assert_eq!(units(&here), units(&there), "the data of `{path}` in units of {UNIT} bytes");
        }
        // A hole in both files is zero in both, so only data is read.
        for (start, end) in here.into_iter().chain(there) {
            let mut at = start;
            while at < end {
                let length = CHUNK.min((end - at) as usize);
                let (data, copied) = (self.fs.read(&one, at, length), self.copy_fs.read(&copy, at, length));
                let (data, copied) = futures_util::future::join(data, copied).await;
                assert!(data.unwrap() == copied.unwrap(), "`{path}` differs in {length} bytes at {at}");
                at += length as u64;
            }
        }
    }

    async fn xattrs(&self, path: &str, one: &F::Handle, copy: &F::Handle) {
        let (here, there) = (xattrs(self.fs, one).await, xattrs(self.copy_fs, copy).await);
        if let (Some(mut here), Some(mut there)) = (here, there) {
            for acl in ACLS {
                // One of the exports may not support this access control list.
                if !here.contains_key(acl) || !there.contains_key(acl) {
                    here.remove(acl);
                    there.remove(acl);
                }
            }
            assert_eq!(here, there, "extended attributes of `{path}`");
        }
    }
}

fn same(path: &str, one: &Attr, copy: &Attr, compared: Compared) {
    let timed = compared.link_times || one.kind != Kind::Symlink;
    let seen = |attr: &Attr| {
        let (size, links) = if attr.kind == Kind::Directory { (0, 0) } else { (attr.size, attr.links) };
        (
            attr.kind,
            format!("{:o}", attr.mode),
            attr.uid,
            attr.gid,
            size,
            links,
            attr.device,
            timed.then_some(attr.mtime),
        )
    };
    assert_eq!(seen(one), seen(copy), "`{path}`: kind, mode, owner, group, size, links, device, modification time");
    if !timed {
        return;
    }
    if compared.atimes {
        assert_eq!(one.atime, copy.atime, "`{path}`: access time");
    } else {
        assert!(copy.atime <= one.atime, "`{path}`: access time {:?} is later than {:?}", copy.atime, one.atime);
    }
}

async fn list<F: Fs>(fs: &F, dir: &F::Handle) -> BTreeSet<Name> {
    let (mut names, mut next) = (BTreeSet::new(), Some(0));
    while let Some(cookie) = next {
        let page = fs.readdir(dir, cookie).await.unwrap();
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        next = page.next;
    }
    names
}

async fn extents<F: Fs>(fs: &F, file: &F::Handle, size: u64) -> Vec<(u64, u64)> {
    let (mut extents, mut at) = (Vec::new(), 0);
    while let Some(start) = fs.seek(file, at, Seek::Data).await.unwrap() {
        at = fs.seek(file, start, Seek::Hole).await.unwrap().unwrap_or(size);
        extents.push((start, at));
    }
    extents
}

async fn xattrs<F: Fs>(fs: &F, object: &F::Handle) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in fs.list_xattrs(object).await.ok()? {
        if let Some(value) = fs.get_xattr(object, &name).await.unwrap() {
            found.insert(name, value);
        }
    }
    Some(found)
}
