//! The source of a mount: a server, a share, and a directory below the share. A parsed value is always valid.

use std::fmt;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::nfs::name::Name;
use crate::nfs::text::excerpt;

/// PATH_MAX of Linux without the closing NUL.
const PATH_MAX: usize = 4095;

/// An NFS server as the operator names it: an IPv4 or IPv6 address (with or without brackets), or a host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server(String);

impl Server {
    /// Parses a server. `field` is the caller's name for it, for the error.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let bad = |reason: &str| Err(Error::invalid(field, format!("`{}`: {reason}", excerpt(text))));
        if text.is_empty() {
            return Err(Error::invalid(field, "missing: the NFS server's host name or IP address"));
        }
        if address(text).is_some() {
            return Ok(Self(text.to_owned()));
        }
        if text.len() > 253 {
            return bad("a host name has at most 253 characters");
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !text.strip_suffix('.').unwrap_or(text).split('.').all(label) {
            return bad("not a host name, an IPv4 address or an IPv6 address");
        }
        Ok(Self(text.to_owned()))
    }

    /// This machine, for the agent, which runs on the server itself.
    pub fn this_machine() -> Self {
        Self("localhost".to_owned())
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, if the server is given by address.
    pub fn address(&self) -> Option<IpAddr> {
        address(&self.0)
    }
}

fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

impl From<IpAddr> for Server {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A share: the absolute path that the server exports, kept without its outer slashes. The root of the server is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(String);

impl Share {
    /// Parses a share such as `/export` or `/`. One slash at either end is optional.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid(field, "missing: the path that the server exports, such as /export"));
        }
        Self::parse_bare(field, text)
    }

    /// Parses the form that volume IDs contain: without outer slashes, and empty for the root.
    pub fn parse_bare(field: &str, text: &str) -> Result<Self> {
        let bare = trim_slashes(text);
        if !bare.is_empty() {
            components(field, text, bare)?;
        } else if text.len() > 1 {
            return Err(Error::invalid(field, format!("`{text}`: the root is written `/`")));
        }
        if bare.split('/').any(|name| name == SubDir::PRIVATE) {
            return Err(Error::invalid(field, format!("`{}` is the driver's own directory", SubDir::PRIVATE)));
        }
        Ok(Self(bare.to_owned()))
    }

    /// The path without outer slashes; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

/// A directory below a share: one or more names. It is never the share itself or outside of it, and never in the
/// driver's private directory, except for the tree of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubDir(String);

impl SubDir {
    /// The driver's private directory on a share.
    pub const PRIVATE: &str = ".csi-nfs";

    /// Parses a path such as `team/app`. One slash at either end is optional.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let bare = trim_slashes(text);
        if bare.is_empty() {
            return Err(Error::invalid(field, format!("`{text}` is the share itself: name a directory below it")));
        }
        components(field, text, bare)?;
        let sub_dir = Self(bare.to_owned());
        if sub_dir.first() == Self::PRIVATE {
            return Err(Error::invalid(field, format!("`{}` is the driver's own directory", Self::PRIVATE)));
        }
        Ok(sub_dir)
    }

    /// The tree of this snapshot. It is the only place in the driver's private directory that a node ever mounts, and
    /// always read-only.
    pub fn snapshot_tree(field: &str, snapshot: &str) -> Result<Self> {
        components(field, snapshot, snapshot)?;
        let tree = format!("{snapshot}.tree");
        if Name::new(&tree).is_err() {
            return Err(Error::invalid(field, format!("`{}` is not the name of a snapshot", excerpt(snapshot))));
        }
        Ok(Self(format!("{}/snapshots/{tree}", Self::PRIVATE)))
    }

    /// The path without outer slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first name.
    pub fn first(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// Its names, from the share downwards; never empty.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = Name> {
        // `parse` checked every component, so none is dropped here.
        self.0.split('/').filter_map(|component| Name::new(component).ok())
    }
}

impl fmt::Display for SubDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Removes at most one slash from each end.
fn trim_slashes(text: &str) -> &str {
    let text = text.strip_prefix('/').unwrap_or(text);
    text.strip_suffix('/').unwrap_or(text)
}

