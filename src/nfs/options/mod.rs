//! Mount options that an operator may request: an allow-list of what nfs(5) and mount(8) define.

use std::fmt;

use rustix::mount::MountAttrFlags as Attributes;

use crate::error::{Error, Result};
use crate::nfs::option_table::{Effect, Item, split};
use crate::nfs::text::excerpt;

/// The port of the NFS service.
const PORT: u16 = 2049;
/// The options that decide where locks are kept.
const LOCKING: &[&str] = &["lock", "nolock", "local_lock"];

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// NFSv3, RFC 1813.
    V3,
    /// NFSv4.0, RFC 7530.
    V4_0,
    /// NFSv4.1, RFC 8881.
    V4_1,
    /// NFSv4.2, RFC 7862.
    V4_2,
}

impl Version {
    /// The value of `vers=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3 => "3",
            Self::V4_0 => "4.0",
            Self::V4_1 => "4.1",
            Self::V4_2 => "4.2",
        }
    }

    /// Parses the value that the kernel shows for `vers=`.
    pub fn shown(text: &str) -> Option<Self> {
        [Self::V3, Self::V4_0, Self::V4_1, Self::V4_2].into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The transport of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, with TLS if `xprtsec=` requests it.
    Tcp,
    /// RDMA.
    Rdma,
}

/// Who uses a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The driver itself, next to other controllers. Its calls must end, and it must not cache what other controllers
    /// change.
    Controller,
    /// Pods: the options of the operator, and `hard` by default.
    Node,
}

/// Valid mount options. `Display` prints them as `a,b,c` in the order of the request, without what the driver adds, and
/// [`MountOptions::parse`] reads that form. Options from a secret are not displayed. Options without effect here
/// (`defaults`, `_netdev`) are accepted and dropped.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct MountOptions {
    items: Vec<Item>,
    /// The options are from a secret: no message, log or record may contain them.
    secret: bool,
}

impl MountOptions {
    /// Parses mount flags of CSI or of a StorageClass. Each flag may contain several options separated by commas.
    /// `field` is the caller's name for them; the error also names the option.
    pub fn parse<S: AsRef<str>>(field: &str, flags: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::collect(field, flags, |_, option| format!("mount option `{}`", excerpt(option)))
    }

    /// Like [`MountOptions::parse`], for options from a secret: the error names a bad option by its position and not by
    /// its text.
    pub fn parse_secret(field: &str, text: &str) -> Result<Self> {
        let options = Self::collect(field, [text], |place, _| format!("mount option number {place}"))?;
        Ok(Self { secret: true, ..options })
    }

    fn collect<S: AsRef<str>>(
        field: &str,
        flags: impl IntoIterator<Item = S>,
        shown: impl Fn(usize, &str) -> String,
    ) -> Result<Self> {
        let mut items: Vec<Item> = Vec::new();
        let mut versions = Versions::default();
        let mut place = 0;
        for flag in flags {
            for option in split(flag.as_ref()).map(|option| option.trim_matches(' ')) {
                place += 1;
                if option.is_empty() {
                    continue;
                }
                let item = Item::parse(option)
                    .and_then(|item| versions.narrow(&item).map(|()| item))
                    .map_err(|reason| Error::invalid(field, format!("{}: {reason}", shown(place, option))))?;
                if item.effect == Effect::Label {
                    // The kernel takes each label once. kubelet adds its `context=` after that of the class.
                    items.retain(|earlier| earlier.name != item.name);
                }
                if item.effect != Effect::Nothing {
                    items.push(item);
                }
            }
        }
        Ok(Self { items, secret: false })
    }

    /// Whether the options are from a secret and must not be logged, shown or recorded.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// Whether no option was requested.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The options to record on the export, so that later callers need not know them. Options from a secret are not
    /// recorded.
    pub fn recorded(&self) -> Vec<String> {
        if self.is_secret() { Vec::new() } else { self.to_vec() }
    }

    /// The options, one by one.
    pub fn to_vec(&self) -> Vec<String> {
        self.items.iter().map(Item::to_string).collect()
    }

