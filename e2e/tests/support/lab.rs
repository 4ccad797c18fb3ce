//! The NFS servers that `e2e/vm/servers` starts. Each test gets a directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::processes;

/// Tests run at the same time, except tests that disturb a server.
static TURN: RwLock<()> = RwLock::const_new(());

/// An exported directory: see `e2e/vm/servers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The kernel's server, on tmpfs.
    Tmpfs,
    /// The kernel's server, on XFS with reflink and project quotas.
    Xfs,
    /// The kernel's server, on ext4 with project quotas.
    Ext4,
    /// The kernel's server, on a tmpfs of 16 MiB and 1,000 inodes.
    Small,
    /// The kernel's server, on an XFS with reflink of 320 MiB, which a test fills.
    SmallXfs,
    /// The kernel's server, read-only.
    ReadOnly,
    /// The kernel's server, on tmpfs. NFS-Ganesha has another directory with this name.
    Moved,
    /// The kernel's server, with root squashed.
    Squashed,
    /// The kernel's server, for clients with Kerberos only.
    Kerberos,
    /// The kernel's server, for clients with a certificate only.
    MutualTls,
    /// The kernel's server, for clients at 127.0.0.1 only.
    Loopback,
    /// NFS-Ganesha, on XFS, NFSv4 only.
    Ganesha,
}

impl Place {
    /// The directory's name below `/srv`, and below the server's root.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
            Self::Small => "small",
            Self::SmallXfs => "smallxfs",
            Self::ReadOnly => "readonly",
            Self::Squashed => "squashed",
            Self::Moved => "moved",
            Self::Kerberos => "krb5",
            Self::MutualTls => "mtls",
            Self::Loopback => "loopback",
            Self::Ganesha => "ganesha",
        }
    }

    /// The address of the server.
    pub fn server(self) -> &'static str {
        match self {
            Self::Ganesha => "10.90.0.2",
            _ => "127.0.0.1",
        }
    }

    /// The path on the server.
    pub fn path(self) -> PathBuf {
        Path::new("/srv").join(self.name())
    }
}

/// A test's turn at the servers. Dropping this removes the test's shares: half of the exports are in memory.
#[derive(Debug)]
pub struct Lab {
    turn: Turn,
    shares: Mutex<Vec<PathBuf>>,
    _limit: Limit,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for share in self.shares.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A test may have removed it, or made it read-only.
            let _ = fs::remove_dir_all(share);
        }
    }
}

