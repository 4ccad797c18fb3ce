//! Is a mount what was asked for? Told from the mount table alone, so that a restarted driver can tell too.
//!
//! Compared is what the kernel shows as it was asked for, and never changes by itself or for the sake of another mount:
//! read-only, the version, how a dead server is borne, security, caching, and the attributes of the mount. Not compared
//! is what the kernel or the server may settle otherwise (`rsize`, `wsize`), what mounts of one server share as the first
//! of them asked for it (`timeo`, `retrans`, `nconnect`), and what is not shown. To call a mount wrong that is right would
//! stop a pod that works; so whatever is doubtful is taken as the same.

use super::options::{MountOptions, Version};
use super::table::Mount;

/// Options that exclude each other; the first is what there is without any of them, and the others are shown.
const CHOICES: &[&[&str]] = &[
    &["rw", "ro"],
    &["hard", "soft", "softerr"],
    &["ac", "noac"],
    &["cto", "nocto"],
    &["resvport", "noresvport"],
    &["exec", "noexec"],
    &["diratime", "nodiratime"],
    &["symfollow", "nosymfollow"],
];

/// Options with a value that is shown unless it is the default; nfs(5) has the defaults.
const CACHE_TIMES: [(&str, &str); 4] = [("acregmin", "3"), ("acregmax", "60"), ("acdirmin", "30"), ("acdirmax", "60")];

/// The first difference between a mount and the options asked for, as text for a message; `None` where it is as asked.
pub fn difference(mount: &Mount, options: &MountOptions) -> Option<String> {
    let words = options.to_vec();
    let asked = Asked(&words);
    let pairs = CHOICES
        .iter()
        .map(|choice| (asked.choice(choice).to_owned(), shown_choice(mount, choice).to_owned()))
        .chain([(
            asked.access_times().to_owned(),
            shown_choice(mount, &["strictatime", "relatime", "noatime"]).to_owned(),
        )])
        .chain(CACHE_TIMES.iter().map(|(name, default)| {
            (format!("{name}={}", asked.cache_time(name, default)), shown_value(mount, name, default))
        }))
        .chain([("lookupcache", "all"), ("xprtsec", "none")].map(|(name, default)| {
            (format!("{name}={}", asked.value(name).unwrap_or(default)), shown_value(mount, name, default))
        }));
    version(mount, options)
        .or_else(|| security(mount, &asked))
        .or_else(|| port(mount, &asked))
        .or_else(|| cache(mount, &asked))
        .or_else(|| pairs.into_iter().find(|(asked, shown)| asked != shown).map(|(asked, shown)| told(&asked, &shown)))
}

fn told(asked: &str, shown: &str) -> String {
    format!("`{asked}` is asked for, it is mounted with `{shown}`")
}

fn version(mount: &Mount, options: &MountOptions) -> Option<String> {
    let shown = mount.option("vers")?;
    let (best, others) = options.versions();
    let asked = || std::iter::once(best).chain(others.iter().copied());
    let differs = !asked().any(|version| version.as_str() == shown);
    let list = || asked().map(Version::as_str).collect::<Vec<_>>().join(" or ");
    differs.then(|| told(&format!("vers={}", list()), &format!("vers={shown}")))
}

/// Flavours are negotiated where none is asked for.
fn security(mount: &Mount, asked: &Asked) -> Option<String> {
    let (flavours, shown) = (asked.value("sec")?, mount.option("sec")?);
    let differs = !flavours.split(':').any(|flavour| flavour == shown);
    differs.then(|| told(&format!("sec={flavours}"), &format!("sec={shown}")))
}

fn port(mount: &Mount, asked: &Asked) -> Option<String> {
    let (asked, shown) = (asked.value("port")?, mount.port().to_string());
    (asked != shown).then(|| told(&format!("port={asked}"), &format!("port={shown}")))
}

/// The driver takes `nosharecache` by itself where it has to, so only its lack counts.
fn cache(mount: &Mount, asked: &Asked) -> Option<String> {
    let differs = asked.choice(&["sharecache", "nosharecache"]) == "nosharecache" && !mount.has("nosharecache");
    differs.then(|| told("nosharecache", "sharecache"))
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
        difference(Table::parse(line.as_bytes()).top(Path::new("/t")).unwrap(), &options)
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
    #[case("vers=4,hard,rsize=4096,timeo=50,sec=sys,nconnect=4,relatime,port=2049")]
    #[case("soft,hard,noatime,atime,noac,ac,acregmin=3,proto=tcp,nolock")]
    fn a_mount_without_options_is_as_asked_for(#[case] asked: &str) {
        assert_eq!(difference_between(PLAIN.0, PLAIN.1, asked), None);
    }

    #[test]
    fn a_mount_with_options_is_as_asked_for() {
        assert_eq!(difference_between(SPECIAL.0, SPECIAL.1, SPECIAL_ASKED), None);
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
        #[values("ro", "noexec", "noatime", "actimeo=1", "soft", "nocto", "xprtsec=tls", "lookupcache=pos")] less: &str,
    ) {
        assert!(difference_of_special_without(less).is_some());
    }

    #[rstest]
    fn what_the_driver_may_have_chosen_by_itself_is_as_asked_for(
        #[values("nosharecache")] less: &str,
    ) {
        assert_eq!(difference_of_special_without(less), None);
    }

    fn difference_of_special_without(less: &str) -> Option<String> {
        let asked: Vec<&str> =
            SPECIAL_ASKED.split(',').filter(|option| !less.split(',').any(|less| less == *option)).collect();
        difference_between(SPECIAL.0, SPECIAL.1, &asked.join(","))
    }
}
