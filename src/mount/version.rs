//! Which version of NFS a server speaks: found by trying, and remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::options::{MountOptions, Version};
use super::source::Server;

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

/// What trying versions came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// What the attempt gave.
    pub value: T,
    /// The version that did it.
    pub version: Version,
    /// Whether all that was tried before failed for being a version that the server lacks.
    server_wide: bool,
}

/// Tries versions in the order in which [`Remembered`] has them. `errno` is that of a failed attempt, `None` where it
/// did not fail in the kernel. The error that comes back is the one that says most: that of the version wanted most, or
/// of the first attempt that failed for another reason than its version.
pub async fn negotiate<T, E, F: Future<Output = Result<T, E>>>(
    (first, others): (Version, Vec<Version>),
    mut attempt: impl FnMut(Version) -> F,
    errno: impl Fn(&E) -> Option<Errno>,
) -> Result<Found<T>, E> {
    let mut failure = match attempt(first).await {
        Ok(value) => return Ok(Found { value, version: first, server_wide: true }),
        Err(error) => error,
    };
    let mut verdict_so_far = verdict(first, errno(&failure));
    for version in others {
        match verdict_so_far {
            Verdict::Final => break,
            Verdict::NotInVersion4 if version != Version::V3 => continue,
            Verdict::NotInVersion4 | Verdict::NotThisVersion => {}
        }
        let error = match attempt(version).await {
            Ok(value) => {
                return Ok(Found { value, version, server_wide: verdict_so_far == Verdict::NotThisVersion });
            }
            Err(error) => error,
        };
        // That version 3 does not help either says less than what was wrong with version 4.
        if verdict_so_far == Verdict::NotInVersion4 {
            break;
        }
        verdict_so_far = verdict(version, errno(&error));
        if verdict_so_far != Verdict::NotThisVersion {
            failure = error;
        }
    }
    Err(failure)
}

/// The version that worked last, by server and port.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<(Server, u16), Version>>);

impl Remembered {
    /// The versions that the options allow, the one that is known to work first.
    pub fn order(&self, server: &Server, options: &MountOptions) -> (Version, Vec<Version>) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(server, options)).copied();
        let (best, others) = options.versions();
        match known {
            Some(known) if others.contains(&known) => {
                let rest = others.iter().copied().filter(|version| *version != known);
                (known, std::iter::once(best).chain(rest).collect())
            }
            _ => (best, others.to_vec()),
        }
    }

    /// Remembers what was found, where it holds for the server as a whole: not a version that the options insisted on,
    /// nor one that serves a path which another does not.
    pub fn keep<T>(&self, server: &Server, options: &MountOptions, found: &Found<T>) {
        if found.server_wide && options.version().is_none() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key(server, options), found.version);
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

    /// A server on which these versions fail as said, and all others work.
    async fn try_on(
        failing: &[(Version, Errno)],
        order: (Version, Vec<Version>),
    ) -> (Vec<Version>, Result<Found<()>, (Version, Errno)>) {
        let mut tried = Vec::new();
        let attempt = |version| {
            tried.push(version);
            std::future::ready(
                failing.iter().find(|(failing, _)| *failing == version).map_or(Ok(()), |failure| Err(*failure)),
            )
        };
        let result = negotiate(order, attempt, |(_, errno)| Some(*errno)).await;
        (tried, result)
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
    #[tokio::test]
    async fn versions_are_tried_from_the_best_downwards(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
        #[case] expected: &[Version],
    ) {
        let (tried, result) = try_on(failing, Remembered::default().order(&server(), &options(asked))).await;
        assert_eq!(tried, expected);
        assert_eq!(result.unwrap().version, *expected.last().unwrap());
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
    #[tokio::test]
    async fn the_error_is_the_one_that_says_most(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
        #[case] expected: &[Version],
        #[case] error: (Version, Errno),
    ) {
        let (tried, result) = try_on(failing, Remembered::default().order(&server(), &options(asked))).await;
        assert_eq!((tried.as_slice(), result.unwrap_err()), (expected, error));
    }

    #[tokio::test]
    async fn what_a_server_lacks_is_not_tried_again() {
        let remembered = Remembered::default();
        let failing = [(V4_2, LACKING), (V4_1, LACKING)];
        let (_, found) = try_on(&failing, remembered.order(&server(), &options(""))).await;
        remembered.keep(&server(), &options(""), &found.unwrap());
        let (tried, _) = try_on(&failing, remembered.order(&server(), &options(""))).await;
        assert_eq!(tried, [V4_0]);
        assert_eq!(remembered.order(&server(), &options("port=1")).0, V4_2, "another server");
        assert_eq!(remembered.order(&server(), &options("vers=4.1")), (V4_1, vec![]), "options have the last word");
    }

    #[tokio::test]
    async fn a_server_that_was_downgraded_is_found_out() {
        let remembered = Remembered::default();
        let (_, found) = try_on(&[(V4_2, LACKING)], remembered.order(&server(), &options(""))).await;
        remembered.keep(&server(), &options(""), &found.unwrap());
        let (tried, _) = try_on(&[(V4_2, LACKING), (V4_1, LACKING)], remembered.order(&server(), &options(""))).await;
        assert_eq!(tried, [V4_1, V4_2, V4_0]);
    }

    #[rstest]
    #[case::a_path_that_only_3_has(&[(V4_2, Errno::NOENT)], "")]
    #[case::a_version_that_was_insisted_on(&[], "vers=3")]
    #[tokio::test]
    async fn what_does_not_hold_for_the_whole_server_is_not_remembered(
        #[case] failing: &[(Version, Errno)],
        #[case] asked: &str,
    ) {
        let remembered = Remembered::default();
        let (_, found) = try_on(failing, remembered.order(&server(), &options(asked))).await;
        remembered.keep(&server(), &options(asked), &found.unwrap());
        assert_eq!(remembered.order(&server(), &options("")).0, V4_2);
    }
}