    /// The version, if the options allow only one.
    pub fn version(&self) -> Option<Version> {
        match self.versions() {
            (version, []) => Some(version),
            _ => None,
        }
    }

    /// The versions that the options allow: the best one, and the others in the order in which to try them. With
    /// encryption, version 3 is tried only if it is requested explicitly, since it talks to mountd without encryption.
    pub fn versions(&self) -> (Version, &'static [Version]) {
        let mut versions = Versions::default();
        for item in &self.items {
            // `parse` checked that the options do not contradict each other.
            let _: std::result::Result<(), String> = versions.narrow(item);
        }
        match versions.allowed() {
            (best, [others @ .., Version::V3]) if self.encrypts() => (best, others),
            allowed => allowed,
        }
    }

    /// The TCP port at which to check that the server answers: `port=`, or 2049. With RDMA, which has other ports, it
    /// is always 2049.
    pub fn port(&self) -> u16 {
        match (self.transport(), self.given_port()) {
            (Transport::Tcp, Some(port)) => port,
            _ => PORT,
        }
    }

    /// The value of `port=`.
    pub(super) fn given_port(&self) -> Option<u16> {
        self.number("port")
    }

    /// The port of the server's mountd for version 3, if `mountport=` gives it.
    pub fn mount_port(&self) -> Option<u16> {
        self.number("mountport")
    }

    /// Whether the mount is read-only.
    pub fn read_only(&self) -> bool {
        self.attributes().contains(Attributes::MOUNT_ATTR_RDONLY)
    }

    /// The transport.
    pub fn transport(&self) -> Transport {
        match self.last(&["proto", "tcp", "rdma"]) {
            Some(item) if item.value.as_deref().unwrap_or(item.name).starts_with("rdma") => Transport::Rdma,
            _ => Transport::Tcp,
        }
    }

    /// The kinds of locks that version 3 keeps on the client, as a value of `local_lock=`.
    pub fn local_lock(&self) -> &str {
        match self.last(LOCKING).map(|item| (item.name, item.value.as_deref())) {
            Some(("lock", _)) => "none",
            Some(("local_lock", Some(kinds))) => kinds,
            _ => "all",
        }
    }

    /// Whether version 3 must take locks on the server: after `lock`, or a `local_lock=` that leaves a kind of lock to
    /// the server.
    pub fn locks(&self) -> bool {
        self.local_lock() != "all"
    }

    /// Whether `xprtsec=` requests encryption.
    pub fn encrypts(&self) -> bool {
        self.last(&["xprtsec"]).is_some_and(|item| item.value.as_deref() != Some("none"))
    }

    /// Whether `xprtsec=` requests a certificate of the client, too.
    pub fn shows_certificate(&self) -> bool {
        self.last(&["xprtsec"]).is_some_and(|item| item.value.as_deref() == Some("mtls"))
    }

    /// Whether `sec=` allows Kerberos only.
    pub fn requires_kerberos(&self) -> bool {
        let flavours = self.last(&["sec"]).and_then(|item| item.value.as_deref());
        flavours.is_some_and(|flavours| flavours.split(':').all(|flavour| flavour.starts_with("krb5")))
    }

    /// Whether an SELinux label was requested: `context=`, `fscontext=`, `defcontext=` or `rootcontext=`.
    pub fn labels(&self) -> bool {
        self.items.iter().any(|item| item.effect == Effect::Label)
    }

    /// Whether an option was requested that the kernel may ignore without an error, and that must be in force.
    pub fn must_be_in_force(&self) -> bool {
        self.encrypts() || self.locks() || self.last(&["sec"]).is_some()
    }

    /// The attributes of the mount: those that were requested, and always `nodev` and `nosuid`.
    pub(crate) fn attributes(&self) -> Attributes {
        let always = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
        self.items.iter().fold(always, |attributes, item| match item.effect {
            Effect::Attribute { clear, set } => attributes.difference(clear).union(set),
            _ => attributes,
        })
    }

