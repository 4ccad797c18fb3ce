//! Finds the best version of NFS that a server has by trying, and remembers it for a while.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use crate::mount::table::Mount;
use crate::nfs::options::{MountOptions, Version};

/// How long the driver does not retry a version that a server lacked. The server may have lacked it only for a moment.
const REMEMBERED: Duration = Duration::from_secs(300);

/// A server's address and port. A name may have several addresses, and may move to others.
pub type At = (IpAddr, u16);

/// Whether a mount uses a lower version than the best that its options allow. Returns `None` if the options are unknown
/// and the mount does not have the best version.
pub fn is_fallback(mount: &Mount, options: Option<&MountOptions>) -> Option<bool> {
    let shown = Version::shown(mount.option("vers")?)?;
    match options {
        Some(options) => Some(shown < options.versions().0),
        None => (shown == MountOptions::default().versions().0).then_some(false),
    }
}

/// What a failed attempt says about the versions that were not tried yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The server or this kernel lacks this version. The next version may work.
    NotThisVersion,
    /// Version 4 may not have the path, since a server's tree for version 4 need not contain every export for version
    /// 3. Version 3 may work.
    NotInVersion4,
    /// The failure is not about versions.
    Final,
}

/// As in mount.nfs(8), except for EPERM. A missing permission or failed security says nothing about versions: it must
/// not cost a volume its locks or its encryption.
fn verdict(version: Version, errno: Option<Errno>) -> Verdict {
    match errno {
        Some(Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP) => Verdict::NotThisVersion,
        Some(Errno::NOENT) if version != Version::V3 => Verdict::NotInVersion4,
        _ => Verdict::Final,
    }
}

/// Tries the versions of one server in turn. It gives the next version, and at the end the most useful error: that of
/// the best version, or of the first attempt that failed for another reason than its version.
#[derive(Debug)]
pub struct Negotiation<E> {
    version: Version,
    others: std::vec::IntoIter<Version>,
    failure: Option<(Verdict, E)>,
}

impl<E> Negotiation<E> {
    /// The version to try now.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Records that the version failed, and moves to the next one. `errno` is `None` if the failure is not from the
    /// kernel. Returns the most useful error if no version is left to try.
    pub fn failed(&mut self, error: E, errno: Option<Errno>) -> Result<(), E> {
        let verdict = verdict(self.version, errno);
        let (verdict, error) = match self.failure.take() {
            // The error of version 4 says more than that of version 3.
            Some((Verdict::NotInVersion4, first)) => return Err(first),
            Some((_, first)) if verdict == Verdict::NotThisVersion => (verdict, first),
            _ => (verdict, error),
        };
        let next = match verdict {
            Verdict::Final => None,
            Verdict::NotThisVersion => self.others.next(),
            Verdict::NotInVersion4 => self.others.find(|version| *version == Version::V3),
        };
        match next {
            Some(version) => self.version = version,
            None => return Err(error),
        }
        self.failure = Some((verdict, error));
        Ok(())
    }
}

/// The versions that worked on servers that lack better ones.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The version that worked, and when.
    versions: HashMap<At, (Version, Instant)>,
    /// The fallbacks that were logged.
    told: HashSet<(At, Version)>,
}

impl Remembered {
    /// Starts to try the versions that the options allow. A version that is known to work comes first.
    pub fn negotiate<E>(&self, at: At, options: &MountOptions) -> Negotiation<E> {
        let known = self.known().versions.get(&at).filter(|(_, since)| is_fresh(since)).map(|(version, _)| *version);
        let (best, others) = options.versions();
        let (version, others) = match known {
            Some(known) if others.contains(&known) => {
                let rest = others.iter().copied().filter(|version| *version != known);
                (known, std::iter::once(best).chain(rest).collect())
            }
            _ => (best, others.to_vec()),
        };
        Negotiation { version, others: others.into_iter(), failure: None }
    }

