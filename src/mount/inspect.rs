//! Reads with which options the kernel has made a detached mount.
//!
//! Every kernel shows them in mountinfo, which lists the mounts of one mount namespace and no others. So one thread
//! keeps a mount namespace of its own with nothing else in it. A mount is attached there, read, cloned as a new
//! descriptor, and detached again. Nothing else sees the mount meanwhile. No step asks a server.

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

/// Where the root of the namespace is prepared: a directory that every container has.
const PLACE: &str = "/proc";
/// Where a mount is attached in the namespace.
const HERE: &str = "/mount";
/// How long an answer may take, which is far more than it needs.
const LIMIT: Duration = Duration::from_secs(5);

/// Reads the options of detached mounts.
#[derive(Debug, Default)]
pub struct Inspector(Mutex<Option<Sender<Question>>>);

#[derive(Debug)]
struct Question {
    root: OwnedFd,
    answer: SyncSender<Result<Inspected, Failure>>,
}

/// A mount that was asked.
#[derive(Debug)]
pub struct Inspected {
    /// The root directory of the mount, which takes the place of the descriptor that was given.
    pub root: OwnedFd,
    /// What the kernel shows of the mount.
    pub mount: Mount,
}

/// A thread that answers.
#[derive(Debug)]
pub struct Inspection<'a> {
    inspector: &'a Inspector,
    questions: Sender<Question>,
}

impl Inspector {
    /// The thread that answers, which is started where there is none.
    ///
    /// # Errors
    /// What failed, where this process may not have a mount namespace of its own.
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
    /// What the kernel shows of a mount, given by its root. Where that cannot be read, the mount is gone.
    pub fn ask(self, root: OwnedFd) -> Result<Inspected, Failure> {
        let (answer, answered) = sync_channel(1);
        let asked = self.questions.send(Question { root, answer });
        let told = asked.ok().and_then(|()| answered.recv_timeout(LIMIT).ok());
        told.unwrap_or_else(|| {
            // The next question goes to a new thread.
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
    started.recv_timeout(LIMIT).unwrap_or_else(|_| Err(Failure::of("unshare")(Errno::TIMEDOUT)))?;
    Ok(questions)
}

/// Answers until no `Inspector` is left.
fn serve(questions: &Receiver<Question>, ready: &SyncSender<Result<(), Failure>>) {
    let namespace = Namespace::enter();
    // A caller that has given up needs no answer, here and below.
    let _ = ready.send(namespace.as_ref().map(|_| ()).map_err(Clone::clone));
    let Ok(namespace) = namespace else { return };
    for question in questions {
        let _ = question.answer.send(namespace.look_at(question.root));
    }
}

/// This thread's mount namespace.
struct Namespace {
    /// `/proc/thread-self`, which has no path here.
    thread: OwnedFd,
}

impl Namespace {
    /// Gives this thread a mount namespace that holds an empty root and nothing else: copies of other mounts would keep
    /// those mounts from ending.
    fn enter() -> Result<Self, Failure> {
        unshare_mounts()?;
        // What is unmounted here stays mounted elsewhere.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(Failure::of("mount private"))?;
        let thread = rustix::fs::open("/proc/thread-self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::of("open"))?;
        let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("none", PLACE, "tmpfs", harmless, None).map_err(Failure::of("mount"))?;
        rustix::process::chdir(PLACE).map_err(Failure::of("chdir"))?;
        // The old root is stacked on the new one, and is the first to go.
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
        // What was attached once and is detached cannot be attached again; a clone can.
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let root = open_tree(root, "", clone).map_err(Failure::of("open_tree"))?;
        Ok(Inspected { root, mount })
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

    use super::*;

    /// A mount of tmpfs that is in no directory.
    fn detached(attributes: MountAttrFlags) -> OwnedFd {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).unwrap()
    }

    #[test]
    fn a_mount_without_a_path_tells_what_it_is_mounted_with_and_can_be_attached_afterwards() {
        let inspector = Inspector::default();
        for attributes in [MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty()] {
            let inspected = inspector.start().unwrap().ask(detached(attributes)).unwrap();
            assert_eq!(inspected.mount.fs_type, "tmpfs");
            assert_eq!(inspected.mount.is_read_only(), !attributes.is_empty(), "{:?}", inspected.mount);
            // To be attached once more shows that it can be.
            inspector.start().unwrap().ask(inspected.root).unwrap();
        }
    }

    #[test]
    fn the_mounts_of_others_are_not_in_the_namespace() {
        let seen = std::thread::spawn(|| {
            let namespace = Namespace::enter().unwrap();
            Table::read_at(namespace.thread.as_fd(), "mountinfo").unwrap().mounts().count()
        });
        assert_eq!(seen.join().unwrap(), 1);
        assert!(Table::read().unwrap().mounts().count() > 1, "this thread's are as they were");
    }

    #[test]
    fn what_is_no_mount_is_refused_and_the_next_mount_is_asked() {
        let inspector = Inspector::default();
        let directory = std::fs::File::open("/").unwrap().into();
        inspector.start().unwrap().ask(directory).unwrap_err();
        inspector.start().unwrap().ask(detached(MountAttrFlags::empty())).unwrap();
    }
}
