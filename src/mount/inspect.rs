//! Reads the options of a detached mount from the kernel.
//!
//! Every kernel shows options in mountinfo, which lists the mounts of one mount namespace only. So one thread keeps an
//! empty mount namespace of its own. The thread attaches the mount there, reads its options, clones it as a new
//! descriptor, and detaches it. No other process sees the mount meanwhile, and no step asks a server.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};

use crate::mount::fsmount::{Failure, unshare_mounts};
use crate::mount::table::{Mount, Table};

/// Where the thread prepares the root of the namespace: a directory that every container has.
const PLACE: &str = "/proc";
/// Where the thread attaches a mount in the namespace.
const HERE: &str = "/mount";
/// How long the thread may take for an answer. It normally needs far less.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the options of detached mounts.
#[derive(Debug, Default)]
pub struct Inspector(Mutex<Option<Sender<Question>>>);

#[derive(Debug)]
struct Question {
    root: OwnedFd,
    answer: SyncSender<Result<Inspected, Failure>>,
}

/// A mount and its options.
#[derive(Debug)]
pub struct Inspected {
    /// A descriptor of the mount's root directory, which replaces the given descriptor.
    pub root: OwnedFd,
    /// What the kernel shows of the mount.
    pub mount: Mount,
}

/// A running thread that reads options.
#[derive(Debug)]
pub struct Inspection<'a> {
    inspector: &'a Inspector,
    questions: Sender<Question>,
}

impl Inspector {
    /// Returns the thread that reads options, and starts it if none runs.
    ///
    /// # Errors
    /// The call that failed, if this process may not create a mount namespace.
    pub fn start(&self) -> Result<Inspection<'_>, Failure> {
        let mut running = self.running();
        let questions = match running.as_ref() {
            Some(questions) => questions.clone(),
            None => running.insert(spawn()?).clone(),
        };
        Ok(Inspection { inspector: self, questions })
    }

    fn running(&self) -> MutexGuard<'_, Option<Sender<Question>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inspection<'_> {
    /// Reads the options of the mount with this root. If the read fails, the mount is gone.
    pub fn ask(self, root: OwnedFd) -> Result<Inspected, Failure> {
        let (answer, answered) = sync_channel(1);
        let asked = self.questions.send(Question { root, answer });
        let told = asked.ok().and_then(|()| answered.recv_timeout(INSPECT_TIMEOUT).ok());
        told.unwrap_or_else(|| {
            // The next question starts a new thread.
            *self.inspector.running() = None;
            Err(Failure::of("mountinfo")(Errno::TIMEDOUT))
        })
    }
}

fn spawn() -> Result<Sender<Question>, Failure> {
    let (questions, asked) = channel();
    let (ready, started) = sync_channel(1);
    let thread = std::thread::Builder::new().name("inspector".to_owned()).spawn(move || serve(&asked, &ready));
    thread.map_err(|_| Failure::of("thread")(Errno::AGAIN))?;
    started.recv_timeout(INSPECT_TIMEOUT).unwrap_or_else(|_| Err(Failure::of("unshare")(Errno::TIMEDOUT)))?;
    Ok(questions)
}

/// Answers until the `Inspector` is dropped.
fn serve(questions: &Receiver<Question>, ready: &SyncSender<Result<(), Failure>>) {
    let namespace = Namespace::enter();
    // A failed `send`, here and below, means that the caller has given up.
    let _ = ready.send(namespace.as_ref().map(|_| ()).map_err(Clone::clone));
    let Ok(namespace) = namespace else { return };
    for question in questions {
        let _ = question.answer.send(namespace.look_at(question.root));
    }
}

/// This thread's mount namespace.
struct Namespace {
    /// `/proc/thread-self`, which has no path in this namespace.
    thread: OwnedFd,
}

impl Namespace {
    /// Gives this thread a mount namespace with an empty root and nothing else: copies of other mounts would keep those
    /// mounts alive.
    fn enter() -> Result<Self, Failure> {
        unshare_mounts()?;
        // Unmounting here must not unmount elsewhere.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(Failure::of("mount private"))?;
        let thread = rustix::fs::open("/proc/thread-self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::of("open"))?;
        let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("none", PLACE, "tmpfs", harmless, None).map_err(Failure::of("mount"))?;
        rustix::process::chdir(PLACE).map_err(Failure::of("chdir"))?;
        // The old root is now stacked on the new one, so the unmount removes the old root.
        rustix::process::pivot_root(".", ".").map_err(Failure::of("pivot_root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(Failure::of("umount2"))?;
        rustix::fs::mkdir(HERE, Mode::RWXU).map_err(Failure::of("mkdir"))?;
        Ok(Self { thread })
    }

    fn look_at(&self, root: OwnedFd) -> Result<Inspected, Failure> {
        move_mount(&root, "", CWD, HERE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(Failure::of("move_mount"))?;
        let inspected = self.inspected(&root);
        unmount(HERE, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(Failure::of("umount2"))?;
        inspected
    }

    fn inspected(&self, root: &OwnedFd) -> Result<Inspected, Failure> {
        let table = Table::read_at(self.thread.as_fd(), "mountinfo").map_err(Failure::of("mountinfo"))?;
        let mount = table.top(Path::new(HERE)).cloned().ok_or_else(|| Failure::of("mountinfo")(Errno::NOENT))?;
        // The kernel does not attach a mount a second time, but attaches its clone.
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let root = open_tree(root, "", clone).map_err(Failure::of("open_tree"))?;
        Ok(Inspected { root, mount })
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

    use super::*;

    /// A detached mount of tmpfs.
    fn detached(attributes: MountAttrFlags) -> OwnedFd {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).unwrap()
    }

    #[test]
    fn a_detached_mount_shows_its_options_and_can_be_attached_afterwards() {
        let inspector = Inspector::default();
        for attributes in [MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty()] {
            let inspected = inspector.start().unwrap().ask(detached(attributes)).unwrap();
            assert_eq!(inspected.mount.fs_type, "tmpfs");
            assert_eq!(inspected.mount.is_read_only(), !attributes.is_empty(), "{:?}", inspected.mount);
            // The mount can be attached again.
            inspector.start().unwrap().ask(inspected.root).unwrap();
        }
    }

    #[test]
    fn the_namespace_contains_no_other_mounts() {
        let seen = std::thread::spawn(|| {
            let namespace = Namespace::enter().unwrap();
            Table::read_at(namespace.thread.as_fd(), "mountinfo").unwrap().mounts().count()
        });
        assert_eq!(seen.join().unwrap(), 1);
        assert!(Table::read().unwrap().mounts().count() > 1, "this thread's mounts are unchanged");
    }

    #[test]
    fn a_plain_directory_is_an_error_and_the_next_mount_is_inspected() {
        let inspector = Inspector::default();
        let directory = std::fs::File::open("/").unwrap().into();
        inspector.start().unwrap().ask(directory).unwrap_err();
        inspector.start().unwrap().ask(detached(MountAttrFlags::empty())).unwrap();
    }
}
