//! The directories and files of a share that tenants and administrators see, as a plain map.

use std::collections::BTreeMap;
use std::fmt;

use crate::testing::memory::Tree;

/// Directories and files by their paths relative to some directory. `None` is a directory, `Some` a file's content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Files(BTreeMap<String, Option<String>>);

impl Files {
    /// The content of a share, without the driver's private directory.
    pub fn of_share(tree: &Tree) -> Self {
        let mut files = Self::of(tree);
        files.0.retain(|path, _| path != ".csi-nfs" && !path.starts_with(".csi-nfs/"));
        files
    }

    /// The content of a tree.
    pub fn of(tree: &Tree) -> Self {
        let file = |node: &crate::testing::memory::Node| {
            (node.kind != crate::export::fs::Kind::Directory).then(|| node.text())
        };
        Self(tree.0.iter().map(|(path, node)| (String::from_utf8_lossy(path).into_owned(), file(node))).collect())
    }

    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Whether the directory exists and is not empty.
    pub fn is_filled(&self, dir: &str) -> bool {
        self.has(dir) && self.inside(dir).next().is_some()
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.0.values().flatten().map(|content| content.len() as u64).sum()
    }

    pub fn write(&mut self, path: &str, content: &str) {
        self.0.insert(path.to_owned(), Some(content.to_owned()));
    }

    pub fn make_dir(&mut self, path: &str) {
        self.0.entry(path.to_owned()).or_default();
    }

    /// The content of a directory, by paths relative to it. `None` if the directory does not exist.
    pub fn below(&self, dir: &str) -> Option<Self> {
        let shorter = |(path, file): (&String, &Option<String>)| (path[dir.len() + 1..].to_owned(), file.clone());
        self.has(dir).then(|| Self(self.inside(dir).map(shorter).collect()))
    }

    /// Adds a directory with this content at a free path.
    pub fn put(&mut self, dir: &str, content: &Self) {
        self.make_dir(dir);
        self.0.extend(content.0.iter().map(|(path, file)| (format!("{dir}/{path}"), file.clone())));
    }

    /// Removes the object at a path, with everything in it.
    pub fn remove(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.0.retain(|other, _| other != path && !other.starts_with(&inside));
    }

    /// Renames a directory to a free path.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(content) = self.below(from) {
            self.remove(from);
            self.put(to, &content);
        }
    }

    fn inside(&self, dir: &str) -> impl Iterator<Item = (&String, &Option<String>)> {
        let inside = format!("{dir}/");
        self.0.range(inside.clone()..).take_while(move |(path, _)| path.starts_with(&inside))
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(path, file): (&String, &Option<String>)| match file {
            None => format!("{path}/"),
            Some(content) => format!("{path}={content}"),
        };
        write!(f, "[{}]", self.0.iter().map(shown).collect::<Vec<_>>().join(" "))
    }
}

/// The parents of a directory, from the top.
pub fn above(dir: &str) -> impl Iterator<Item = &str> {
    dir.match_indices('/').map(|(at, _)| &dir[..at])
}

/// Whether `inner` is below `outer`. A directory is not below itself.
pub fn is_inside(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}
