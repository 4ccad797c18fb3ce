//! Gives a volume's files to the group of its pod (`fsGroup`), once: when the root directory has another group.
//!
//! The rules are kubelet's (SetVolumeOwnership, `OnRootMismatch`): each object gets the group and [`FILE_MODE`], a
//! directory also [`DIRECTORY_MODE`], and a symbolic link only the group. The caller changes the root directory last,
//! so a walk that was cut short is repeated, and then skips what is done.
//!
//! Several threads of the server's gate change a few entries at a time, so calls for other volumes get their turn.
//! Tenants may change the tree meanwhile: every step starts at a descriptor, and nothing leads out of the volume.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::progress::{Progress, TELL};
use crate::mount::beneath;
use crate::mount::gate::Gate;
use crate::nfs::status::Status;
use crate::node::root::is_refused;

/// Read and write for owner and group.
const FILE_MODE: u32 = 0o660;
/// What a directory gets besides: setgid, and execute for owner and group.
const DIRECTORY_MODE: u32 = 0o2110;
/// Setuid and setgid, which chown(2) may clear.
const SPECIAL: u32 = 0o6000;

/// How many pieces of work are under way. The gate leaves its other threads to quick calls.
const WORKERS: usize = 8;
/// The number of names in a part of a listing, and of entries that a thread changes before it looks for other work.
const NAMES: usize = 512;
const BATCH: usize = 16;
/// After this many refusals and no success, the server is taken to refuse all of it.
const REFUSALS: u64 = 64;

/// What a walk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walked {
    /// How many objects were looked at, without the root.
    pub seen: u64,
    /// How many of them were changed.
    pub changed: u64,
    /// How many the server refuses to change.
    pub refused: u64,
    /// Why it refused one of them.
    pub status: Option<Status>,
}

impl Walked {
    fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.changed += other.changed;
        self.refused += other.refused;
        self.status = self.status.or(other.status);
    }
}

/// Something that a thread can do by itself.
enum Piece {
    /// Open a directory and read the first part of its listing.
    Open { parent: Arc<OwnedFd>, name: CString },
    /// Read the next part of a listing.
    Read { dir: Arc<OwnedFd>, rest: Dir },
    /// Change some entries.
    Change { dir: Arc<OwnedFd>, names: Vec<CString> },
}

/// What came of a piece.
#[derive(Default)]
struct Done {
    walked: Walked,
    /// What is to be done next, the last one first.
    next: Vec<Piece>,
}

/// Gives everything below `root` to `group`, except `root` itself. `volume` is for messages, and `progress` counts what
/// was looked at. The walk ends early if `is_unwanted` becomes true, or if the server refuses every change.
///
/// # Errors
/// [`Error::Unreachable`] if the server stops answering, [`Error::Export`] if it returns an error other than a refusal,
/// and [`Error::Precondition`] if the walk is unwanted. What is done by then stays.
pub async fn regroup(
    gate: &Gate,
    root: Arc<OwnedFd>,
    group: u32,
    (volume, progress): (&str, &Progress),
    is_unwanted: impl Fn() -> bool,
) -> Result<Walked> {
    let (mut walked, mut told) = (Walked::default(), Instant::now());
    let mut pieces = vec![Piece::Open { parent: root, name: c".".to_owned() }];
    let mut running = JoinSet::new();
    loop {
        // The last piece first: the walk finishes a directory before it opens the next, so few are open at a time.
        while running.len() < WORKERS
            && let Some(piece) = pieces.pop()
        {
            let gate = gate.clone();
            running.spawn(async move { gate.run_long(move || piece.run(group)).await });
        }
        let Some(done) = running.join_next().await else { break };
        let done = done.map_err(|error| Error::Internal(format!("{volume}: changing its group broke off: {error}")))?;
        let done = done?.map_err(|errno| failed(volume, group, errno))?;
        walked.add(done.walked);
        progress.entries(done.walked.seen);
        pieces.extend(done.next);
        if walked.refused >= REFUSALS && walked.changed == 0 {
            break;
        }
        if is_unwanted() {
            return Err(Error::Precondition(format!(
                "the files of {volume} were being given to group {group}, but the volume is no longer wanted here"
            )));
        }
        if told.elapsed() >= TELL {
            let (Walked { changed, refused, .. }, far) = (walked, progress.figures());
            tracing::info!(volume, group, %far, changed, refused, "giving the volume's files to the pod's fsGroup");
            told = Instant::now();
        }
    }
    Ok(walked)
}

