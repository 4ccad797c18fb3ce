//! The mount table of the driver's mount namespace, as proc_pid_mountinfo(5) shows it.
//!
//! The table is all that the node knows of published volumes, so a restart of the driver loses nothing. Reading it
//! never waits for a server. Paths are bytes, so that a line that is not UTF-8 does not hide the others.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Error, Result};
use crate::nfs::option_table::split;
use crate::nfs::source::{Server, Source};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// The size of the buffer in bytes, enough for the table of most nodes.
const ENOUGH: usize = 64 * 1024;

/// The port of NFS if the options name none (RFC 8881, section 2.9.3).
const NFS_PORT: u16 = 2049;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while the mount exists. The kernel reuses it later.
    pub id: u64,
    /// The mount that this one is mounted on.
    parent: u64,
    /// `st_dev` of its files, major and minor: mounts with the same one share a superblock, and with it the connection,
    /// the cache and unwritten data.
    pub device: (u32, u32),
    /// The mount point.
    pub target: PathBuf,
    /// The type of the file system, such as `nfs4`.
    pub fs_type: String,
    /// `SERVER:/PATH` for NFS.
    source: Vec<u8>,
    /// The options of this mount.
    mount_options: String,
    /// The options of the superblock.
    super_options: String,
}

impl Mount {
    /// Parses a line of mountinfo. Returns `None` if fields are missing.
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
        // Skip the optional fields and their end.
        while next()? != b"-" {}
        let fs_type = text(next()?);
        // The field is empty if a mount has no source.
        let source = unescape(fields.next()?);
        let super_options = text(fields.next()?);
        Some(Self { id, parent, device, target, fs_type, source, mount_options, super_options })
    }

    /// The same mount after it was attached to `target`, where it has the ID `id`.
    pub fn attached(self, id: u64, target: &Path) -> Self {
        Self { id, target: target.to_owned(), ..self }
    }

    /// The options of the superblock, one by one.
    pub fn superblock_options(&self) -> impl Iterator<Item = &str> {
        split(&self.super_options)
    }

    /// Whether this is an NFS mount.
    pub fn is_nfs(&self) -> bool {
        matches!(self.fs_type.as_str(), "nfs" | "nfs4")
    }

    /// Whether the mount or its superblock is read-only.
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
        split(&self.mount_options).chain(split(&self.super_options))
    }

    /// The source for a message.
    pub fn source(&self) -> String {
        String::from_utf8_lossy(&self.source).escape_debug().to_string()
    }

    /// The server of an NFS mount, by the address that the kernel uses; `None` for other file systems.
    ///
    /// The name in the source is only used if the kernel shows no address: the name may have another address by now,
    /// and all mounts of a superblock show the name that the first of them used.
    pub fn server(&self) -> Option<Server> {
        let shown = || self.option("addr").and_then(|text| Server::parse("addr", text).ok());
        self.is_nfs().then(|| shown().or_else(|| self.named_server()))?
    }

    /// The address of [`Self::server`]; `None` for other file systems.
    pub fn address(&self) -> Option<IpAddr> {
        self.server()?.address()
    }

    /// The server by the name or address in the source.
    pub fn named_server(&self) -> Option<Server> {
        let (host, _) = split_source(&self.source)?;
        Server::parse("source", std::str::from_utf8(host).ok()?).ok()
    }

    /// The NFS port of the server.
    pub fn port(&self) -> u16 {
        self.option("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0).unwrap_or(NFS_PORT)
    }

    /// The TCP port at which to check that the server answers. With RDMA, which has other ports, it is always 2049.
    pub fn tcp_port(&self) -> u16 {
        let rdma = self.option("proto").is_some_and(|proto| proto.starts_with("rdma"));
        if rdma { NFS_PORT } else { self.port() }
    }

    /// Whether this is a mount of `source`: it has the same path, and the same server name or the server address
    /// `address`.
    pub fn is_of(&self, source: &Source, address: Option<IpAddr>) -> bool {
        self.below(source, address.as_slice()).is_some_and(<[u8]>::is_empty)
    }

    /// Whether this is a mount of `source` or of a directory below it, from the same server name or from one of
    /// `addresses`.
    pub fn is_within(&self, source: &Source, addresses: &[IpAddr]) -> bool {
        self.below(source, addresses).is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
    }

    /// What follows the path of `source` in that of this mount.
    fn below(&self, source: &Source, addresses: &[IpAddr]) -> Option<&[u8]> {
        let asked = source.to_string();
        let ((host, path), (asked_host, asked_path)) = (split_source(&self.source)?, split_source(asked.as_bytes())?);
        let is_server =
            host.eq_ignore_ascii_case(asked_host) || self.address().is_some_and(|ip| addresses.contains(&ip));
        path.strip_prefix(asked_path).filter(|_| self.is_nfs() && is_server)
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
        // The kernel generates the text for each read(2), so few reads are better.
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
        // No other mount of the stack is on the visible one.
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

/// Decodes the kernel's `\OOO` (three octal digits) for blanks, backslashes and hashes.
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
26 25 0:26 / /run/a rw,nosuid,nodev,relatime shared:10 - nfs4 10.0.0.1:/v1 rw,vers=4.2,hard,proto=tcp,local_lock=none,\
addr=10.0.0.1
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
    fn a_comma_in_a_label_of_selinux_ends_no_option() {
        let line = b"26 25 0:26 / /t rw - nfs4 h:/v rw,context=\"u:r:t:s0:c1,c2\",vers=4.2,addr=10.0.0.1";
        let table = Table::parse(line);
        let mount = table.top(Path::new("/t")).unwrap();
        assert_eq!((mount.option("context"), mount.option("vers")), (Some("\"u:r:t:s0:c1,c2\""), Some("4.2")));
        assert_eq!(mount.superblock_options().count(), 4);
    }

    #[test]
    fn an_invalid_line_hides_no_other_line() {
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
    fn a_server_with_rdma_is_checked_over_tcp() {
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

    #[rstest]
    #[case::same("10.0.0.1", "/v1", true)]
    #[case::root("10.0.0.1", "/", true)]
    #[case::another_name("nfs.example", "/v1", true)]
    #[case::below("10.0.0.1", "/v1/a", false)]
    #[case::prefix("10.0.0.1", "/v", false)]
    fn a_mount_is_within_a_source_and_within_what_is_above(
        #[case] server: &str,
        #[case] share: &str,
        #[case] expected: bool,
    ) {
        let (source, address) = (source(server, share, None), "10.0.0.1".parse().unwrap());
        assert_eq!(mount("/run/b").is_within(&source, &[address]), expected);
        assert!(!mount("/run/v 2").is_within(&source, &[address]), "it is of another server");
    }

    #[test]
    fn mounts_of_one_superblock_have_the_same_device() {
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
