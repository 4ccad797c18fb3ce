//! The whole content of an export as one value that tests compare and read.

use std::collections::BTreeMap;
use std::fmt;

use crate::export::fs::Kind;

/// All objects of an export by path from the root, without a leading slash and without the root. Times, numbers and
/// sizes of directories are not included, so two trees are equal if a tenant cannot tell them apart.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<Vec<u8>, Node>);

impl Tree {
    /// The object at a path such as `volumes/a`.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        self.0.get(path.as_ref())
    }

    /// Whether there is an object at the path.
    pub fn has(&self, path: impl AsRef<[u8]>) -> bool {
        self.get(path).is_some()
    }

    /// The paths as text, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.0.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    /// The part below a directory, with paths relative to it.
    pub fn below(&self, directory: impl AsRef<[u8]>) -> Self {
        let mut prefix = directory.as_ref().to_vec();
        prefix.push(b'/');
        let inside = |(path, node): (&Vec<u8>, &Node)| Some((path.strip_prefix(&*prefix)?.to_vec(), node.clone()));
        Self(self.0.iter().filter_map(inside).collect())
    }
}

/// One object as a tenant sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// Its kind.
    pub kind: Kind,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The content of a file or the target of a symbolic link; otherwise empty.
    pub content: Vec<u8>,
}

impl Node {
    /// A regular file that belongs to root.
    pub fn file(mode: u32, content: impl AsRef<[u8]>) -> Self {
        Self { kind: Kind::File, mode, uid: 0, gid: 0, content: content.as_ref().to_vec() }
    }

    /// A directory that belongs to root.
    pub fn directory(mode: u32) -> Self {
        Self { kind: Kind::Directory, ..Self::file(mode, "") }
    }

    /// A symbolic link that belongs to root.
    pub fn symlink(target: impl AsRef<[u8]>) -> Self {
        Self { kind: Kind::Symlink, ..Self::file(0o777, target) }
    }

    /// A FIFO, socket or device that belongs to root.
    pub fn special(kind: Kind, mode: u32) -> Self {
        Self { kind, ..Self::file(mode, "") }
    }

    /// The same object with another owner.
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

impl fmt::Display for Tree {
    /// Prints one line for each object, like `ls -l`: kind and mode, owner, path, content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, node) in &self.0 {
            writeln!(f, "{node:?} {}{}", path.escape_ascii(), Shown(node))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            Kind::File => '-',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
            Kind::CharDevice => 'c',
            Kind::BlockDevice => 'b',
        };
        write!(f, "{letter}{:04o} {}:{}", self.mode, self.uid, self.gid)
    }
}

/// The content of a node, shortened to fit on a line.
struct Shown<'a>(&'a Node);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LINE: usize = 120;
        let content = &self.0.content;
        match self.0.kind {
            Kind::File => {
                write!(f, " = \"{}\"", content[..content.len().min(LINE)].escape_ascii())?;
                if content.len() > LINE { write!(f, "... ({} bytes)", content.len()) } else { Ok(()) }
            }
            Kind::Symlink => write!(f, " -> {}", content.escape_ascii()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_reads_as_a_listing() {
        let tree = Tree(BTreeMap::from([
            (b"a".to_vec(), Node::directory(0o2770).owned_by(7, 8)),
            (b"a/f".to_vec(), Node::file(0o600, "one\n")),
            (b"l\xff".to_vec(), Node::symlink("/etc")),
        ]));
        assert_eq!(tree.to_string(), "d2770 7:8 a\n-0600 0:0 a/f = \"one\\n\"\nl0777 0:0 l\\xff -> /etc\n");
        assert_eq!(tree.below("a").paths(), ["f"]);
    }
}
