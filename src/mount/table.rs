//! The mount table of the driver's mount namespace, as proc_pid_mountinfo(5) shows it.
//!
//! It is what the node knows of published volumes: a restart of the driver loses nothing. Reading it asks no server and
//! never waits for one. Paths are bytes: one line that is not UTF-8 must not hide the others.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Error, Result};
use crate::nfs::source::{Server, Source};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Bytes that hold the table of most nodes.
const ENOUGH: usize = 64 * 1024;

/// The port of NFS, where the options name none (RFC 8881, section 2.9.3).
const NFS_PORT: u16 = 2049;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while the mount lives; used again after it.
    pub id: u64,
    /// The mount that this one is mounted on.
    parent: u64,
    /// `st_dev` of its files, major and minor: mounts with the same one share a superblock, and with it the connection,
    /// the cache and what is not written yet.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub target: PathBuf,
    /// Such as `nfs4`.
    pub fs_type: String,
    /// `SERVER:/PATH` for NFS.
    source: Vec<u8>,
    /// The options of this mount.
    mount_options: String,
    /// The options of the superblock.
    super_options: String,
}

impl Mount {
    /// Reads a line of mountinfo; `None` for one that does not have its fields.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let mut next = || fields.next().filter(|field| !field.is_empty());
        let id = number(next()?)?;
        let parent = number(next()?)?;
        let (major, minor) = std::str::from_utf8(next()?).ok()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let _root = next()?;
        let target = PathBuf::from(OsString::from_vec(unescape(next()?)));
        let mount_options = text(next()?);
        // Optional fields, as many as there are, and their end.
        while next()? != b"-" {}
        let fs_type = text(next()?);
        // A mount may have no source: its field is then empty.
        let source = unescape(fields.next()?);
        let super_options = text(fields.next()?);
        Some(Self { id, parent, device, target, fs_type, source, mount_options, super_options })
    }

    /// Whether the kernel's NFS client made it.
    pub fn is_nfs(&self) -> bool {
        matches!(self.fs_type.as_str(), "nfs" | "nfs4")
    }

    /// Whether nothing can be written through it.
    pub fn is_read_only(&self) -> bool {
        self.has("ro")
    }

    /// Whether a flag such as `noatime` is among its options.
    pub fn has(&self, flag: &str) -> bool {
        self.options().any(|option| option == flag)
    }

    /// The value of an option such as `vers`.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options().find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    }

    fn options(&self) -> impl Iterator<Item = &str> {
        self.mount_options.split(',').chain(self.super_options.split(','))
    }

    /// The source for a message.
    pub fn source(&self) -> String {
        String::from_utf8_lossy(&self.source).escape_debug().to_string()
    }

    /// The server it talks to, by the address that the kernel uses; `None` for what is not NFS.
    ///
    /// Not the name in the source: the name may have moved to another address since, and mounts of one superblock all
    /// show the name that the first of them was given.
    pub fn server(&self) -> Option<Server> {
        let shown = || self.option("addr").and_then(|text| Server::parse("addr", text).ok());
        self.is_nfs().then(|| shown().or_else(|| self.named_server()))?
    }

    /// The address of that server; `None` for what is not NFS.
    pub fn address(&self) -> Option<IpAddr> {
        self.server()?.address()
    }

    /// The server by the name or address in the source.
    pub fn named_server(&self) -> Option<Server> {
        let (host, _) = split_source(&self.source)?;
        Server::parse("source", std::str::from_utf8(host).ok()?).ok()
    }

    /// The port it talks to.
    pub fn port(&self) -> u16 {
        self.option("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0).unwrap_or(NFS_PORT)
    }

    /// The TCP port at which its server is asked whether it lives: with RDMA, whose ports are others, always 2049.
    pub fn tcp_port(&self) -> u16 {
        let rdma = self.option("proto").is_some_and(|proto| proto.starts_with("rdma"));
        if rdma { NFS_PORT } else { self.port() }
    }

    /// Whether it is a mount of `source`: the same path, of a server by the same name or at `address`.
    pub fn is_of(&self, source: &Source, address: Option<IpAddr>) -> bool {
        let asked = source.to_string();
        let (Some((host, path)), Some((asked_host, asked_path))) =
            (split_source(&self.source), split_source(asked.as_bytes()))
        else {
            return false;
        };
        self.is_nfs()
            && path == asked_path
            && (host.eq_ignore_ascii_case(asked_host) || (address.is_some() && self.address() == address))
    }
}