fn failed(volume: &str, group: u32, errno: Errno) -> Error {
    Error::Export {
        export: volume.to_owned(),
        action: format!("giving the volume's files to group {group} (fsGroup)"),
        status: errno.into(),
    }
}

impl Piece {
    /// Blocks.
    fn run(self, group: u32) -> rustix::io::Result<Done> {
        match self {
            Self::Open { parent, name } => match open(&parent, &name) {
                Ok((dir, rest)) => read(dir, rest),
                Err(errno) if is_passed_over(errno) => Ok(Done::default()),
                Err(errno) if is_refused(errno) => Ok(Done { walked: refusal(errno), next: Vec::new() }),
                Err(errno) => Err(errno),
            },
            Self::Read { dir, rest } => read(dir, rest),
            Self::Change { dir, names } => {
                let mut done = Done::default();
                for name in names {
                    done.walked.seen += 1;
                    match change(&dir, &name, group) {
                        Ok(Changed { is_directory, changed }) => {
                            done.walked.changed += u64::from(changed);
                            if is_directory {
                                done.next.push(Self::Open { parent: Arc::clone(&dir), name });
                            }
                        }
                        Err(errno) if is_passed_over(errno) => {}
                        Err(errno) if is_refused(errno) => done.walked.add(refusal(errno)),
                        Err(errno) => return Err(errno),
                    }
                }
                Ok(done)
            }
        }
    }
}

fn refusal(errno: Errno) -> Walked {
    Walked { refused: 1, status: Some(errno.into()), ..Walked::default() }
}

