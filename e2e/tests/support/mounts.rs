//! The mount table of the kernel, and the removal of mounts that a test left behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use super::wait;

/// A mount: a line of `/proc/self/mountinfo` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount point.
    pub point: PathBuf,
    /// The source, such as `127.0.0.1:/xfs`.
    pub source: String,
    /// The type: `nfs4`, or `nfs` for version 3.
    pub kind: String,
    /// The options of the mount, followed by those of the superblock.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether an option is set.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }
}

/// All mounts, oldest first.
pub fn all() -> Vec<Mount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .map(|line| {
            let (first, second) = line.split_once(" - ").unwrap();
            let first: Vec<&str> = first.split(' ').collect();
            let second: Vec<&str> = second.split(' ').collect();
            Mount {
                point: PathBuf::from(unescape(first[4])),
                source: unescape(second[1]),
                kind: second[0].to_owned(),
                options: first[5].split(',').chain(second[2].split(',')).map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// The mounts at a path, the uppermost last.
pub fn at(point: &Path) -> Vec<Mount> {
    all().into_iter().filter(|mount| mount.point == point).collect()
}

/// Unmounts everything at or below a path, even if a server does not answer.
pub fn clear(below: &Path) {
    for mount in all().iter().rev().filter(|mount| mount.point.starts_with(below)) {
        let _ = unmount(&mount.point, UnmountFlags::FORCE | UnmountFlags::DETACH);
    }
}

/// Waits until the kernel's client knows no server any more, so that the next mount has a connection and a cache of its
/// own. A mount that lost its export ends 15 s after it is unmounted.
pub async fn no_nfs_is_left() {
    let gone = || std::fs::read_to_string("/proc/fs/nfsfs/servers").unwrap().lines().nth(1).is_none().then_some(());
    wait::until("the end of all NFS mounts", Duration::from_secs(30), gone).await;
}

/// Undoes the escapes of mountinfo: `\040` for a space, and so on.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push(char::from(u8::from_str_radix(&part[..3], 8).unwrap()));
        plain.push_str(&part[3..]);
    }
    plain
}