    /// The options for the file system in the kernel's form, except the version and what the driver adds.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let to_kernel = |item: &&Item| matches!(item.effect, Effect::Connection | Effect::Behaviour | Effect::Label);
        self.items.iter().filter(to_kernel).map(|item| match item.value.as_deref() {
            // In this form, they leave the address family to the address of the server.
            Some("tcp") if item.name == "proto" => ("tcp", None),
            Some("rdma") if item.name == "proto" => ("rdma", None),
            value => (item.name, value),
        })
    }

    /// The options of a mount for `role`. The controller keeps the options that say how to reach the server, and
    /// replaces the rest. Its calls end with an error (`softerr`) 10 s to 30 s after the server's last answer. It does
    /// not cache names and attributes, since other controllers work on the same export. It takes locks on the server,
    /// unless another service would be needed for that (version 3 needs rpc.statd).
    pub fn for_role(&self, role: Role) -> Self {
        if role == Role::Node {
            return self.clone();
        }
        let mut items = self.items.clone();
        items.retain(|item| {
            matches!(item.effect, Effect::Connection | Effect::Version) && !LOCKING.contains(&item.name)
        });
        for own in ["softerr", "timeo=50", "retrans=1", "actimeo=1", "lookupcache=none", "noexec"] {
            items.extend(Item::parse(own));
        }
        Self { items, secret: self.secret }
    }

    /// The same options, for a mount that does not share a cache with others.
    pub(crate) fn unshared(&self) -> Self {
        let mut options = self.clone();
        options.items.extend(Item::parse("nosharecache"));
        options
    }

    /// Whether the mount may share its cache with other mounts of the same file system of the server.
    pub(crate) fn shares_cache(&self) -> bool {
        self.last(&["sharecache", "nosharecache"]).is_none_or(|item| item.name == "sharecache")
    }

    fn number(&self, name: &str) -> Option<u16> {
        self.last(&[name])?.value.as_ref()?.parse().ok()
    }

    /// The last of these options, since in the kernel a later option overrides an earlier one.
    fn last(&self, names: &[&str]) -> Option<&Item> {
        self.items.iter().rev().find(|item| names.contains(&item.name))
    }
}

impl fmt::Debug for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MountOptions({self})")
    }
}

impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.secret {
            return f.write_str("options from a secret");
        }
        for (index, item) in self.items.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The versions that are still allowed. Every option can only remove some.
#[derive(Default)]
struct Versions {
    major: Option<u8>,
    minor: Option<u8>,
}

impl Versions {
    fn narrow(&mut self, item: &Item) -> std::result::Result<(), String> {
        if item.effect != Effect::Version {
            return Ok(());
        }
        let text = item.value.as_deref().unwrap_or_default();
        let (major, minor) = match item.name {
            "minorversion" => (Some("4"), Some(text)),
            "vers" | "nfsvers" => split_version(text),
            flag => split_version(&flag[1..]),
        };
        let number = |text: &str| text.parse::<u8>().ok();
        let (major, minor) = (major.and_then(number), minor.and_then(number));
        let contradicts = |old: Option<u8>, new: Option<u8>| old.zip(new).is_some_and(|(old, new)| old != new);
        if contradicts(self.major, major) || contradicts(self.minor, minor) {
            return Err("it contradicts the version of an earlier option".to_owned());
        }
        self.major = self.major.or(major);
        self.minor = self.minor.or(minor);
        Ok(())
    }

    fn allowed(&self) -> (Version, &'static [Version]) {
        use Version::{V3, V4_0, V4_1, V4_2};
        match (self.major, self.minor) {
            (Some(3), _) => (V3, &[]),
            (_, Some(0)) => (V4_0, &[]),
            (_, Some(1)) => (V4_1, &[]),
            (_, Some(2)) => (V4_2, &[]),
            (Some(_), _) => (V4_2, &[V4_1, V4_0]),
            (None, _) => (V4_2, &[V4_1, V4_0, V3]),
        }
    }
}

/// Splits `4.1` into major and minor version.
fn split_version(version: &str) -> (Option<&str>, Option<&str>) {
    match version.split_once('.') {
        Some((major, minor)) => (Some(major), Some(minor)),
        None => (Some(version), None),
    }
}

#[cfg(test)]
mod tests;
