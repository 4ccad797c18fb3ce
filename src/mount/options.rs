//! Mount options: what an operator may ask for, as an allow-list of what nfs(5) and mount(8) define.
//!
//! Every value is a number in a range or one of some words, so nothing that is accepted can smuggle in another option.

use std::fmt;

use rustix::mount::MountAttrFlags as Attributes;

use crate::error::{Error, Result};

/// The port of NFS.
const PORT: u16 = 2049;

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
    /// As `vers=` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3 => "3",
            Self::V4_0 => "4.0",
            Self::V4_1 => "4.1",
            Self::V4_2 => "4.2",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, with TLS where `xprtsec=` says so.
    Tcp,
    /// RDMA.
    Rdma,
}

/// Who uses a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The driver itself, beside other controllers: a call must end, and nothing may be cached that another may change.
    Controller,
    /// Pods: as the operator asks, and hard by default.
    Node,
}

/// Mount options that were checked. `Display` gives them as `a,b,c` in the order in which they were asked for, without
/// what the driver adds; [`MountOptions::parse`] reads that again. What has no effect here (`defaults`, `_netdev`) is
/// accepted and dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MountOptions(Vec<Item>);

/// One option.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Item {
    name: &'static str,
    value: Option<String>,
    effect: Effect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Effect {
    /// To the file system: how the server is reached and spoken to.
    Connection,
    /// To the file system: what its user sees.
    Behaviour,
    /// To the mount.
    Attribute { clear: Attributes, set: Attributes },
    /// Says which version; the driver hands it on in its own way.
    Version,
    /// For mount(8), not for the kernel; or what the driver does anyway.
    Nothing,
    /// Never: why.
    Refused(&'static str),
}

enum Takes {
    Nothing,
    Number(u32, u32),
    OneOf(&'static [&'static str]),
    /// One or more of them, with colons between.
    SomeOf(&'static [&'static str]),
    /// Whatever; for what is refused or dropped.
    Anything,
}

use Effect::{Behaviour, Connection, Nothing, Refused};

const SET_BY_DRIVER: Effect = Refused("the driver sets it, from the server's name");
const NOT_A_MOUNT: Effect = Refused("it does something other than mounting NFS");
const UNSAFE: Effect = Refused("the driver mounts `nodev,nosuid`: a volume's content is not to be trusted");
const NO_UDP: Effect = Refused("NFS over UDP loses data and Linux has it off since 5.6; use TCP, which is the default");
const SECONDS: Takes = Takes::Number(0, 31_536_000);
const IO_SIZE: Takes = Takes::Number(1024, 1 << 22);
const SERVER_PORT: Takes = Takes::Number(1, 65535);

const fn attribute(set: Attributes) -> Effect {
    Effect::Attribute { clear: Attributes::empty(), set }
}

const fn no_attribute(clear: Attributes) -> Effect {
    Effect::Attribute { clear, set: Attributes::empty() }
}

/// The three ways to keep access times share a field of the attributes.
const fn access_times(set: Attributes) -> Effect {
    Effect::Attribute { clear: Attributes::MOUNT_ATTR__ATIME, set }
}