/// The host and the path of `HOST:/PATH` or `[ADDRESS]:/PATH`, the path without its closing slash.
fn split_source(source: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = source.windows(2).position(|pair| pair == b":/")?;
    let (host, path) = (source.get(..colon)?, source.get(colon + 1..)?);
    Some((host, path.strip_suffix(b"/").unwrap_or(path)))
}

/// A snapshot of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(Vec<Mount>);

impl Table {
    /// Reads the table.
    pub fn read() -> Result<Self> {
        Self::read_at(CWD, MOUNTINFO).map_err(|error| Error::Internal(format!("reading {MOUNTINFO}: {error}")))
    }

    /// Reads the table of another mount namespace: the file `path` below `directory`.
    pub fn read_at(directory: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Self> {
        // The kernel makes the text up anew for each read: the fewer, the better.
        let mut bytes = Vec::with_capacity(ENOUGH);
        let file = rustix::fs::openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        while rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? > 0 {
            bytes.reserve(ENOUGH);
        }
        Ok(Self::parse(&bytes))
    }

    /// Parses the content of mountinfo.
    pub fn parse(bytes: &[u8]) -> Self {
        Self(bytes.split(|b| *b == b'\n').filter_map(Mount::parse).collect())
    }

    /// All mounts.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// The mounts stacked at `target`, the visible one first.
    pub fn at(&self, target: &Path) -> Vec<&Mount> {
        let mut left: Vec<&Mount> = self.0.iter().filter(|mount| mount.target == target).collect();
        let mut stack = Vec::with_capacity(left.len());
        // The visible one carries none of the others.
        let carries = |mount: &Mount, other: &Mount| other.parent == mount.id && other.id != mount.id;
        while let Some(top) = left.iter().position(|mount| !left.iter().any(|other| carries(mount, other))) {
            stack.push(left.remove(top));
        }
        stack
    }

    /// The mount that is visible at `target`.
    pub fn top(&self, target: &Path) -> Option<&Mount> {
        self.at(target).first().copied()
    }
}

/// Whether a path is one that kubelet gives to NodePublishVolume:
/// `…/pods/UID/volumes/kubernetes.io~csi/VOLUME/mount`. Bind mounts for a pod's `subPath` are not under it.
pub fn is_kubelet_target(path: &Path) -> bool {
    let mut names = path.components().rev().map(|component| component.as_os_str());
    names.next() == Some(OsStr::new("mount"))
        && names.next().is_some()
        && names.next() == Some(OsStr::new("kubernetes.io~csi"))
        && names.next() == Some(OsStr::new("volumes"))
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Undoes the kernel's `\OOO` (three octal digits) for blanks, backslashes and hashes.
fn unescape(mut field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    while let [first, rest @ ..] = field {
        match rest.first_chunk().and_then(octal).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                field = rest.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                field = rest;
            }
        }
    }
    bytes
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    let value = digits.iter().try_fold(0, |value, digit| Some(value * 8 + char::from(*digit).to_digit(8)?))?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::nfs::source::{Share, SubDir};

    const TABLE: &[u8] = b"\
21 1 0:20 / / rw,relatime - hostfs none rw
25 21 0:25 / /run rw shared:5 - tmpfs  rw
26 25 0:26 / /run/a rw,nosuid,nodev,relatime shared:10 - nfs4 10.0.0.1:/v1 rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.1
33 25 0:26 / /run/b ro,relatime shared:11 master:3 - nfs4 10.0.0.1:/v1 rw,vers=4.2,hard,addr=10.0.0.1
34 25 0:27 / /run/v\\0402 rw,noatime shared:12 - nfs [::1]:/v\\0402/sub ro,vers=3,port=3049,addr=::1
36 26 0:29 / /run/a rw shared:14 - tmpfs none rw
37 36 0:30 / /run/a rw shared:14 - nfs4 host:/ rw,addr=10.0.0.9
38 25 0:31 / /run/\xff rw - tmpfs none rw
39 25 bad
";

    fn source(server: &str, share: &str, sub_dir: Option<&str>) -> Source {
        Source {
            server: Server::parse("server", server).unwrap(),
            share: Share::parse("share", share).unwrap(),
            sub_dir: sub_dir.map(|path| SubDir::parse("subDir", path).unwrap()),
        }
    }

    fn mount(target: &str) -> Mount {
        Table::parse(TABLE).top(Path::new(target)).unwrap().clone()
    }

