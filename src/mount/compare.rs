//! Compares a mount with the requested options. It needs only the mount table, so a restarted driver can compare too.
//!
//! It compares options that the kernel shows as they were requested, and never changes by itself or because of another
//! mount: read-only, the version, `hard` and `soft`, security, caching, and the attributes of the mount. It ignores
//! options that the kernel or the server may change (`rsize`, `wsize`), options that mounts of one server inherit from
//! the first of them (`timeo`, `retrans`, `nconnect`, `noresvport`), and options that the kernel does not show. A
//! difference that is none would stop a pod that works, so a doubtful option counts as equal.

use std::fmt;

use crate::mount::table::Mount;
use crate::nfs::options::{MountOptions, Version};

/// Options that exclude each other. The first of a group is the default; the kernel shows the others.
const CHOICES: &[&[&str]] = &[
    &["rw", "ro"],
    &["ac", "noac"],
    &["cto", "nocto"],
    &["exec", "noexec"],
    &["diratime", "nodiratime"],
    &["symfollow", "nosymfollow"],
];

/// What the client does if the server does not answer: a group as in `CHOICES`.
const DEAD_SERVER: &[&str] = &["hard", "soft", "softerr"];

/// Options with a value that the kernel shows unless it is the default; nfs(5) has the defaults.
const CACHE_TIMES: [(&str, &str); 4] = [("acregmin", "3"), ("acregmax", "60"), ("acdirmin", "30"), ("acdirmax", "60")];

/// The most ticks per second that a kernel can have.
const MOST_TICKS: u32 = 1000;

/// Security of the connection, from the weakest to the strongest.
const TRANSPORT_SECURITY: [&str; 3] = ["none", "tls", "mtls"];

/// The security flavours (`sec=`), from the weakest to the strongest.
const FLAVOURS: [&str; 5] = ["none", "sys", "krb5", "krb5i", "krb5p"];

/// A difference between a mount and the requested options. `Display` is for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    asked: String,
    shown: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was requested, but the mount has `{}`", self.asked, self.shown)
    }
}

impl Difference {
    fn of(asked: impl fmt::Display, shown: impl Into<String>) -> Self {
        Self { asked: format!("`{asked}`"), shown: shown.into() }
    }

    /// Hides the requested option if it is from a secret.
    pub fn without_secret(self, options: &MountOptions) -> Self {
        match options.is_secret() {
            true => Self { asked: "an option from a secret".to_owned(), ..self },
            false => self,
        }
    }
}

/// The first difference between a mount and the requested options; `None` if they agree.
pub fn difference(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    let words = options.to_vec();
    let asked = Asked(&words);
    weaker(mount, options).or_else(|| port(mount, &asked)).or_else(|| cache(mount, &asked)).or_else(|| {
        let choices = CHOICES.iter().map(|choice| differs(asked.choice(choice), shown_choice(mount, choice)));
        let times = CACHE_TIMES.iter().map(|(name, default)| cache_time(mount, &asked, name, default));
        choices.chain([access_times(mount, &asked), lookup_cache(mount, &asked)]).chain(times).find_map(|found| found)
    })
}

/// The first difference in an option that protects data: the version, security, locks, `ro`, and `hard` or `soft`.
/// Stronger encryption than requested and more locks on the server are no difference.
pub fn weaker(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    let words = options.to_vec();
    let asked = Asked(&words);
    version(mount, options)
        .or_else(|| security(mount, &asked))
        .or_else(|| transport_security(mount, &asked))
        .or_else(|| locks(mount, options))
        .or_else(|| writable(mount, options))
        .or_else(|| differs(asked.choice(DEAD_SERVER), shown_choice(mount, DEAD_SERVER)))
}

/// The difference by which a mount that is in use protects less than `options` request: its security or encryption is
/// weaker, or it is writable, unless it `may_be_writable`. Its other options may differ; they are those that its users
/// have had so far.
pub fn less_secure(mount: &Mount, options: &MountOptions, may_be_writable: bool) -> Option<Difference> {
    let words = options.to_vec();
    let asked = Asked(&words);
    weaker_flavour(mount, &asked)
        .or_else(|| transport_security(mount, &asked))
        .or_else(|| writable(mount, options).filter(|_| !may_be_writable))
}

fn writable(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    (options.read_only() && !mount.is_read_only()).then(|| Difference::of("ro", "rw"))
}

fn differs(asked: impl AsRef<str>, shown: impl AsRef<str>) -> Option<Difference> {
    let (asked, shown) = (asked.as_ref(), shown.as_ref());
    (asked != shown).then(|| Difference::of(asked, shown))
}