/// Aborts the whole process if a test hangs, perhaps in the kernel. The output then has the name of the test.
#[derive(Debug)]
struct Limit(#[expect(dead_code, reason = "dropping it is the end of the test")] mpsc::Sender<()>);

impl Limit {
    const MOST: Duration = Duration::from_secs(300);

    fn start(most: Duration) -> Self {
        let (ended, end) = mpsc::channel();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::spawn(move || {
            if end.recv_timeout(most) == Err(mpsc::RecvTimeoutError::Timeout) {
                // The output of eprintln would be captured until the end of the test.
                let told = processes::this_and_children();
                let _ = writeln!(std::io::stderr(), "{name}: not done after {most:?}; aborting all tests\n{told}");
                std::process::abort();
            }
        });
        Self(ended)
    }
}

#[derive(Debug)]
enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Lab {
    /// Waits for a turn together with other tests. Panics if there are no servers.
    pub async fn enter() -> Self {
        Self::enter_for(Limit::MOST).await
    }

    /// The same with another time limit.
    pub async fn enter_for(most: Duration) -> Self {
        check();
        let turn = Turn::Shared { _guard: TURN.read().await };
        Self::at(turn, most)
    }

    /// Waits for a turn without other tests, for a test that disturbs a server or measures time.
    pub async fn alone() -> Self {
        Self::alone_for(Limit::MOST).await
    }

    /// The same with another time limit.
    pub async fn alone_for(most: Duration) -> Self {
        check();
        let turn = Turn::Alone { _guard: TURN.write().await };
        Self::at(turn, most)
    }

    fn at(turn: Turn, most: Duration) -> Self {
        Self { turn, shares: Mutex::default(), _limit: Limit::start(most) }
    }

    /// Creates an empty directory on an export, as a share that only this test uses.
    pub fn share(&self, place: Place) -> Share {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("share-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = place.path().join(&name);
        fs::create_dir(&path).unwrap();
        // A client whose root is squashed has to write here, too.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        self.shares.lock().unwrap().push(path.clone());
        Share { server: place.server().to_owned(), share: format!("/{}/{name}", place.name()), path }
    }

    /// Takes NFS-Ganesha away until the returned value is dropped.
    pub fn without_ganesha(&self, outage: Outage) -> Away {
        self.assert_alone();
        match outage {
            Outage::Stopped => ganesha("stop"),
            Outage::Frozen => freeze(ganesha_pid()),
            Outage::CutOff => ganesha_link("down"),
        }
        Away(match outage {
            Outage::Stopped => || ganesha("start"),
            Outage::Frozen => || kill_process(ganesha_pid(), Signal::CONT).unwrap(),
            Outage::CutOff => || ganesha_link("up"),
        })
    }

    /// Stops the kernel's server until the returned value is dropped.
    pub fn without_kernel_server(&self) -> Away {
        self.assert_alone();
        run("rpc.nfsd", ["0"]);
        Away(|| run("rpc.nfsd", ["--grace-time", "10", "--lease-time", "10", "8"]))
    }

    /// Disables version 4 on the kernel's server until the returned value is dropped.
    pub fn without_version_4(&self) -> Away {
        self.assert_alone();
        run("rpc.nfsd", ["0"]);
        run("rpc.nfsd", ["--no-nfs-version", "4", "--grace-time", "10", "--lease-time", "10", "8"]);
        Away(|| {
            run("rpc.nfsd", ["0"]);
            run("rpc.nfsd", ["--grace-time", "10", "--lease-time", "10", "8"]);
        })
    }

    /// Exports `Place::Small` read-only until the returned value is dropped.
    pub fn with_small_read_only(&self) -> Away {
        self.assert_alone();
        export_small("ro");
        Away(|| export_small("rw"))
    }

    pub(super) fn assert_alone(&self) {
        assert!(
            matches!(self.turn, Turn::Alone { .. }),
            "a test may disturb a server only in a turn without other tests"
        );
    }
}

/// How a server goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The server's process is killed, and its host refuses connections.
    Stopped,
    /// The server's process is suspended. Its host accepts connections and does not answer.
    Frozen,
    /// The network is cut off. Nothing answers.
    CutOff,
}

/// A server that is away. It comes back when this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Away(fn());

impl Away {
    /// Something that is away until `back` is called.
    pub(super) fn until(back: fn()) -> Self {
        Self(back)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A directory of an export that is used as a share.
#[derive(Debug, Clone)]
pub struct Share {
    /// The server, as parameters name it.
    pub server: String,
    /// The share, as parameters name it.
    pub share: String,
    /// The path of the directory on the server.
    pub path: PathBuf,
}

impl Share {
    /// The same share by another name or address of the server.
    pub fn by(&self, server: &str) -> Self {
        Self { server: server.to_owned(), ..self.clone() }
    }

    /// The names in the directory, sorted, without the driver's private directory.
    pub fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.path).unwrap();
        let mut names: Vec<String> = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != ".csi-nfs");
        names.sort();
        names
    }

    /// The names in a part of the driver's private directory, such as `staging`.
    pub fn left_in(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(".csi-nfs").join(part)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Waits until the driver's trash is empty. A disk that flushes slowly takes its time for each entry.
    pub async fn trash_is_empty(&self) {
        let trash = self.path.join(".csi-nfs/trash");
        super::wait::until("clearing the trash", Duration::from_secs(600), || {
            fs::read_dir(&trash).map_or(true, |mut entries| entries.next().is_none()).then_some(())
        })
        .await;
    }
}

fn check() {
    let served = fs::read_to_string("/proc/self/mounts").unwrap_or_default().contains(" /srv/xfs xfs ");
    assert!(served, "no NFS servers are running; run this with e2e/vm/run, as `make e2e` does");
}

fn ganesha(what: &str) {
    run(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/vm/ganesha"), [what]);
}

/// Stops a process. Until each of its threads has seen the signal, the others may still work.
fn freeze(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    let is_stopped = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status"));
        status.is_ok_and(|status| status.contains("\nState:\tT"))
    };
    let start = Instant::now();
    let tasks = || fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    while !tasks().all(|task| is_stopped(task.unwrap())) {
        assert!(start.elapsed() < Duration::from_secs(5), "a thread of {pid:?} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ganesha_pid() -> Pid {
    let pid = fs::read_to_string("/run/ganesha.pid").unwrap();
    Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
}

fn ganesha_link(state: &str) {
    run("ip", ["-netns", "ganesha", "link", "set", "eth0", state]);
}

fn export_small(access: &str) {
    let options = format!("fsid=3,no_subtree_check,insecure,no_root_squash,{access}");
    run("exportfs", ["-i", "-o", &options, "*:/small"]);
}

/// Runs a program that must succeed.
pub fn run<const N: usize>(program: impl AsRef<OsStr>, arguments: [&str; N]) {
    let program = program.as_ref();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(status.success(), "{} {arguments:?}: {status}", program.display());
}
