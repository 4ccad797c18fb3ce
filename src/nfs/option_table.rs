//! The allow-list of mount options, with the effect of each.
//!
//! A value is a number in a range, one of a few words, or a security context of a few characters, so that no accepted
//! value can smuggle in another option.

use std::borrow::Cow;
use std::fmt;

use rustix::mount::MountAttrFlags as Attributes;

use Effect::{Behaviour, Connection, Label, Nothing, Refused};

/// One option.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Item {
    /// Its name in nfs(5) or mount(8).
    pub name: &'static str,
    /// Its value, in canonical form.
    pub value: Option<String>,
    /// Its effect.
    pub effect: Effect,
}

/// The effect of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// On the file system: how the client talks to the server.
    Connection,
    /// On the file system: how it behaves for its users.
    Behaviour,
    /// On the mount.
    Attribute {
        /// Attributes that are cleared first.
        clear: Attributes,
        /// Attributes that are then set.
        set: Attributes,
    },
    /// On the file system: the SELinux labels that its users see.
    Label,
    /// The option selects the version, which the driver passes on in its own way.
    Version,
    /// No effect: the option is for mount(8), or the driver does the same without it.
    Nothing,
    /// The driver rejects the option, for this reason.
    Refused(&'static str),
}

/// The value that an option takes after its `=`.
#[derive(Debug)]
pub enum Takes {
    /// No value.
    Nothing,
    /// A number in this range, both ends included.
    Number(u32, u32),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One or more of these words, separated by colons.
    SomeOf(&'static [&'static str]),
    /// A security context of SELinux, with or without double quotes around it.
    SecurityContext,
    /// Anything, for options that are refused or ignored.
    Anything,
}

const SET_BY_DRIVER: Effect = Refused("the driver sets it from the server's name");
const NOT_A_MOUNT: Effect = Refused("it does something other than mounting NFS");
const UNSAFE: Effect =
    Refused("the driver always mounts with `nodev,nosuid`, because a volume's content is not trusted");
const NO_UDP: Effect =
    Refused("NFS over UDP loses data, and Linux disables it since 5.6; use TCP, which is the default");
const SECONDS: Takes = Takes::Number(0, 31_536_000);
const IO_SIZE: Takes = Takes::Number(1024, 1 << 22);
const SERVER_PORT: Takes = Takes::Number(1, 65535);
/// Bytes of the longest value that fsconfig(2) takes.
pub const VALUE_MAX: usize = 255;

const fn attribute(set: Attributes) -> Effect {
    Effect::Attribute { clear: Attributes::empty(), set }
}

const fn no_attribute(clear: Attributes) -> Effect {
    Effect::Attribute { clear, set: Attributes::empty() }
}

/// The three ways to update access times share a field of the attributes.
const fn access_times(set: Attributes) -> Effect {
    Effect::Attribute { clear: Attributes::MOUNT_ATTR__ATIME, set }
}

/// Every option, with its value and its effect. If a name has several lines, the last one provides the error message.
pub const KNOWN: &[(&str, Takes, Effect)] = &[
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
    ("proto", Takes::OneOf(&["udp", "udp6"]), NO_UDP),
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
    // Behaviour for users.
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
    // The labels: mount(8), section FILESYSTEM-INDEPENDENT MOUNT OPTIONS.
    ("context", Takes::SecurityContext, Label),
    ("fscontext", Takes::SecurityContext, Label),
    ("defcontext", Takes::SecurityContext, Label),
    ("rootcontext", Takes::SecurityContext, Label),
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
    // Rejected with a better reason than that the option is unknown.
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

impl Item {
    /// Parses one option; the error is the reason.
    pub fn parse(option: &str) -> std::result::Result<Self, String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let mut reason = "not an option of nfs(5) or mount(8) that the driver knows".to_owned();
        for (known, takes, effect) in KNOWN.iter().filter(|(known, ..)| *known == name) {
            match (takes.check(value), effect) {
                (Ok(_), Refused(why)) => return Err(format!("not allowed: {why}")),
                (Ok(value), effect) => return Ok(Self { name: known, value, effect: *effect }),
                (Err(why), _) => reason = why,
            }
        }
        Err(reason)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={}", self.name, quoted(value)),
            None => f.write_str(self.name),
        }
    }
}

/// The options in a text that separates them by commas. As for mount(8), a comma in double quotes separates nothing:
/// `context="system_u:object_r:container_file_t:s0:c1,c2"`.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    text.split(move |char| {
        in_quotes ^= char == '"';
        char == ',' && !in_quotes
    })
}

/// A value as [`split`] leaves it in one piece: in double quotes if it contains a comma.
pub fn quoted(value: &str) -> Cow<'_, str> {
    if value.contains(',') { format!("\"{value}\"").into() } else { value.into() }
}

/// The context in the value of an option, without quotes: `USER:ROLE:TYPE` and, with MLS, `:LEVEL`.
fn security_context(value: &str) -> Option<&str> {
    let context = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:,".contains(&byte);
    let parts = context.splitn(4, ':').filter(|part| !part.is_empty() && !part.starts_with(',')).count();
    (context.len() <= VALUE_MAX && context.bytes().all(plain) && parts >= 3 && parts == context.splitn(4, ':').count())
        .then_some(context)
}

impl Takes {
    /// The value in canonical form; otherwise, what a valid value would be.
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
            (Self::SecurityContext, value) => {
                let context = value.and_then(security_context).map(str::to_owned);
                let example = "it takes a context of SELinux, such as \"system_u:object_r:container_file_t:s0:c1,c2\"";
                context.map(Some).ok_or_else(|| example.to_owned())
            }
            (Self::Anything, value) => Ok(value.map(str::to_owned)),
        }
    }
}

/// For tests: every form in which an option of the table can be requested, with both ends of a number's range. Empty
/// for an option that is rejected.
#[cfg(any(test, feature = "e2e"))]
pub fn examples((name, takes, effect): &(&str, Takes, Effect)) -> Vec<String> {
    let with = |values: Vec<String>| values.into_iter().map(|value| format!("{name}={value}")).collect();
    match (effect, takes) {
        (Refused(_), _) | (_, Takes::Anything) => Vec::new(),
        (_, Takes::Nothing) => vec![(*name).to_owned()],
        (_, Takes::Number(low, high)) => with(vec![low.to_string(), high.to_string()]),
        (_, Takes::SecurityContext) => ["system_u:object_r:container_file_t", "\"system_u:object_r:nfs_t:s0:c1,c2\""]
            .map(|context| format!("{name}={context}"))
            .to_vec(),
        (_, Takes::OneOf(words) | Takes::SomeOf(words)) => with(words.iter().map(|word| (*word).to_owned()).collect()),
    }
}