/// Checks the components of a path, which becomes part of volume IDs, of the export and of a mount's source.
fn components(field: &str, text: &str, bare: &str) -> Result<()> {
    let bad = |reason: &str| Err(Error::invalid(field, format!("`{}`: {reason}", excerpt(text))));
    if bare.len() > PATH_MAX {
        return bad("a path has at most 4095 bytes");
    }
    if bare.contains('#') {
        return bad("`#` separates the parts of a volume ID and cannot be in a path");
    }
    if bare.chars().any(char::is_control) {
        return bad("control characters such as NUL and newline cannot be in a path");
    }
    for component in bare.split('/') {
        match component {
            "" => return bad("an empty component (`//`) in the path"),
            "." | ".." => return bad("`.` and `..` cannot be components of the path"),
            _ if component.len() > Name::MAX => return bad("a component of a path has at most 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

/// The source of a mount: a server, and a share or a directory below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The server.
    pub server: Server,
    /// The share.
    pub share: Share,
    /// A directory below the share; `None` for the share itself.
    pub sub_dir: Option<SubDir>,
}

impl Source {
    /// The share itself.
    pub fn share(server: Server, share: Share) -> Self {
        Self { server, share, sub_dir: None }
    }

    /// The share of this source, without the directory below it.
    pub fn export(&self) -> Self {
        Self::share(self.server.clone(), self.share.clone())
    }
}

impl fmt::Display for Source {
    /// `SERVER:/SHARE/SUBDIR`, with an IPv6 address in brackets, as in nfs(5) and in mountinfo.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server.address() {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.share)?,
            _ => write!(f, "{}:{}", self.server, self.share)?,
        }
        match &self.sub_dir {
            Some(sub_dir) if self.share.as_str().is_empty() => write!(f, "{sub_dir}"),
            Some(sub_dir) => write!(f, "/{sub_dir}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn source(server: &str, share: &str, sub_dir: Option<&str>) -> String {
        Source {
            server: Server::parse("server", server).unwrap(),
            share: Share::parse("share", share).unwrap(),
            sub_dir: sub_dir.map(|s| SubDir::parse("subDir", s).unwrap()),
        }
        .to_string()
    }

    #[rstest]
    #[case("nfs.example", "/export/", Some("a/b"), "nfs.example:/export/a/b")]
    #[case("10.0.0.1", "export", None, "10.0.0.1:/export")]
    #[case("::1", "/", Some("a"), "[::1]:/a")]
    #[case("[fe80::0:1]", "/", None, "[fe80::1]:/")]
    fn a_source_reads_as_the_kernel_shows_it(
        #[case] server: &str,
        #[case] share: &str,
        #[case] sub_dir: Option<&str>,
        #[case] expected: &str,
    ) {
        assert_eq!(source(server, share, sub_dir), expected);
    }

    #[rstest]
    fn an_invalid_server_is_rejected(
        #[values(
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/",
            "a b",
            "--bind",
            "-overs=3",
            "h,opt",
            "h#x",
            "a\0",
            "a\n",
            "[::1",
            "::1]",
            "[10.0.0.1]",
            "é",
            "a..b",
            "h:/x"
        )]
        server: &str,
    ) {
        assert!(Server::parse("server", server).is_err());
    }

    #[rstest]
    fn an_unsafe_path_is_rejected(
        #[values(".", "..", "../x", "a/../b", "a/./b", "//", "a//b", "a\0b", "a\nb", "a#b", "//a", "a//")] path: &str,
    ) {
        assert!(Share::parse("share", path).is_err(), "share {path:?}");
        assert!(SubDir::parse("subDir", path).is_err(), "subDir {path:?}");
    }

    #[test]
    fn the_share_itself_and_the_private_directory_are_no_sub_directories() {
        for path in ["", "/", ".csi-nfs", "/.csi-nfs/", ".csi-nfs/volumes"] {
            assert!(SubDir::parse("subDir", path).is_err(), "{path:?}");
        }
        for path in [".csi-nfs", "/export/.csi-nfs", "/export/.csi-nfs/volumes"] {
            assert!(Share::parse("share", path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn names_and_paths_that_are_too_long_for_linux_are_rejected() {
        assert!(SubDir::parse("subDir", &"n".repeat(255)).is_ok());
        assert!(SubDir::parse("subDir", &"n".repeat(256)).is_err());
        assert!(SubDir::parse("subDir", &"n/".repeat(2500)).is_err());
        assert!(Server::parse("server", &format!("{}a", "a.".repeat(127))).is_err());
    }

    #[test]
    fn percent_signs_in_names_are_not_decoded() {
        let sub_dir = SubDir::parse("subDir", "%2e%2e/données").unwrap();
        assert_eq!(sub_dir.names().map(|n| n.to_string()).collect::<Vec<_>>(), ["%2e%2e", "données"]);
    }
}
