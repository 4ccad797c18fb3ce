//! Is a mount what was asked for? Told from the mount table alone, so that a restarted driver can tell too.
//!
//! Compared is what the kernel shows as it was asked for, and never changes by itself or for the sake of another mount:
//! read-only, the version, how a dead server is borne, security, caching, and the attributes of the mount. Not compared
//! is what the kernel or the server may settle otherwise (`rsize`, `wsize`), what mounts of one server share as the
//! first of them asked for it (`timeo`, `retrans`, `nconnect`, `noresvport`), and what is not shown. To call a mount
//! wrong that is right would stop a pod that works; so whatever is doubtful is taken as the same.

use std::fmt;

use crate::mount::table::Mount;
use crate::nfs::options::{MountOptions, Version};

/// Options that exclude each other; the first is what there is without any of them, and the others are shown.
const CHOICES: &[&[&str]] = &[
    &["rw", "ro"],
    &["ac", "noac"],
    &["cto", "nocto"],
    &["exec", "noexec"],
    &["diratime", "nodiratime"],
    &["symfollow", "nosymfollow"],
];

/// How a server that does not answer is borne; as in `CHOICES`.
const DEAD_SERVER: &[&str] = &["hard", "soft", "softerr"];

/// Options with a value that is shown unless it is the default; nfs(5) has the defaults.
const CACHE_TIMES: [(&str, &str); 4] = [("acregmin", "3"), ("acregmax", "60"), ("acdirmin", "30"), ("acdirmax", "60")];

/// Ticks of a second, of the kernel that has the most.
const MOST_TICKS: u32 = 1000;

/// Security of the connection, from the weakest to the strongest.
const TRANSPORT_SECURITY: [&str; 3] = ["none", "tls", "mtls"];

/// In what a mount is not as it was asked for. `Display` gives it for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    asked: String,
    shown: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is asked for, it is mounted with `{}`", self.asked, self.shown)
    }
}

impl Difference {
    fn of(asked: impl fmt::Display, shown: impl Into<String>) -> Self {
        Self { asked: format!("`{asked}`"), shown: shown.into() }
    }

    /// The same without what was asked for, where that came from a secret.
    pub fn without_secret(self, options: &MountOptions) -> Self {
        match options.is_secret() {
            true => Self { asked: "another option, from a secret,".to_owned(), ..self },
            false => self,
        }
    }
}

/// The first difference between a mount and the options asked for; `None` where it is as asked.
pub fn difference(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    let words = options.to_vec();
    let asked = Asked(&words);
    weaker(mount, options).or_else(|| port(mount, &asked)).or_else(|| cache(mount, &asked)).or_else(|| {
        let choices = CHOICES.iter().map(|choice| differs(asked.choice(choice), shown_choice(mount, choice)));
        let times = CACHE_TIMES.iter().map(|(name, default)| cache_time(mount, &asked, name, default));
        choices.chain([access_times(mount, &asked), lookup_cache(mount, &asked)]).chain(times).find_map(|found| found)
    })
}