    #[test]
    fn a_line_is_read_with_its_octal_escapes_undone() {
        let mount = mount("/run/v 2");
        assert_eq!((mount.id, mount.fs_type.as_str(), mount.source().as_str()), (34, "nfs", "[::1]:/v 2/sub"));
        assert_eq!((mount.server().unwrap().as_str(), mount.port()), ("::1", 3049));
        assert_eq!((mount.has("noatime"), mount.has("sub"), mount.option("vers")), (true, false, Some("3")));
    }

    #[test]
    fn a_line_that_is_not_utf_8_or_not_whole_hides_no_other() {
        assert_eq!(Table::parse(TABLE).mounts().count(), 8);
    }

    #[test]
    fn stacked_mounts_come_with_the_visible_one_first() {
        let table = Table::parse(TABLE);
        let ids: Vec<u64> = table.at(Path::new("/run/a")).iter().map(|mount| mount.id).collect();
        assert_eq!(ids, [37, 36, 26]);
        assert_eq!(table.at(Path::new("/")).len(), 1);
        assert_eq!(table.top(Path::new("/run/none")), None);
    }

    #[test]
    fn a_server_that_is_used_over_rdma_is_asked_over_tcp() {
        let table = Table::parse(b"1 0 0:1 / /t rw - nfs4 nfs:/e rw,proto=rdma,port=20049,addr=10.0.0.1");
        let mount = table.top(Path::new("/t")).unwrap();
        assert_eq!((mount.port(), mount.tcp_port()), (20049, 2049));
    }

    #[rstest]
    #[case::mount("/run/b", true)]
    #[case::superblock("/run/v 2", true)]
    #[case::neither("/run/a", false)]
    fn a_mount_is_read_only_by_itself_or_by_its_superblock(#[case] target: &str, #[case] read_only: bool) {
        assert_eq!(mount(target).is_read_only(), read_only);
    }

    #[rstest]
    #[case::same("10.0.0.1", "/v1", None, None, true)]
    #[case::joined("10.0.0.1", "/", Some("v1"), None, true)]
    #[case::another_name_of_the_server("nfs.example", "/v1", None, Some("10.0.0.1"), true)]
    #[case::another_server("nfs.example", "/v1", None, Some("10.0.0.2"), false)]
    #[case::another_path("10.0.0.1", "/v1", Some("x"), Some("10.0.0.1"), false)]
    #[case::prefix("10.0.0.1", "/v", None, Some("10.0.0.1"), false)]
    fn a_mount_is_of_a_source_by_path_and_by_name_or_address(
        #[case] server: &str,
        #[case] share: &str,
        #[case] sub_dir: Option<&str>,
        #[case] address: Option<&str>,
        #[case] expected: bool,
    ) {
        let address = address.map(|address| address.parse().unwrap());
        assert_eq!(mount("/run/b").is_of(&source(server, share, sub_dir), address), expected);
    }

    #[test]
    fn an_export_s_root_is_compared_like_any_other_path() {
        assert!(mount("/run/a").is_of(&source("HOST", "/", None), None));
        assert!(mount("/run/v 2").is_of(&source("[0::1]", "/v 2", Some("sub")), None));
    }

    #[test]
    fn mounts_of_one_superblock_are_told_from_others() {
        assert_eq!(Table::parse(TABLE).at(Path::new("/run/a"))[2].device, mount("/run/b").device);
        assert_ne!(mount("/run/a").device, mount("/run/b").device);
    }

    #[rstest]
    #[case("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount", true)]
    #[case("/var/lib/kubelet/pods/u/volumes/kubernetes.io~nfs/pv", false)]
    #[case("/var/lib/kubelet/pods/u/volume-subpaths/pv/c/0", false)]
    #[case("/volumes/kubernetes.io~csi/mount", false)]
    #[case("/mnt", false)]
    fn kubelet_s_targets_are_recognized(#[case] path: &str, #[case] expected: bool) {
        assert_eq!(is_kubelet_target(Path::new(path)), expected);
    }

    proptest! {
        #[test]
        fn every_path_survives_the_kernel_s_escaping(path in prop::collection::vec(any::<u8>(), 0..40)) {
            let escaped: Vec<u8> = path
                .iter()
                .flat_map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                    byte => vec![*byte],
                })
                .collect();
            prop_assert_eq!(unescape(&escaped), path);
        }

        #[test]
        fn no_table_makes_the_parser_fail(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            Table::parse(&bytes).at(Path::new("/"));
        }
    }
}