fn version(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    let shown = mount.option("vers")?;
    let (best, others) = options.versions();
    let asked = || std::iter::once(best).chain(others.iter().copied());
    let differs = !asked().any(|version| version.as_str() == shown);
    let list = || asked().map(Version::as_str).collect::<Vec<_>>().join(" or ");
    differs.then(|| Difference::of(format!("vers={}", list()), format!("vers={shown}")))
}

/// Without `sec=`, client and server negotiate the flavour, so every flavour is right.
fn security(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let (flavours, shown) = (asked.value("sec")?, mount.option("sec")?);
    // The kernel shows `sec=none` as `sec=null`.
    let shown = if shown == "null" { "none" } else { shown };
    let differs = !flavours.split(':').any(|flavour| flavour == shown);
    differs.then(|| Difference::of(format!("sec={flavours}"), format!("sec={shown}")))
}

/// A flavour that is stronger than one of the requested flavours is no difference.
fn weaker_flavour(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let strength = |flavour: &str| FLAVOURS.iter().position(|known| *known == flavour);
    let shown = mount.option("sec").filter(|shown| *shown != "null").unwrap_or("none");
    let weakest = asked.value("sec")?.split(':').filter_map(strength).min();
    security(mount, asked).filter(|_| strength(shown) < weakest)
}

fn transport_security(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let (asked, shown) = (asked.value("xprtsec").unwrap_or("none"), mount.option("xprtsec").unwrap_or("none"));
    let strength = |word: &str| TRANSPORT_SECURITY.iter().position(|known| *known == word);
    (strength(shown) < strength(asked)).then(|| Difference::of(format!("xprtsec={asked}"), format!("xprtsec={shown}")))
}

/// Version 4 always locks on the server. For version 3, the mount differs if it keeps locks on the client that were
/// requested on the server.
fn locks(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    if mount.option("vers") != Some("3") {
        return None;
    }
    let asked = options.local_lock();
    let shown = if mount.has("nolock") { "all" } else { mount.option("local_lock").unwrap_or("none") };
    let missed = ![asked, "none"].contains(&shown) && asked != "all";
    missed.then(|| Difference::of(format!("local_lock={asked}"), format!("local_lock={shown}")))
}

fn cache_time(mount: &Mount, asked: &Asked, name: &str, default: &str) -> Option<Difference> {
    let seconds = asked.cache_time(name, default);
    // The kernel counts in ticks. A number of seconds that overflows is truncated, and the kernel shows the rest.
    let is_kept = seconds.parse().is_ok_and(|seconds: u32| seconds <= u32::MAX / MOST_TICKS);
    differs(format!("{name}={seconds}"), shown_value(mount, name, default)).filter(|_| is_kept)
}

fn access_times(mount: &Mount, asked: &Asked) -> Option<Difference> {
    differs(asked.access_times(), shown_choice(mount, &["strictatime", "relatime", "noatime"]))
}

fn lookup_cache(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let asked = match asked.value("lookupcache").unwrap_or("all") {
        // The kernel shows the short form.
        "positive" => "pos",
        word => word,
    };
    differs(format!("lookupcache={asked}"), shown_value(mount, "lookupcache", "all"))
}

fn port(mount: &Mount, asked: &Asked) -> Option<Difference> {
    differs(format!("port={}", asked.value("port")?), format!("port={}", mount.port()))
}

/// The driver may add `nosharecache` by itself, so only a missing `nosharecache` is a difference.
fn cache(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let differs = asked.choice(&["sharecache", "nosharecache"]) == "nosharecache" && !mount.has("nosharecache");
    differs.then(|| Difference::of("nosharecache", "sharecache"))
}

fn shown_choice<'a>(mount: &Mount, choice: &'a [&'a str]) -> &'a str {
    let (default, others) = choice.split_first().unwrap_or((&"", &[]));
    others.iter().find(|word| mount.has(word)).unwrap_or(default)
}

fn shown_value(mount: &Mount, name: &str, default: &str) -> String {
    format!("{name}={}", mount.option(name).unwrap_or(default))
}

/// Options one by one. A later option overrides an earlier one.
struct Asked<'a>(&'a [String]);

