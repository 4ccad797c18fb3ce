//! Records everything below a directory, to detect changes.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Each entry below `root`, including `root`, with its metadata and content: the bytes of a file, the target of a link,
/// the number of a device.
pub fn walk(root: &Path) -> Vec<(PathBuf, Metadata, String)> {
    let mut entries = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if meta.is_file() {
            fs::read(&path).unwrap().escape_ascii().to_string()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string()
        } else {
            meta.rdev().to_string()
        };
        // The metadata is read again: reading a file makes a client return its delegation, with the times that it kept.
        let meta = fs::symlink_metadata(&path).unwrap();
        entries.push((path, meta, content));
    }
    entries
}

/// Creates a file of 2 GiB with a little data at both ends and in the middle.
pub fn plant_sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(2 << 30).unwrap();
    for offset in [0, 1 << 30, (2 << 30) - 70_000] {
        file.write_all_at(&[b'x'; 70_000], offset).unwrap();
    }
    file.sync_all().unwrap();
}

/// Everything below a directory: inode, kind, mode, owner, links, change times, and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    root: PathBuf,
    entries: BTreeMap<PathBuf, String>,
}

impl Tree {
    /// Records the tree below `root`, including `root`.
    pub fn of(root: &Path) -> Self {
        let shown = |(path, meta, content): (PathBuf, Metadata, String)| {
            let entry = format!(
                "inode {} mode {:o} owner {}:{} links {} modified {}.{:09} changed {}.{:09} {content}",
                meta.ino(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            );
            (path, entry)
        };
        let entries = walk(root).into_iter().map(shown).collect();
        Self { root: root.to_owned(), entries }
    }

    /// Panics with each difference if anything has changed. `what` names the action under test.
    pub fn assert_unchanged(&self, what: &str) {
        let now = Self::of(&self.root);
        let differences: Vec<String> = self
            .entries
            .iter()
            .filter(|(path, entry)| now.entries.get(*path) != Some(*entry))
            .map(|(path, entry)| format!("{path:?}: was {entry}\n    is {:?}", now.entries.get(path)))
            .chain(
                now.entries.keys().filter(|path| !self.entries.contains_key(*path)).map(|p| format!("{p:?}: is new")),
            )
            .collect();
        assert!(differences.is_empty(), "{what} changed the export:\n{}", differences.join("\n"));
    }
}
