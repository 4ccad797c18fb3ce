//! Which version of NFS a server speaks: found by trying, and remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::nfs::options::{MountOptions, Version};
use crate::nfs::source::Server;

/// What a failed attempt says about the versions that were not tried yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The server, or this kernel, lacks this version: the next one may do.
    NotThisVersion,
    /// The path may be one that version 4 does not show, for an export for version 3 need not be in a server's tree for
    /// version 4: version 3 may do.
    NotInVersion4,
    /// Nothing to do with versions.
    Final,
}

/// As mount.nfs(8) has it, but for EACCES, which says nothing about a minor version.
fn verdict(version: Version, errno: Option<Errno>) -> Verdict {
    match errno {
        Some(Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP) => Verdict::NotThisVersion,
        Some(Errno::NOENT | Errno::ACCESS | Errno::PERM) if version != Version::V3 => Verdict::NotInVersion4,
        _ => Verdict::Final,
    }
}

/// Trying the versions of one server in turn. It says which is next, and at the end which error says most: that of the
/// version wanted most, or of the first attempt that failed for another reason than its version.
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

    /// Notes that it failed; `errno` is `None` where it did not fail in the kernel. Gives the error of the whole when
    /// nothing else is to be tried.
    pub fn failed(&mut self, error: E, errno: Option<Errno>) -> Result<(), E> {
        let verdict = verdict(self.version, errno);
        let (verdict, error) = match self.failure.take() {
            // That version 3 does not help either says less than what was wrong with version 4.
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

/// The version that worked last, by server and port.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<(Server, u16), Version>>);

impl Remembered {
    /// Begins to try the versions that the options allow, the one that is known to work first.
    pub fn negotiate<E>(&self, server: &Server, options: &MountOptions) -> Negotiation<E> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(server, options)).copied();
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

    /// Remembers the version that worked, where it holds for the server as a whole: not one that the options insisted
    /// on, nor one that has a path which better versions do not have.
    pub fn keep<E>(&self, server: &Server, options: &MountOptions, negotiation: &Negotiation<E>) {
        let server_wide = negotiation.failure.as_ref().is_none_or(|(verdict, _)| *verdict == Verdict::NotThisVersion);
        if server_wide && options.version().is_none() {
            let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            versions.insert(key(server, options), negotiation.version);
        }
    }
}

fn key(server: &Server, options: &MountOptions) -> (Server, u16) {
    (server.clone(), options.port())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Version::{V3, V4_0, V4_1, V4_2};
    use super::*;

    fn server() -> Server {
        Server::parse("server", "nfs.example").unwrap()
    }

    fn options(text: &str) -> MountOptions {
        MountOptions::parse("options", [text]).unwrap()
    }

    /// Tries a server on which these versions fail as said, and all others work; remembers what worked.
    fn try_on(
        remembered: &Remembered,
        asked: &str,
        failing: &[(Version, Errno)],
    ) -> (Vec<Version>, Result<Version, (Version, Errno)>) {
        let mut tried = Vec::new();
        let mut negotiation = remembered.negotiate(&server(), &options(asked));
        loop {
            let version = negotiation.version();
            tried.push(version);
            let Some((_, errno)) = failing.iter().find(|(failing, _)| *failing == version) else {
                remembered.keep(&server(), &options(asked), &negotiation);
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
    #[case::a_path_that_only_3_has_without_4_2(&[(V4_2, LACKING), (V4_1, Errno::ACCESS)], "", &[V4_2, V4_1, V3])]
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
    #[case::no_path_below_4_2(&[(V4_2, LACKING), (V4_1, Errno::NOENT), (V3, LACKING)], "", &[V4_2, V4_1, V3], (V4_1, Errno::NOENT))]
    #[case::another_reason(&[(V4_2, Errno::TIMEDOUT)], "", &[V4_2], (V4_2, Errno::TIMEDOUT))]
    #[case::nothing_helps(
        &[(V4_2, Errno::INVAL), (V4_1, LACKING), (V4_0, LACKING), (V3, LACKING)], "",
        &[V4_2, V4_1, V4_0, V3], (V4_2, Errno::INVAL)
    )]
    #[case::version_3_alone(&[(V3, Errno::ACCESS)], "vers=3", &[V3], (V3, Errno::ACCESS))]
    fn the_error_is_the_one_that_says_most(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
        #[case] expected: &[Version],
        #[case] error: (Version, Errno),
    ) {
        let (tried, result) = try_on(&Remembered::default(), asked, failing);
        assert_eq!((tried.as_slice(), result.unwrap_err()), (expected, error));
    }

    #[test]
    fn what_a_server_lacks_is_not_tried_again() {
        let remembered = Remembered::default();
        let failing = [(V4_2, LACKING), (V4_1, LACKING)];
        try_on(&remembered, "", &failing).1.unwrap();
        assert_eq!(try_on(&remembered, "", &failing).0, [V4_0]);
        assert_eq!(try_on(&remembered, "port=1", &failing).0, [V4_2, V4_1, V4_0], "another server");
        assert_eq!(try_on(&remembered, "vers=4.1", &[]).0, [V4_1], "options have the last word");
    }

    #[test]
    fn a_server_that_was_downgraded_is_found_out() {
        let remembered = Remembered::default();
        try_on(&remembered, "", &[(V4_2, LACKING)]).1.unwrap();
        assert_eq!(try_on(&remembered, "", &[(V4_2, LACKING), (V4_1, LACKING)]).0, [V4_1, V4_2, V4_0]);
    }

    #[rstest]
    #[case::a_path_that_only_3_has(&[(V4_2, Errno::NOENT)], "")]
    #[case::a_version_that_was_insisted_on(&[], "vers=3")]
    fn what_does_not_hold_for_the_whole_server_is_not_remembered(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
    ) {
        let remembered = Remembered::default();
        try_on(&remembered, asked, failing).1.unwrap();
        assert_eq!(try_on(&remembered, "", &[]).0, [V4_2]);
    }
}
