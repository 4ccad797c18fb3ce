//! Mount options: what an operator may ask for, as an allow-list of what nfs(5) and mount(8) define.

use std::fmt;

use rustix::mount::MountAttrFlags as Attributes;

use super::option_table::{Effect, Item};
use crate::error::{Error, Result};

/// The port of NFS.
const PORT: u16 = 2049;
/// The options that say who keeps locks.
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
/// what the driver adds; [`MountOptions::parse`] reads that again. Those that came from a secret are not displayed. What
/// has no effect here (`defaults`, `_netdev`) is accepted and dropped.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct MountOptions {
    items: Vec<Item>,
    /// They came from a secret: no message, log or record may show them.
    secret: bool,
}

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
        let options = Self::collect(field, [text], |place, _| format!("mount option number {place}"))?;
        Ok(Self { secret: true, ..options })
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
                if item.effect != Effect::Nothing {
                    items.push(item);
                }
            }
        }
        Ok(Self { items, secret: false })
    }

    /// Whether they came from a secret, so that they must not be shown or written anywhere.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The options, one by one.
    pub fn to_vec(&self) -> Vec<String> {
        self.items.iter().map(Item::to_string).collect()
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
        for item in &self.items {
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
        self.number("port")
    }

    /// The port of the server's mountd, for version 3, where `mountport=` says so.
    pub fn mount_port(&self) -> Option<u16> {
        self.number("mountport")
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
        match self.last(LOCKING) {
            Some(item) => item.name == "lock" || matches!(item.value.as_deref(), Some("none" | "flock" | "posix")),
            None => false,
        }
    }

    /// The mount's attributes: what was asked for, and `nodev` and `nosuid` always.
    pub(super) fn attributes(&self) -> Attributes {
        let always = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
        self.items.iter().fold(always, |attributes, item| match item.effect {
            Effect::Attribute { clear, set } => attributes.difference(clear).union(set),
            _ => attributes,
        })
    }

    /// What goes to the file system, as the kernel takes it, apart from the version and from what the driver adds.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let to_kernel = |item: &&Item| matches!(item.effect, Effect::Connection | Effect::Behaviour);
        self.items.iter().filter(to_kernel).map(|item| match item.value.as_deref() {
            // As words of their own these leave the address family to the server's address.
            Some("tcp") if item.name == "proto" => ("tcp", None),
            Some("rdma") if item.name == "proto" => ("rdma", None),
            value => (item.name, value),
        })
    }

    /// What a mount for `role` is made with. The controller keeps what says how to reach the server, and has its own
    /// mind about the rest: calls end with an error (`softerr`) some 10 s to 30 s after the server's last answer, and names and
    /// attributes are not cached, for other controllers work on the same export. Locks are the server's, as far as that takes
    /// nothing beside the driver (version 3 would need rpc.statd).
    pub fn for_role(&self, role: Role) -> Self {
        if role == Role::Node {
            return self.clone();
        }
        let mut items = self.items.clone();
        items.retain(|item| {
            matches!(item.effect, Effect::Connection | Effect::Version) && !LOCKING.contains(&item.name)
        });
        for own in ["softerr", "timeo=50", "retrans=1", "actimeo=0", "lookupcache=none", "noexec"] {
            items.extend(Item::parse(own));
        }
        Self { items, secret: self.secret }
    }

    /// The same, for a mount that shares nothing that is cached with others.
    pub(super) fn unshared(&self) -> Self {
        let mut options = self.clone();
        options.items.extend(Item::parse("nosharecache"));
        options
    }

    fn number(&self, name: &str) -> Option<u16> {
        self.last(&[name])?.value.as_ref()?.parse().ok()
    }

    /// The last of these options: as in the kernel, a later one has the last word.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::option_table::KNOWN;
    use super::Version::{V3, V4_0, V4_1, V4_2};
    use super::*;

    fn options(text: &str) -> MountOptions {
        MountOptions::parse("mountOptions", [text]).unwrap()
    }

    fn reason(text: &str) -> String {
        MountOptions::parse("mountOptions", [text]).unwrap_err().to_string()
    }

    #[rstest]
    #[case("hard,nfsvers=4.1,timeo=600,retrans=2,rsize=1048576,wsize=1048576,noresvport")]
    #[case("ro,noatime,nodiratime,noexec,lookupcache=pos,nconnect=16,max_connect=4,xprtsec=mtls")]
    #[case("softerr,softreval,acregmin=0,acregmax=60,acdirmin=30,acdirmax=60,actimeo=3,nocto,noac")]
    #[case("vers=3,proto=tcp,port=2049,mountport=20048,mountproto=tcp,mountvers=3,nolock,local_lock=all,noacl")]
    #[case("sec=krb5p:krb5i,rdirplus=force,rdirplus,write=eager,fsc,sync,nosharecache,v4.2,minorversion=2")]
    fn what_nfs_defines_is_taken_and_reads_as_it_was_asked(#[case] text: &str) {
        assert_eq!(options(text).to_string(), text);
        assert_eq!(options(text).to_vec().join(","), text);
    }

    #[rstest]
    #[case::for_mount_8("defaults,_netdev,nofail,bg,retry=5,auto", "")]
    #[case::what_is_done_anyway("nodev,nosuid,hard", "hard")]
    #[case::numbers_with_zeroes("timeo=0600", "timeo=600")]
    #[case::blanks_and_nothing(" hard , ,,ro", "hard,ro")]
    fn what_has_no_effect_is_dropped(#[case] text: &str, #[case] kept: &str) {
        assert_eq!(options(text).to_string(), kept);
        assert_eq!(options(text).is_empty(), kept.is_empty());
    }

    #[test]
    fn flags_may_come_one_by_one_or_together() {
        let apart = MountOptions::parse("mount_flags", ["hard", "vers=4.1,ro"]).unwrap();
        assert_eq!(apart, options("hard,vers=4.1,ro"));
    }

    #[rstest]
    fn what_would_do_something_else_is_refused(
        #[values(
            "bind",
            "rbind",
            "move",
            "remount",
            "loop",
            "loop=/dev/loop0",
            "X-mount.mkdir",
            "x-systemd.automount",
            "addr=10.0.0.1",
            "addr",
            "mountaddr=10.0.0.1",
            "mounthost=h",
            "clientaddr=10.0.0.1",
            "source=h:/x",
            "srcaddr=10.0.0.1",
            "dev",
            "suid",
            "udp",
            "proto=udp",
            "sloppy",
            "context=system_u",
            "bogus",
            "HARD",
            "vers=2",
            "vers=4.3",
            "vers",
            "vers=",
            "hard=1",
            "timeo",
            "timeo=",
            "timeo=-1",
            "timeo=+1",
            "timeo=0",
            "timeo=0x10",
            "timeo=99999999999999999999",
            "rsize=1",
            "port=0",
            "port=65536",
            "nconnect=17",
            "sec=",
            "sec=sys:",
            "sec=sys=krb5",
            "lookupcache=some",
            "=",
            "=hard",
            "hard\0",
            "hard\n",
            "\thard",
            "ro\0,rw",
            "timeo=6\x000",
            "timeo=٣",
            "hard=,addr=1"
        )]
        text: &str,
    ) {
        let text = reason(&format!("ro,{text}"));
        assert!(text.starts_with("mountOptions: mount option `"), "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }

    #[rstest]
    #[case("proto=sctp", "it takes one of tcp, tcp6, rdma, rdma6")]
    #[case("proto=udp6", "not allowed: NFS over UDP")]
    #[case("nconnect=0", "it takes a number from 1 to 16")]
    #[case("remount", "not allowed")]
    #[case("bogus", "`bogus`: not an option of nfs(5)")]
    fn the_error_names_the_option_and_what_would_be_right(#[case] text: &str, #[case] expected: &str) {
        assert!(reason(text).contains(expected), "{}", reason(text));
    }

    #[test]
    fn an_option_from_a_secret_is_not_shown() {
        let error = MountOptions::parse_secret("secrets[mountOptions]", "hard,hunter2=x").unwrap_err().to_string();
        assert!(error.contains("option number 2") && !error.contains("hunter2"), "{error}");
        let options = MountOptions::parse_secret("secrets[mountOptions]", "vers=4.1").unwrap();
        for options in [options.for_role(Role::Controller), options] {
            assert!(options.is_secret());
            let shown = format!("{options} {options:?}");
            assert!(!shown.contains("4.1"), "{shown}");
        }
    }

    #[rstest]
    #[case("", None, V4_2, &[V4_1, V4_0, V3])]
    #[case("vers=4", None, V4_2, &[V4_1, V4_0])]
    #[case("v4,minorversion=1", Some(V4_1), V4_1, &[])]
    #[case("minorversion=0", Some(V4_0), V4_0, &[])]
    #[case("nfsvers=4.2,vers=4", Some(V4_2), V4_2, &[])]
    #[case("vers=3,v3", Some(V3), V3, &[])]
    fn the_options_about_the_version_are_taken_together(
        #[case] text: &str,
        #[case] version: Option<Version>,
        #[case] best: Version,
        #[case] others: &[Version],
    ) {
        assert_eq!(options(text).version(), version);
        assert_eq!(options(text).versions(), (best, others));
    }

    #[rstest]
    fn versions_that_contradict_each_other_are_refused(
        #[values("vers=3,vers=4", "vers=4.1,nfsvers=4.2", "vers=3,minorversion=0", "v4.0,minorversion=1")] text: &str,
    ) {
        assert!(reason(text).contains("contradicts"), "{}", reason(text));
    }

    #[rstest]
    #[case("", Transport::Tcp, 2049)]
    #[case("port=20490", Transport::Tcp, 20490)]
    #[case("rdma,port=20049", Transport::Rdma, 2049)]
    #[case("proto=rdma6", Transport::Rdma, 2049)]
    #[case("proto=rdma,tcp,port=1", Transport::Tcp, 1)]
    fn the_server_is_asked_at_its_tcp_port(#[case] text: &str, #[case] transport: Transport, #[case] port: u16) {
        assert_eq!((options(text).transport(), options(text).port()), (transport, port));
    }

    #[rstest]
    #[case("", false)]
    #[case("lock", true)]
    #[case("nolock", false)]
    #[case("lock,nolock", false)]
    #[case("local_lock=all", false)]
    #[case("local_lock=none", true)]
    fn locks_are_on_the_server_where_that_was_asked_for(#[case] text: &str, #[case] locks: bool) {
        assert_eq!(options(text).locks(), locks);
    }

    #[rstest]
    #[case("", Attributes::empty())]
    #[case("ro,rw,ro", Attributes::MOUNT_ATTR_RDONLY)]
    #[case("ro,rw", Attributes::empty())]
    #[case("noexec,nosymfollow", Attributes::MOUNT_ATTR_NOEXEC | Attributes::MOUNT_ATTR_NOSYMFOLLOW)]
    #[case("noatime,strictatime", Attributes::MOUNT_ATTR_STRICTATIME)]
    #[case("noatime,relatime", Attributes::empty())]
    fn a_later_flag_has_the_last_word_and_devices_and_setuid_never_work(
        #[case] text: &str,
        #[case] expected: Attributes,
    ) {
        let always = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
        assert_eq!(options(text).attributes(), expected | always);
        assert_eq!(options(text).read_only(), expected.contains(Attributes::MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn the_file_system_gets_its_own_options_alone() {
        let options = options("vers=4.1,proto=tcp,ro,noatime,hard,timeo=600,_netdev");
        let parameters: Vec<_> = options.parameters().collect();
        assert_eq!(parameters, [("tcp", None), ("hard", None), ("timeo", Some("600"))]);
    }

    #[test]
    fn a_controller_keeps_the_way_to_the_server_and_writes_uncached() {
        let controller =
            options("ro,hard,timeo=600,vers=4.1,sec=krb5,xprtsec=tls,port=1,actimeo=60,sync,lock,local_lock=posix");
        let controller = controller.for_role(Role::Controller);
        assert_eq!(
            controller.to_string(),
            "vers=4.1,sec=krb5,xprtsec=tls,port=1,softerr,timeo=50,retrans=1,actimeo=0,lookupcache=none,noexec"
        );
        assert!(!controller.read_only());
        assert_eq!(options("ro,hard").for_role(Role::Node), options("ro,hard"));
    }

    /// An option that is known, with a value that may be right.
    fn known() -> impl Strategy<Value = String> {
        let names: Vec<_> = KNOWN.iter().map(|(name, ..)| *name).collect();
        let value = prop_oneof![Just(String::new()), "=[0-9]{1,6}", "=[a-z0-9:.=,]{0,8}", "=(tcp|sys|none|all|4.1|3)"];
        (prop::sample::select(names), value).prop_map(|(name, value)| format!("{name}{value}"))
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _: Result<MountOptions> = MountOptions::parse("mountOptions", [text]);
        }

        #[test]
        fn what_is_shown_reads_back_as_the_same(texts in prop::collection::vec(known(), 0..4)) {
            if let Ok(parsed) = MountOptions::parse("mountOptions", &texts) {
                prop_assert_eq!(&options(&parsed.to_string()), &parsed);
                prop_assert_eq!(&MountOptions::parse("mountOptions", parsed.to_vec()).unwrap(), &parsed);
                for (key, value) in parsed.parameters() {
                    let value = value.unwrap_or_default();
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:".contains(&byte);
                    prop_assert!(key.bytes().all(plain) && value.bytes().all(plain), "{}={}", key, value);
                }
            }
        }
    }
}