/// Whether an object is none of the volume's: it was removed or replaced meanwhile, or is in another file system.
fn is_passed_over(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

fn open(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<(Arc<OwnedFd>, Dir)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = beneath::open_below(parent, name, flags, Mode::empty())?;
    let rest = Dir::read_from(&dir)?;
    Ok((Arc::new(dir), rest))
}

/// Reads a part of a listing.
fn read(dir: Arc<OwnedFd>, mut rest: Dir) -> rustix::io::Result<Done> {
    let mut names = Vec::new();
    let mut is_all = false;
    while names.len() < NAMES && !is_all {
        match rest.read() {
            Some(Ok(entry)) if [c".", c".."].contains(&entry.file_name()) => {}
            Some(Ok(entry)) => names.push(entry.file_name().to_owned()),
            Some(Err(errno)) if !is_passed_over(errno) => return Err(errno),
            Some(Err(_)) | None => is_all = true,
        }
    }
    let batches = names.chunks(BATCH).map(|names| Piece::Change { dir: Arc::clone(&dir), names: names.to_vec() });
    let batches: Vec<Piece> = batches.collect();
    let rest = (!is_all).then_some(Piece::Read { dir, rest });
    Ok(Done { walked: Walked::default(), next: rest.into_iter().chain(batches).collect() })
}

struct Changed {
    is_directory: bool,
    changed: bool,
}

/// Gives one entry to the group, with what the group may do.
fn change(dir: &OwnedFd, name: &CStr, group: u32) -> rustix::io::Result<Changed> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // An object that is only opened as a place: no device is touched, and no symbolic link is followed.
    let object = beneath::open_below(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::statx(&object, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let mode = u32::from(stat.stx_mode);
    let (kind, mode) = (FileType::from_raw_mode(mode), mode & 0o7777);
    let is_directory = kind == FileType::Directory;
    let other_group = stat.stx_gid != group;
    if other_group {
        rustix::fs::chownat(&object, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    let wanted = mode | FILE_MODE | if is_directory { DIRECTORY_MODE } else { 0 };
    let other_mode = wanted != mode || (other_group && wanted & SPECIAL != 0);
    if kind != FileType::Symlink && other_mode {
        set_mode(&object, wanted)?;
        return Ok(Changed { is_directory, changed: true });
    }
    Ok(Changed { is_directory, changed: other_group })
}

/// chmod(2) of an O_PATH descriptor. fchmodat2(2), which takes one, came with Linux 6.6.
fn set_mode(object: &OwnedFd, mode: u32) -> rustix::io::Result<()> {
    let itself = format!("/proc/self/fd/{}", object.as_raw_fd());
    rustix::fs::chmodat(CWD, itself, Mode::from_raw_mode(mode), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    const GROUP: u32 = 4321;

    async fn regrouped(root: &Path) -> Walked {
        let root = Arc::new(fs::File::open(root).unwrap().into());
        regroup(&Gate::of_this_machine(), root, GROUP, ("nfs:/volume", &Progress::default()), || false).await.unwrap()
    }

    fn state(path: &Path) -> (u32, u32) {
        let metadata = path.symlink_metadata().unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    }

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Only root may give files to another group.
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[tokio::test]
    async fn files_and_directories_get_the_group_and_its_rights_and_the_root_stays() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        with_mode(&at("a/b"), 0o755);
        for (name, mode) in [("file", 0o600), ("a/program", 0o4755), ("a/b/shown", 0o444)] {
            fs::write(at(name), "").unwrap();
            with_mode(&at(name), mode);
        }
        fs::write(outside.path().join("file"), "").unwrap();
        symlink(outside.path(), at("a/link")).unwrap();
        let (root, kept) = (state(dir.path()), state(&outside.path().join("file")));
        let walked = regrouped(dir.path()).await;
        let expected = if is_root() { (6, 6, 0) } else { (6, 0, 6) };
        assert_eq!((walked.seen, walked.changed, walked.refused), expected);
        assert_eq!((state(dir.path()), state(&outside.path().join("file"))), (root, kept));
        if is_root() {
            assert_eq!(state(&at("file")), (GROUP, 0o660));
            assert_eq!(state(&at("a/program")), (GROUP, 0o4775), "as kubelet does: mode | 0660");
            assert_eq!(state(&at("a/b/shown")), (GROUP, 0o664));
            assert_eq!(state(&at("a/b")), (GROUP, 0o2775));
            assert_eq!(at("a/link").symlink_metadata().unwrap().gid(), GROUP);
        }
        assert_eq!(state(outside.path()).0, state(dir.path()).0, "the link's target keeps its group");
    }

    #[tokio::test]
    async fn a_walk_that_was_cut_short_changes_the_rest_when_it_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..2000 {
            fs::create_dir_all(dir.path().join(format!("{}", n % 7))).unwrap();
            fs::write(dir.path().join(format!("{}/{n}", n % 7)), "").unwrap();
        }
        let looks = std::cell::Cell::new(0);
        let is_unwanted = || looks.replace(looks.get() + 1) > 20;
        let root = Arc::new(fs::File::open(dir.path()).unwrap().into());
        let cut =
            regroup(&Gate::of_this_machine(), root, GROUP, ("nfs:/volume", &Progress::default()), is_unwanted).await;
        // Without root, the walk ends after some refusals.
        assert!(matches!(cut, Err(Error::Precondition(_))) || !is_root(), "{cut:?}");
        let (rest, again) = (regrouped(dir.path()).await, regrouped(dir.path()).await);
        if is_root() {
            assert!(rest.changed > 0 && rest.changed < 2007, "{rest:?}");
            assert_eq!((again.seen, again.changed), (2007, 0));
        }
    }

    #[tokio::test]
    async fn a_deep_and_a_wide_tree_are_walked_to_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&deep, "d", Mode::RWXU).unwrap();
            deep = rustix::fs::openat(&deep, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        for n in 0..1500 {
            fs::create_dir(dir.path().join(n.to_string())).unwrap();
        }
        let walked = regrouped(dir.path()).await;
        assert!(walked.seen == 4500 || !is_root(), "{walked:?}");
        if is_root() {
            assert_eq!(rustix::fs::fstat(&deep).unwrap().st_gid, GROUP);
        }
    }
}