const KNOWN: &[(&str, Takes, Effect)] = &[
    // The version.
    ("vers", Takes::OneOf(&["3", "4", "4.0", "4.1", "4.2"]), Effect::Version),
    ("nfsvers", Takes::OneOf(&["3", "4", "4.0", "4.1", "4.2"]), Effect::Version),
    ("minorversion", Takes::OneOf(&["0", "1", "2"]), Effect::Version),
    ("v3", Takes::Nothing, Effect::Version),
    ("v4", Takes::Nothing, Effect::Version),
    ("v4.0", Takes::Nothing, Effect::Version),
    ("v4.1", Takes::Nothing, Effect::Version),
    ("v4.2", Takes::Nothing, Effect::Version),
    // The connection.
    ("proto", Takes::OneOf(&["tcp", "tcp6", "rdma", "rdma6"]), Connection),
    ("tcp", Takes::Nothing, Connection),
    ("rdma", Takes::Nothing, Connection),
    ("port", SERVER_PORT, Connection),
    ("mountport", SERVER_PORT, Connection),
    ("mountproto", Takes::OneOf(&["tcp", "tcp6"]), Connection),
    ("mountvers", Takes::OneOf(&["3"]), Connection),
    ("namlen", Takes::Number(1, 255), Connection),
    ("sec", Takes::SomeOf(&["none", "sys", "krb5", "krb5i", "krb5p"]), Connection),
    ("xprtsec", Takes::OneOf(&["none", "tls", "mtls"]), Connection),
    ("resvport", Takes::Nothing, Connection),
    ("noresvport", Takes::Nothing, Connection),
    ("nconnect", Takes::Number(1, 16), Connection),
    ("max_connect", Takes::Number(1, 16), Connection),
    ("trunkdiscovery", Takes::Nothing, Connection),
    ("notrunkdiscovery", Takes::Nothing, Connection),
    ("migration", Takes::Nothing, Connection),
    ("nomigration", Takes::Nothing, Connection),
    ("rsize", IO_SIZE, Connection),
    ("wsize", IO_SIZE, Connection),
    ("acl", Takes::Nothing, Connection),
    ("noacl", Takes::Nothing, Connection),
    ("lock", Takes::Nothing, Connection),
    ("nolock", Takes::Nothing, Connection),
    ("local_lock", Takes::OneOf(&["none", "all", "flock", "posix"]), Connection),
    ("fatal_neterrors", Takes::OneOf(&["default", "none", "ENETDOWN:ENETUNREACH", "ENETUNREACH:ENETDOWN"]), Connection),
    // What the user sees.
    ("soft", Takes::Nothing, Behaviour),
    ("softerr", Takes::Nothing, Behaviour),
    ("hard", Takes::Nothing, Behaviour),
    ("softreval", Takes::Nothing, Behaviour),
    ("nosoftreval", Takes::Nothing, Behaviour),
    ("timeo", Takes::Number(1, 36_000), Behaviour),
    ("retrans", Takes::Number(0, 1000), Behaviour),
    ("ac", Takes::Nothing, Behaviour),
    ("noac", Takes::Nothing, Behaviour),
    ("acregmin", SECONDS, Behaviour),
    ("acregmax", SECONDS, Behaviour),
    ("acdirmin", SECONDS, Behaviour),
    ("acdirmax", SECONDS, Behaviour),
    ("actimeo", SECONDS, Behaviour),
    ("cto", Takes::Nothing, Behaviour),
    ("nocto", Takes::Nothing, Behaviour),
    ("lookupcache", Takes::OneOf(&["all", "none", "pos", "positive"]), Behaviour),
    ("rdirplus", Takes::Nothing, Behaviour),
    ("rdirplus", Takes::OneOf(&["none", "force"]), Behaviour),
    ("nordirplus", Takes::Nothing, Behaviour),
    ("sharecache", Takes::Nothing, Behaviour),
    ("nosharecache", Takes::Nothing, Behaviour),
    ("write", Takes::OneOf(&["lazy", "eager", "wait"]), Behaviour),
    ("alignwrite", Takes::Nothing, Behaviour),
    ("noalignwrite", Takes::Nothing, Behaviour),
    ("fsc", Takes::Nothing, Behaviour),
    ("nofsc", Takes::Nothing, Behaviour),
    ("sync", Takes::Nothing, Behaviour),
    ("async", Takes::Nothing, Behaviour),
    ("dirsync", Takes::Nothing, Behaviour),
    ("lazytime", Takes::Nothing, Behaviour),
    ("nolazytime", Takes::Nothing, Behaviour),
    // The mount.
    ("ro", Takes::Nothing, attribute(Attributes::MOUNT_ATTR_RDONLY)),
    ("rw", Takes::Nothing, no_attribute(Attributes::MOUNT_ATTR_RDONLY)),
    ("noexec", Takes::Nothing, attribute(Attributes::MOUNT_ATTR_NOEXEC)),
    ("exec", Takes::Nothing, no_attribute(Attributes::MOUNT_ATTR_NOEXEC)),
    ("atime", Takes::Nothing, access_times(Attributes::MOUNT_ATTR_RELATIME)),
    ("noatime", Takes::Nothing, access_times(Attributes::MOUNT_ATTR_NOATIME)),
    ("relatime", Takes::Nothing, access_times(Attributes::MOUNT_ATTR_RELATIME)),
    ("norelatime", Takes::Nothing, access_times(Attributes::MOUNT_ATTR_RELATIME)),
    ("strictatime", Takes::Nothing, access_times(Attributes::MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", Takes::Nothing, access_times(Attributes::MOUNT_ATTR_RELATIME)),
    ("diratime", Takes::Nothing, no_attribute(Attributes::MOUNT_ATTR_NODIRATIME)),
    ("nodiratime", Takes::Nothing, attribute(Attributes::MOUNT_ATTR_NODIRATIME)),
    ("symfollow", Takes::Nothing, no_attribute(Attributes::MOUNT_ATTR_NOSYMFOLLOW)),
    ("nosymfollow", Takes::Nothing, attribute(Attributes::MOUNT_ATTR_NOSYMFOLLOW)),
    // Without effect.
    ("nodev", Takes::Nothing, Nothing),
    ("nosuid", Takes::Nothing, Nothing),
    ("defaults", Takes::Nothing, Nothing),
    ("auto", Takes::Nothing, Nothing),
    ("noauto", Takes::Nothing, Nothing),
    ("nofail", Takes::Nothing, Nothing),
    ("nouser", Takes::Nothing, Nothing),
    ("_netdev", Takes::Nothing, Nothing),
    ("_rnetdev", Takes::Nothing, Nothing),
    ("silent", Takes::Nothing, Nothing),
    ("loud", Takes::Nothing, Nothing),
    ("bg", Takes::Nothing, Nothing),
    ("fg", Takes::Nothing, Nothing),
    ("retry", Takes::Number(0, u32::MAX), Nothing),
    ("intr", Takes::Nothing, Nothing),
    ("nointr", Takes::Nothing, Nothing),
    // Refused, with a better reason than that they are not known.
    ("addr", Takes::Anything, SET_BY_DRIVER),
    ("mountaddr", Takes::Anything, SET_BY_DRIVER),
    ("mounthost", Takes::Anything, SET_BY_DRIVER),
    ("clientaddr", Takes::Anything, SET_BY_DRIVER),
    ("source", Takes::Anything, SET_BY_DRIVER),
    ("bind", Takes::Anything, NOT_A_MOUNT),
    ("rbind", Takes::Anything, NOT_A_MOUNT),
    ("move", Takes::Anything, NOT_A_MOUNT),
    ("remount", Takes::Anything, NOT_A_MOUNT),
    ("loop", Takes::Anything, NOT_A_MOUNT),
    ("dev", Takes::Anything, UNSAFE),
    ("suid", Takes::Anything, UNSAFE),
    ("udp", Takes::Anything, NO_UDP),
    ("sloppy", Takes::Anything, Refused("it would hide options that do not work")),
];

impl MountOptions {
    /// Parses mount flags as CSI and StorageClasses give them; each may hold several options, with commas between.
    /// `field` is what the caller calls them, for the error, which names the option at fault.
    pub fn parse<S: AsRef<str>>(field: &str, flags: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::collect(field, flags, |_, option| {
            let shown: String = option.chars().take(64).collect();
            format!("mount option `{}`", shown.escape_debug())
        })
    }

    /// Like [`MountOptions::parse`], for options that come from a secret: the error says which one is at fault by its
    /// place, not by its text.
    pub fn parse_secret(field: &str, text: &str) -> Result<Self> {
        Self::collect(field, [text], |place, _| format!("mount option number {place}"))
    }

    fn collect<S: AsRef<str>>(
        field: &str,
        flags: impl IntoIterator<Item = S>,
        shown: impl Fn(usize, &str) -> String,
    ) -> Result<Self> {
        let mut items = Vec::new();
        let mut versions = Versions::default();
        let mut place = 0;
        for flag in flags {
            for option in flag.as_ref().split(',').map(|option| option.trim_matches(' ')) {
                place += 1;
                if option.is_empty() {
                    continue;
                }
                let item = Item::parse(option)
                    .and_then(|item| versions.narrow(&item).map(|()| item))
                    .map_err(|reason| Error::invalid(field, format!("{}: {reason}", shown(place, option))))?;
                if item.effect != Nothing {
                    items.push(item);
                }
            }
        }
        Ok(Self(items))
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The options, one by one.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.iter().map(Item::to_string).collect()
    }

    /// The version, where the options leave only one.
    pub fn version(&self) -> Option<Version> {
        match self.versions() {
            (version, []) => Some(version),
            _ => None,
        }
    }

    /// The versions that the options allow: the best one, and the others in the order in which to try them.
    pub fn versions(&self) -> (Version, &'static [Version]) {
        let mut versions = Versions::default();
        for item in &self.0 {
            // The options fit together: `parse` saw to it.
            let _: std::result::Result<(), String> = versions.narrow(item);
        }
        versions.allowed()
    }

    /// The TCP port at which the server is asked whether it lives: `port=`, otherwise 2049. With RDMA, whose ports are
    /// others, always 2049.
    pub fn port(&self) -> u16 {
        match (self.transport(), self.given_port()) {
            (Transport::Tcp, Some(port)) => port,
            _ => PORT,
        }
    }

    /// What `port=` says.
    pub(super) fn given_port(&self) -> Option<u16> {
        self.last(&["port"])?.value.as_ref()?.parse().ok()
    }

    /// Whether the mount is read-only.
    pub fn read_only(&self) -> bool {
        self.attributes().contains(Attributes::MOUNT_ATTR_RDONLY)
    }

    /// How the server is spoken to.
    pub fn transport(&self) -> Transport {
        match self.last(&["proto", "tcp", "rdma"]) {
            Some(item) if item.value.as_deref().unwrap_or(item.name).starts_with("rdma") => Transport::Rdma,
            _ => Transport::Tcp,
        }
    }

    /// Whether version 3 shall lock on the server: `lock`, or a `local_lock=` that leaves a kind of lock to it.
    pub fn locks(&self) -> bool {
        match self.last(&["lock", "nolock", "local_lock"]) {
            Some(item) => item.name == "lock" || matches!(item.value.as_deref(), Some("none" | "flock" | "posix")),
            None => false,
        }
    }

    /// The mount's attributes: what was asked for, and `nodev` and `nosuid` always.
    pub(super) fn attributes(&self) -> Attributes {
        let always = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
        self.0.iter().fold(always, |attributes, item| match item.effect {
            Effect::Attribute { clear, set } => attributes.difference(clear).union(set),
            _ => attributes,
        })
    }

    /// What goes to the file system, as the kernel takes it, apart from the version and from what the driver adds.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let to_kernel = |item: &&Item| matches!(item.effect, Connection | Behaviour);
        self.0.iter().filter(to_kernel).map(|item| match item.value.as_deref() {
            // As words of their own these leave the address family to the server's address.
            Some("tcp") if item.name == "proto" => ("tcp", None),
            Some("rdma") if item.name == "proto" => ("rdma", None),
            value => (item.name, value),
        })
    }

    /// What a mount for `role` is made with. The controller keeps what says how to reach the server, and has its own
    /// mind about the rest: calls end with an error (`softerr`) some 10 s after the server's last answer, and names and
    /// attributes are not cached, for other controllers work on the same export.
    pub fn for_role(&self, role: Role) -> Self {
        if role == Role::Node {
            return self.clone();
        }
        let mut items = self.0.clone();
        items.retain(|item| matches!(item.effect, Connection | Effect::Version));
        for own in ["softerr", "timeo=50", "retrans=1", "actimeo=0", "lookupcache=none", "noexec"] {
            items.extend(Item::parse(own));
        }
        Self(items)
    }

    /// The last of these options: as in the kernel, a later one has the last word.
    fn last(&self, names: &[&str]) -> Option<&Item> {
        self.0.iter().rev().find(|item| names.contains(&item.name))
    }
}

impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Item {
    /// Parses one option; the error is the reason.
    fn parse(option: &str) -> std::result::Result<Self, String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let mut reason = "not an option of nfs(5) or mount(8) that the driver knows".to_owned();
        for (known, takes, effect) in KNOWN.iter().filter(|(known, ..)| *known == name) {
            if let Refused(why) = effect {
                return Err(format!("not allowed: {why}"));
            }
            if let ("proto", Some("udp" | "udp6"), Refused(why)) = (name, value, NO_UDP) {
                return Err(format!("not allowed: {why}"));
            }
            match takes.check(value) {
                Ok(value) => return Ok(Self { name: known, value, effect: *effect }),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(self.name),
        }
    }
}

impl Takes {
    /// The value in its one form, or what would be right.
    fn check(&self, value: Option<&str>) -> std::result::Result<Option<String>, String> {
        match (self, value) {
            (Self::Nothing, None) => Ok(None),
            (Self::Nothing, Some(_)) => Err("it takes no value".to_owned()),
            (Self::Number(low, high), Some(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                match text.parse::<u32>() {
                    Ok(number) if (*low..=*high).contains(&number) => Ok(Some(number.to_string())),
                    _ => Err(format!("it takes a number from {low} to {high}")),
                }
            }
            (Self::Number(low, high), _) => Err(format!("it takes a number from {low} to {high}")),
            (Self::OneOf(words), Some(value)) if words.contains(&value) => Ok(Some(value.to_owned())),
            (Self::OneOf(words), _) => Err(format!("it takes one of {}", words.join(", "))),
            (Self::SomeOf(words), Some(value)) if value.split(':').all(|word| words.contains(&word)) => {
                Ok(Some(value.to_owned()))
            }
            (Self::SomeOf(words), _) => Err(format!("it takes one or more of {}, with `:` between", words.join(", "))),
            (Self::Anything, value) => Ok(value.map(str::to_owned)),
        }
    }
}

/// The versions that options leave: they only ever narrow.
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
            "vers" | "nfsvers" => split(text),
            flag => split(&flag[1..]),
        };
        let number = |text: &str| text.parse::<u8>().ok();
        let (major, minor) = (major.and_then(number), minor.and_then(number));
        let contradicts = |old: Option<u8>, new: Option<u8>| old.zip(new).is_some_and(|(old, new)| old != new);
        if contradicts(self.major, major) || contradicts(self.minor, minor) {
            return Err("it contradicts the version that an option before it asks for".to_owned());
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

/// `4.1` as major and minor.
fn split(version: &str) -> (Option<&str>, Option<&str>) {
    match version.split_once('.') {
        Some((major, minor)) => (Some(major), Some(minor)),
        None => (Some(version), None),
    }
}