/// The first thing that protects data and is weaker than the options ask: the version, security, locks, `ro`, and how a
/// dead server is borne. What is stronger is as good as asked for.
pub fn weaker(mount: &Mount, options: &MountOptions) -> Option<Difference> {
    let words = options.to_vec();
    let asked = Asked(&words);
    version(mount, options)
        .or_else(|| security(mount, &asked))
        .or_else(|| transport_security(mount, &asked))
        .or_else(|| locks(mount, options))
        .or_else(|| (options.read_only() && !mount.is_read_only()).then(|| Difference::of("ro", "rw")))
        .or_else(|| differs(asked.choice(DEAD_SERVER), shown_choice(mount, DEAD_SERVER)))
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

/// Flavours are negotiated where none is asked for.
fn security(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let (flavours, shown) = (asked.value("sec")?, mount.option("sec")?);
    // The kernel has another word for it.
    let shown = if shown == "null" { "none" } else { shown };
    let differs = !flavours.split(':').any(|flavour| flavour == shown);
    differs.then(|| Difference::of(format!("sec={flavours}"), format!("sec={shown}")))
}

fn transport_security(mount: &Mount, asked: &Asked) -> Option<Difference> {
    let (asked, shown) = (asked.value("xprtsec").unwrap_or("none"), mount.option("xprtsec").unwrap_or("none"));
    let strength = |word: &str| TRANSPORT_SECURITY.iter().position(|known| *known == word);
    (strength(shown) < strength(asked)).then(|| Difference::of(format!("xprtsec={asked}"), format!("xprtsec={shown}")))
}

/// Version 4 locks on the server always. Of version 3, only what was to be locked there and is not is missed.
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
    // The kernel counts in ticks and shows what is left of a number that is too large for that.
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

/// The driver takes `nosharecache` by itself where it has to, so only its lack counts.
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

/// Options one by one; a later one has the last word.
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
        "rw,vers=4.2,rsize=262144,wsize=262144,namlen=255,hard,fatal_neterrors=none,proto=tcp,timeo=600,retrans=2,sec=sys,\
         clientaddr=10.0.0.2,local_lock=none,addr=10.0.0.1",
    );
    const SPECIAL: (&str, &str) = (
        "ro,nosuid,nodev,noexec,noatime",
        "rw,vers=3,acregmin=1,acregmax=1,acdirmin=1,acdirmax=1,soft,nocto,nosharecache,proto=tcp,port=3049,timeo=100,\
         retrans=3,sec=krb5,xprtsec=tls,lookupcache=pos,local_lock=all,addr=10.0.0.1",
    );
    const SPECIAL_ASKED: &str = "ro,noexec,noatime,vers=3,actimeo=1,soft,nocto,nosharecache,port=3049,timeo=100,sec=sys:krb5,\
                                 xprtsec=tls,lookupcache=pos,nolock";

    #[rstest]
    #[case("")]
    #[case("acregmax=31536000")]
    #[case("vers=4,hard,rsize=4096,timeo=50,sec=sys,nconnect=4,noresvport,relatime,port=2049")]
    #[case("soft,hard,noatime,atime,noac,ac,acregmin=3,proto=tcp,nolock,lookupcache=all")]
    fn a_mount_without_options_is_as_asked_for(#[case] asked: &str) {
        assert_eq!(difference_between(PLAIN.0, PLAIN.1, asked), None);
    }

    #[test]
    fn a_mount_with_options_is_as_asked_for() {
        assert_eq!(difference_between(SPECIAL.0, SPECIAL.1, SPECIAL_ASKED), None);
    }

    #[rstest]
    #[case("lookupcache=pos", "lookupcache=positive")]
    #[case("sec=null", "sec=none")]
    fn an_option_that_the_kernel_shows_in_other_words_is_as_asked_for(#[case] shown: &str, #[case] asked: &str) {
        let superblock = format!("rw,vers=4.2,hard,proto=tcp,{shown},addr=10.0.0.1");
        assert_eq!(difference_between("rw,relatime", &superblock, asked), None);
    }

    #[test]
    fn a_mount_without_attribute_cache_is_as_asked_for() {
        let superblock =
            "rw,sync,vers=4.1,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,hard,noac,proto=tcp,addr=10.0.0.1";
        assert_eq!(difference_between("rw,relatime", superblock, "noac,acregmin=5"), None);
    }

    #[rstest]
    #[case("ro", "`ro` is asked for, it is mounted with `rw`")]
    #[case("vers=3", "`vers=3` is asked for, it is mounted with `vers=4.2`")]
    #[case("soft", "`soft` is asked for, it is mounted with `hard`")]
    #[case("sec=krb5:krb5i", "`sec=krb5:krb5i` is asked for, it is mounted with `sec=sys`")]
    #[case("xprtsec=tls", "`xprtsec=tls` is asked for, it is mounted with `xprtsec=none`")]
    #[case("port=20490", "`port=20490` is asked for, it is mounted with `port=2049`")]
    #[case("acdirmax=5", "`acdirmax=5` is asked for, it is mounted with `acdirmax=60`")]
    #[case("noac", "`noac` is asked for, it is mounted with `ac`")]
    #[case("noatime", "`noatime` is asked for, it is mounted with `relatime`")]
    #[case("strictatime", "`strictatime` is asked for, it is mounted with `relatime`")]
    #[case("noexec", "`noexec` is asked for, it is mounted with `exec`")]
    #[case("nosharecache", "`nosharecache` is asked for, it is mounted with `sharecache`")]
    #[case("lookupcache=none", "`lookupcache=none` is asked for, it is mounted with `lookupcache=all`")]
    fn a_mount_that_lacks_an_option_differs(#[case] asked: &str, #[case] expected: &str) {
        assert_eq!(difference_between(PLAIN.0, PLAIN.1, asked).as_deref(), Some(expected));
    }

    #[rstest]
    fn a_mount_that_has_an_option_too_many_differs(
        #[values("ro", "noexec", "noatime", "actimeo=1", "soft", "nocto", "lookupcache=pos")] less: &str,
    ) {
        assert!(difference_of_special_without(less).is_some());
    }

    #[test]
    fn what_is_stronger_than_asked_for_is_as_asked_for() {
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
    fn what_protects_data_is_compared_before_a_mount_is_used(
        #[case] superblock: &str,
        #[case] asked: &str,
        #[case] weaker_by: Option<&str>,
    ) {
        let line = format!("26 25 0:26 / /t rw,relatime - nfs4 h:/v rw,{superblock},addr=10.0.0.1");
        let options = MountOptions::parse("mount_flags", [asked]).unwrap();
        let found = weaker(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options);
        assert_eq!(found.map(|found| found.shown).as_deref(), weaker_by);
    }

    #[test]
    fn what_a_secret_asks_for_is_not_told() {
        let options = MountOptions::parse_secret("secrets[mountOptions]", "xprtsec=mtls").unwrap();
        let line = format!("26 25 0:26 / /t rw - nfs4 h:/v {}", PLAIN.1);
        let found = weaker(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options).unwrap();
        assert!(found.to_string().contains("mtls") && !found.without_secret(&options).to_string().contains("mtls"));
    }

    #[rstest]
    fn what_the_driver_may_have_chosen_by_itself_is_as_asked_for(
        #[values("vers=3,xprtsec=tls", "nosharecache")] less: &str,
    ) {
        assert_eq!(difference_of_special_without(less), None);
    }

    fn difference_of_special_without(less: &str) -> Option<String> {
        let asked: Vec<&str> =
            SPECIAL_ASKED.split(',').filter(|option| !less.split(',').any(|less| less == *option)).collect();
        difference_between(SPECIAL.0, SPECIAL.1, &asked.join(","))
    }
}