    /// Remembers the version that worked after others failed, unless the better versions only lacked the path. Returns
    /// whether the version is a fallback that was not reported before for this server and version.
    pub fn keep<E>(&self, at: At, options: &MountOptions, negotiation: &Negotiation<E>) -> bool {
        let version = negotiation.version;
        let mut known = self.known();
        if matches!(&negotiation.failure, Some((Verdict::NotThisVersion, _))) {
            known.versions.retain(|_, (_, since)| is_fresh(since));
            known.versions.insert(at, (version, Instant::now()));
        }
        version < options.versions().0 && known.told.insert((at, version))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh(since: &Instant) -> bool {
    since.elapsed() < REMEMBERED
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Version::{V3, V4_0, V4_1, V4_2};
    use super::*;

    const AT: At = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2049);

    fn options(text: &str) -> MountOptions {
        MountOptions::parse("options", [text]).unwrap()
    }

    /// Negotiates with a server on which these versions fail with these errors, and all others work.
    fn try_on(
        remembered: &Remembered,
        asked: &str,
        failing: &[(Version, Errno)],
    ) -> (Vec<Version>, Result<Version, (Version, Errno)>) {
        try_at(AT, remembered, asked, failing)
    }

    fn try_at(
        at: At,
        remembered: &Remembered,
        asked: &str,
        failing: &[(Version, Errno)],
    ) -> (Vec<Version>, Result<Version, (Version, Errno)>) {
        let mut tried = Vec::new();
        let mut negotiation = remembered.negotiate(at, &options(asked));
        loop {
            let version = negotiation.version();
            tried.push(version);
            let Some((_, errno)) = failing.iter().find(|(failing, _)| *failing == version) else {
                remembered.keep(at, &options(asked), &negotiation);
                return (tried, Ok(version));
            };
            if let Err(error) = negotiation.failed((version, *errno), Some(*errno)) {
                return (tried, Err(error));
            }
        }
    }

    const LACKING: Errno = Errno::PROTONOSUPPORT;

    #[rstest]
    #[case::the_best_works(&[], "", &[V4_2])]
    #[case::a_server_without_4_2(&[(V4_2, LACKING)], "", &[V4_2, V4_1])]
    #[case::a_server_with_3_alone(&[(V4_2, LACKING), (V4_1, LACKING), (V4_0, LACKING)], "", &[V4_2, V4_1, V4_0, V3])]
    #[case::a_kernel_without_4_2(&[(V4_2, Errno::INVAL)], "vers=4", &[V4_2, V4_1])]
    #[case::a_path_that_only_3_has(&[(V4_2, Errno::NOENT)], "", &[V4_2, V3])]
    #[case::a_path_that_only_3_has_without_4_2(&[(V4_2, LACKING), (V4_1, Errno::NOENT)], "", &[V4_2, V4_1, V3])]
    #[case::one_version_asked_for(&[], "vers=4.1", &[V4_1])]
    fn versions_are_tried_from_the_best_downwards(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
        #[case] expected: &[Version],
    ) {
        let (tried, result) = try_on(&Remembered::default(), asked, failing);
        assert_eq!(tried, expected);
        assert_eq!(result.unwrap(), *expected.last().unwrap());
    }

    #[rstest]
    #[case::no_path_in_either(&[(V4_2, Errno::NOENT), (V3, Errno::ACCESS)], "", &[V4_2, V3], (V4_2, Errno::NOENT))]
    #[case::no_path_in_4(&[(V4_2, Errno::NOENT)], "vers=4", &[V4_2], (V4_2, Errno::NOENT))]
    #[case::no_path_below_4_2(
        &[(V4_2, LACKING), (V4_1, Errno::NOENT), (V3, LACKING)],
        "",
        &[V4_2, V4_1, V3],
        (V4_1, Errno::NOENT)
    )]
    #[case::forbidden(&[(V4_2, Errno::ACCESS)], "", &[V4_2], (V4_2, Errno::ACCESS))]
    #[case::other_security_demanded(&[(V4_2, Errno::PERM)], "", &[V4_2], (V4_2, Errno::PERM))]
    #[case::without_tlshd(&[(V4_2, Errno::SRCH)], "xprtsec=tls", &[V4_2], (V4_2, Errno::SRCH))]
    #[case::encrypted_and_not_in_4(&[(V4_2, Errno::NOENT)], "xprtsec=tls", &[V4_2], (V4_2, Errno::NOENT))]
    #[case::encrypted_and_3_alone(
        &[(V4_2, LACKING), (V4_1, LACKING), (V4_0, LACKING)], "xprtsec=mtls", &[V4_2, V4_1, V4_0], (V4_2, LACKING)
    )]
    #[case::another_reason(&[(V4_2, Errno::TIMEDOUT)], "", &[V4_2], (V4_2, Errno::TIMEDOUT))]
    #[case::nothing_helps(
        &[(V4_2, Errno::INVAL), (V4_1, LACKING), (V4_0, LACKING), (V3, LACKING)], "",
        &[V4_2, V4_1, V4_0, V3], (V4_2, Errno::INVAL)
    )]
    #[case::version_3_alone(&[(V3, Errno::ACCESS)], "vers=3", &[V3], (V3, Errno::ACCESS))]
    fn the_most_useful_error_is_returned(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
        #[case] expected: &[Version],
        #[case] error: (Version, Errno),
    ) {
        let (tried, result) = try_on(&Remembered::default(), asked, failing);
        assert_eq!((tried.as_slice(), result.unwrap_err()), (expected, error));
    }

    #[test]
    fn a_version_that_a_server_lacks_is_not_retried() {
        let remembered = Remembered::default();
        let failing = [(V4_2, LACKING), (V4_1, LACKING)];
        try_on(&remembered, "", &failing).1.unwrap();
        assert_eq!(try_on(&remembered, "", &failing).0, [V4_0]);
        let elsewhere = (AT.0, 1);
        assert_eq!(try_at(elsewhere, &remembered, "", &failing).0, [V4_2, V4_1, V4_0], "another server");
        assert_eq!(try_on(&remembered, "vers=4.1", &[]).0, [V4_1], "the options decide");
    }

    #[test]
    fn a_downgraded_server_is_detected() {
        let remembered = Remembered::default();
        try_on(&remembered, "", &[(V4_2, LACKING)]).1.unwrap();
        assert_eq!(try_on(&remembered, "", &[(V4_2, LACKING), (V4_1, LACKING)]).0, [V4_1, V4_2, V4_0]);
    }

    #[rstest]
    #[case::a_path_that_only_3_has(&[(V4_2, Errno::NOENT)], "")]
    #[case::a_version_that_was_insisted_on(&[], "vers=3")]
    fn a_version_that_only_one_path_or_caller_needs_is_not_remembered(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
    ) {
        let remembered = Remembered::default();
        try_on(&remembered, asked, failing).1.unwrap();
        assert_eq!(try_on(&remembered, "", &[]).0, [V4_2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_a_server_lacked_is_retried_after_minutes() {
        let remembered = Remembered::default();
        try_on(&remembered, "", &[(V4_2, LACKING), (V4_1, LACKING), (V4_0, LACKING)]).1.unwrap();
        for _ in 0..4 {
            tokio::time::advance(REMEMBERED / 5).await;
            assert_eq!(try_on(&remembered, "", &[]).0, [V3], "use does not prolong the memory");
        }
        tokio::time::advance(REMEMBERED / 5).await;
        assert_eq!(try_on(&remembered, "", &[]).0, [V4_2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fallback_is_reported_once_per_server_and_version() {
        let remembered = Remembered::default();
        let told = |at: At, asked: &str, lacking: &[Version]| {
            let mut negotiation = remembered.negotiate(at, &options(asked));
            while lacking.contains(&negotiation.version()) {
                negotiation.failed((), Some(LACKING)).unwrap();
            }
            remembered.keep(at, &options(asked), &negotiation)
        };
        assert!(!told(AT, "", &[]), "no fallback");
        assert!(!told(AT, "vers=3", &[]), "wanted");
        assert!(told(AT, "", &[V4_2]));
        assert!(!told(AT, "", &[V4_2]) && !told(AT, "vers=4", &[V4_2]));
        assert!(told(AT, "", &[V4_2, V4_1, V4_0]), "another version");
        assert!(told((AT.0, 1), "", &[V4_2]), "another server");
        tokio::time::advance(2 * REMEMBERED).await;
        assert!(!told(AT, "", &[V4_2]));
    }

    #[rstest]
    #[case("vers=3", Some(""), Some(true))]
    #[case("vers=4.1", Some("vers=4"), Some(true))]
    #[case("vers=4.1", Some("vers=4.1"), Some(false))]
    #[case("vers=3", Some("vers=3"), Some(false))]
    #[case("vers=4.2", None, Some(false))]
    #[case("vers=3", None, None)]
    fn a_mount_is_a_fallback_by_what_was_wanted(
        #[case] shown: &str,
        #[case] asked: Option<&str>,
        #[case] expected: Option<bool>,
    ) {
        let line = format!("26 25 0:26 / /t rw - nfs4 h:/v rw,{shown},addr=10.0.0.1");
        let table = super::super::table::Table::parse(line.as_bytes());
        let mount = table.mounts().next().unwrap();
        assert_eq!(is_fallback(mount, asked.map(options).as_ref()), expected);
    }
}