impl Asked<'_> {
    fn choice<'b>(&self, choice: &[&'b str]) -> &'b str {
        let last = self.0.iter().rev().find_map(|word| choice.iter().find(|other| *other == word));
        last.or(choice.first()).copied().unwrap_or_default()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn access_times(&self) -> &'static str {
        let all = ["relatime", "noatime", "strictatime", "atime", "norelatime", "nostrictatime"];
        match self.choice(&all) {
            word @ ("noatime" | "strictatime") => word,
            _ => "relatime",
        }
    }

    fn cache_time(&self, name: &str, default: &str) -> String {
        if self.choice(&["ac", "noac"]) == "noac" {
            return "0".to_owned();
        }
        let given = self.0.iter().rev().filter_map(|word| word.split_once('='));
        given
            .into_iter()
            .find(|(other, _)| *other == name || *other == "actimeo")
            .map_or(default, |(_, value)| value)
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;

    use super::*;
    use crate::mount::table::Table;

    fn difference_between(attributes: &str, superblock: &str, asked: &str) -> Option<String> {
        let line = format!("26 25 0:26 / /t {attributes} shared:1 - nfs4 h:/v {superblock}");
        let options = MountOptions::parse("mount_flags", [asked]).unwrap();
        difference(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options).map(|found| found.to_string())
    }

    const PLAIN: (&str, &str) = (
        "rw,nosuid,nodev,relatime",
        "rw,vers=4.2,rsize=262144,wsize=262144,namlen=255,hard,fatal_neterrors=none,proto=tcp,timeo=600,retrans=2,\
         sec=sys,clientaddr=10.0.0.2,local_lock=none,addr=10.0.0.1",
    );
    const SPECIAL: (&str, &str) = (
        "ro,nosuid,nodev,noexec,noatime",
        "rw,vers=3,acregmin=1,acregmax=1,acdirmin=1,acdirmax=1,soft,nocto,nosharecache,proto=tcp,port=3049,timeo=100,\
         retrans=3,sec=krb5,xprtsec=tls,lookupcache=pos,local_lock=all,addr=10.0.0.1",
    );
    const SPECIAL_ASKED: &str = "ro,noexec,noatime,vers=3,actimeo=1,soft,nocto,nosharecache,port=3049,timeo=100,\
                                 sec=sys:krb5,xprtsec=tls,lookupcache=pos,nolock";

    #[rstest]
    #[case("")]
    #[case("acregmax=31536000")]
    #[case("vers=4,hard,rsize=4096,timeo=50,sec=sys,nconnect=4,noresvport,relatime,port=2049")]
    #[case("soft,hard,noatime,atime,noac,ac,acregmin=3,proto=tcp,nolock,lookupcache=all")]
    fn a_mount_without_options_matches(#[case] asked: &str) {
        assert_eq!(difference_between(PLAIN.0, PLAIN.1, asked), None);
    }

    #[test]
    fn a_mount_with_options_matches() {
        assert_eq!(difference_between(SPECIAL.0, SPECIAL.1, SPECIAL_ASKED), None);
    }

    #[rstest]
    #[case("lookupcache=pos", "lookupcache=positive")]
    #[case("sec=null", "sec=none")]
    fn an_option_that_the_kernel_shows_in_other_words_matches(#[case] shown: &str, #[case] asked: &str) {
        let superblock = format!("rw,vers=4.2,hard,proto=tcp,{shown},addr=10.0.0.1");
        assert_eq!(difference_between("rw,relatime", &superblock, asked), None);
    }

    #[test]
    fn a_mount_without_attribute_cache_matches_noac() {
        let superblock =
            "rw,sync,vers=4.1,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,hard,noac,proto=tcp,addr=10.0.0.1";
        assert_eq!(difference_between("rw,relatime", superblock, "noac,acregmin=5"), None);
    }

    #[rstest]
    #[case("ro", "`ro` was requested, but the mount has `rw`")]
    #[case("vers=3", "`vers=3` was requested, but the mount has `vers=4.2`")]
    #[case("soft", "`soft` was requested, but the mount has `hard`")]
    #[case("sec=krb5:krb5i", "`sec=krb5:krb5i` was requested, but the mount has `sec=sys`")]
    #[case("xprtsec=tls", "`xprtsec=tls` was requested, but the mount has `xprtsec=none`")]
    #[case("port=20490", "`port=20490` was requested, but the mount has `port=2049`")]
    #[case("acdirmax=5", "`acdirmax=5` was requested, but the mount has `acdirmax=60`")]
    #[case("noac", "`noac` was requested, but the mount has `ac`")]
    #[case("noatime", "`noatime` was requested, but the mount has `relatime`")]
    #[case("strictatime", "`strictatime` was requested, but the mount has `relatime`")]
    #[case("noexec", "`noexec` was requested, but the mount has `exec`")]
    #[case("nosharecache", "`nosharecache` was requested, but the mount has `sharecache`")]
    #[case("lookupcache=none", "`lookupcache=none` was requested, but the mount has `lookupcache=all`")]
    fn a_mount_that_lacks_an_option_differs(#[case] asked: &str, #[case] expected: &str) {
        assert_eq!(difference_between(PLAIN.0, PLAIN.1, asked).as_deref(), Some(expected));
    }

    #[rstest]
    fn a_mount_with_an_additional_option_differs(
        #[values("ro", "noexec", "noatime", "actimeo=1", "soft", "nocto", "lookupcache=pos")] less: &str,
    ) {
        assert!(difference_of_special_without(less).is_some());
    }

    #[test]
    fn a_stronger_option_matches() {
        assert_eq!(difference_of_special_without("xprtsec=tls"), None);
        let mtls = format!("{},xprtsec=mtls", PLAIN.1);
        assert_eq!(difference_between(PLAIN.0, &mtls, "xprtsec=tls"), None);
    }

    #[rstest]
    #[case("vers=4.2,hard,sec=sys", "xprtsec=tls", Some("xprtsec=none"))]
    #[case("vers=4.2,hard,sec=sys,xprtsec=tls", "xprtsec=mtls", Some("xprtsec=tls"))]
    #[case("vers=4.2,hard,sec=sys", "sec=krb5p", Some("sec=sys"))]
    #[case("vers=4.1,hard,sec=sys", "vers=4.2", Some("vers=4.1"))]
    #[case("vers=4.2,soft,sec=sys", "", Some("soft"))]
    #[case("vers=4.2,hard,sec=sys", "softerr", Some("hard"))]
    #[case("vers=4.2,hard,sec=sys", "ro", Some("rw"))]
    #[case("vers=3,hard,nolock,local_lock=all", "lock", Some("local_lock=all"))]
    #[case("vers=3,hard,nolock,local_lock=none", "local_lock=none", Some("local_lock=all"))]
    #[case("vers=3,hard,local_lock=posix", "local_lock=flock", Some("local_lock=posix"))]
    #[case("vers=3,hard,local_lock=posix", "local_lock=posix", None)]
    #[case("vers=3,hard,local_lock=none", "local_lock=flock", None)]
    #[case("vers=3,hard,nolock,local_lock=all", "nolock", None)]
    #[case("vers=3,hard,nolock,local_lock=all", "", None)]
    #[case("vers=4.2,hard,local_lock=none,lookupcache=none,noac", "nolock", None)]
    fn options_that_protect_data_are_compared(
        #[case] superblock: &str,
        #[case] asked: &str,
        #[case] weaker_by: Option<&str>,
    ) {
        let line = format!("26 25 0:26 / /t rw,relatime - nfs4 h:/v rw,{superblock},addr=10.0.0.1");
        let options = MountOptions::parse("mount_flags", [asked]).unwrap();
        let found = weaker(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options);
        assert_eq!(found.map(|found| found.shown).as_deref(), weaker_by);
    }

    #[rstest]
    #[case("rw,sec=sys", "ro", Some("rw"))]
    #[case("rw,sec=sys", "sec=krb5", Some("sec=sys"))]
    #[case("rw,sec=null", "sec=sys", Some("sec=none"))]
    #[case("rw,sec=sys", "xprtsec=tls", Some("xprtsec=none"))]
    #[case("rw,sec=krb5p", "sec=krb5:krb5i", None)]
    #[case("rw,sec=sys,xprtsec=mtls", "xprtsec=tls", None)]
    #[case("ro,sec=sys", "", None)]
    #[case("rw,soft,vers=3,nolock,sec=sys", "hard,vers=4.2", None)]
    fn a_mount_in_use_may_have_other_options_but_not_be_less_secure(
        #[case] superblock: &str,
        #[case] asked: &str,
        #[case] less_by: Option<&str>,
    ) {
        let line = format!("26 25 0:26 / /t rw,relatime - nfs4 h:/v {superblock},addr=10.0.0.1");
        let options = MountOptions::parse("mount_flags", [asked]).unwrap();
        let found = less_secure(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options, false);
        assert_eq!(found.map(|found| found.shown).as_deref(), less_by);
    }

    #[test]
    fn an_option_from_a_secret_is_hidden() {
        let options = MountOptions::parse_secret("secrets[mountOptions]", "xprtsec=mtls").unwrap();
        let line = format!("26 25 0:26 / /t rw - nfs4 h:/v {}", PLAIN.1);
        let found = weaker(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options).unwrap();
        assert!(found.to_string().contains("mtls") && !found.without_secret(&options).to_string().contains("mtls"));
    }

    #[rstest]
    fn an_option_that_the_driver_may_add_matches(#[values("vers=3,xprtsec=tls", "nosharecache")] less: &str) {
        assert_eq!(difference_of_special_without(less), None);
    }

    fn difference_of_special_without(less: &str) -> Option<String> {
        let asked: Vec<&str> =
            SPECIAL_ASKED.split(',').filter(|option| !less.split(',').any(|less| less == *option)).collect();
        difference_between(SPECIAL.0, SPECIAL.1, &asked.join(","))
    }
}
