//! Copies a tree with only the system calls that any copy needs, on a mount like the driver's.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::fs::{OFlags, Timespec, Timestamps, futimens, ioctl_ficlone};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::ms;
use crate::support::Share;

/// The number of threads, which is the driver's for one export: it leaves two of a server's to other exports.
pub const THREADS: usize = csi_nfs::e2e::THREADS - 2;

/// A share that is mounted with the driver's options, but at a path.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(share: &Share) -> Self {
        let at = Path::new("/run/tmp/bare").join(share.share.replace('/', "-"));
        fs::create_dir_all(&at).unwrap();
        let options = format!("vers=4.2,addr={},softerr,timeo=50,retrans=1,actimeo=1,lookupcache=none", share.server);
        let source = format!("{}:{}", share.server, share.share);
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(source, &at, "nfs4", flags, Some(&*CString::new(options).unwrap())).unwrap();
        Self(at)
    }

    /// Copies a directory of files and of directories of files. Returns the time in ms.
    pub fn copy(&self, from: &str, to: &str) -> f64 {
        let start = Instant::now();
        let (from, to) = (self.0.join(from), self.0.join(to));
        let mut files = Vec::new();
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            fs::create_dir(to.join(&dir)).unwrap();
            for entry in fs::read_dir(from.join(&dir)).unwrap() {
                let entry = entry.unwrap();
                let place = dir.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() { dirs.push(place) } else { files.push(place) }
            }
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        copy_file(&from.join(file), &to.join(file));
                    }
                });
            }
        });
        ms(start.elapsed())
    }

    /// Copies a directory with cp(1), which does one thing after the other. Returns the time in ms.
    pub fn cp(&self, from: &str, to: &str) -> f64 {
        self.run("cp", &["--archive", from, to])
    }

    /// Packs a directory with tar(1) into a compressed archive on the share, and unpacks that, as csi-driver-nfs does.
    /// Returns the time of each in ms.
    pub fn tar(&self, from: &str, archive: &str, to: &str) -> [f64; 2] {
        let pack = self.run("tar", &["--create", "--gzip", "--file", archive, "--directory", from, "."]);
        fs::create_dir(self.0.join(to)).unwrap();
        let unpack = self.run("tar", &["--extract", "--gzip", "--file", archive, "--directory", to]);
        [pack, unpack]
    }

    /// Runs a program in the share. Returns the time in ms.
    fn run(&self, program: &str, arguments: &[&str]) -> f64 {
        let start = Instant::now();
        let status = Command::new(program).args(arguments).current_dir(&self.0).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
        ms(start.elapsed())
    }

    /// The number of requests of each kind by this mount and the driver's mount. The kernel counts them together.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        let statistics = fs::read_to_string("/proc/self/mountstats").unwrap();
        let mounted = format!(" mounted on {} ", self.0.display());
        let of_this = statistics.lines().skip_while(|line| !line.contains(&mounted)).skip(1);
        let of_this = of_this.take_while(|line| !line.starts_with("device "));
        let requests = of_this.skip_while(|line| !line.contains("per-op statistics")).skip(1);
        let counts = requests.filter_map(|line| line.trim().split_once(": "));
        counts.map(|(name, counts)| (name.to_owned(), counts.split(' ').next().unwrap().parse().unwrap())).collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::empty()).unwrap();
    }
}

fn copy_file(from: &Path, to: &Path) {
    // O_DIRECT avoids delegations, as in the driver.
    let flags = OFlags::DIRECT.bits().cast_signed();
    let source = File::options().read(true).custom_flags(flags).open(from).unwrap();
    let metadata = source.metadata().unwrap();
    let target = OpenOptions::new().read(true).write(true).create(true).custom_flags(flags).open(to).unwrap();
    if ioctl_ficlone(&target, &source).is_err() {
        let mut buffer = vec![0; 1 << 20];
        if metadata.len() > buffer.len() as u64 {
            // Large files need read-ahead and write-back.
            for file in [&source, &target] {
                rustix::fs::fcntl_setfl(file, OFlags::empty()).unwrap();
            }
        }
        let mut at = 0;
        while at < metadata.len() {
            let read = source.read_at(&mut buffer, at).unwrap();
            target.write_all_at(&buffer[..read], at).unwrap();
            at += read as u64;
        }
        target.sync_all().unwrap();
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    futimens(&target, &times).unwrap();
}
