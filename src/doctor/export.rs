//! The export itself: what the driver may do there, and what the server can.

use std::time::{Duration, SystemTime};

use super::report::{Report, Step};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Attr, Fs, LockMode, Name, OpenMode, SetAttr, Status};
use crate::export::locks::Guard;
use crate::nfs::source::SubDir;
use crate::volume::quota;

/// What the probe file contains.
const CONTENT: &[u8] = b"csi-nfs doctor";
/// An owner that files of containers often have.
const OTHER: u32 = 1000;
/// Clocks may differ by this many seconds.
const SKEW: i64 = 5;
/// How often the directory is tried to remove, and the pause between two tries.
const CLOSING: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);
/// Less than this part of an export is nearly nothing.
const LITTLE: f64 = 0.05;

/// The directory in which everything is tried.
pub struct Place<F: Fs> {
    path: Vec<Name>,
    parent: F::Handle,
    dir: F::Handle,
    /// Keeps a starting controller from clearing it.
    _lock: Option<Guard<F>>,
}

/// Examines an export, on one connection and, where that matters, on another one. Returns the place with what was made, or
/// `None` if nothing could be.
pub async fn examine<F: Fs>(export: &Export<F>, other: Option<&Export<F>>, report: &mut Report) -> Option<Place<F>> {
    let has_room = space(export, report).await;
    let tried = "making a directory and a file, and reading the file";
    let place = match make(export).await {
        Ok(place) => place,
        Err(error) if !has_room && is_about_space(&error) => return None,
        Err(error) => {
            report.add(Step::bad("write", tried, error.to_string(), ""));
            return None;
        }
    };
    match written(export, &place).await {
        Ok(file) => {
            report.add(Step::good("write", tried, "done"));
            identity(export, &place, &file, report).await;
            clock(&file, report);
        }
        Err(error) if !has_room && is_about_space(&error) => {}
        Err(error) => report.add(Step::bad("write", tried, error.to_string(), "")),
    }
    locks(export, other, &place, report).await;
    features(export, &place, report).await;
    agent(export, report).await;
    Some(place)
}

/// Whether the step before has told what is wrong.
fn is_about_space(error: &Error) -> bool {
    matches!(error, Error::Export { status: Status::NoSpc | Status::DQuot, .. })
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| Error::Internal(format!("`{text}`: {status}")))
}

/// Makes the directory: in staging, which a controller clears if this process dies, or beside the volumes where the driver
/// has not been yet.
async fn make<F: Fs>(export: &Export<F>) -> Result<Place<F>> {
    let own = format!("doctor-{}", uuid::Uuid::new_v4());
    let (parent, path, lock) = match export.layout().await? {
        Some(layout) => {
            // A later step names what is wrong with locks.
            let lock = export.lock(&[&own]).await.ok();
            (layout.staging.clone(), vec![name(SubDir::PRIVATE)?, name("staging")?, name(&own)?], lock)
        }
        None => (export.fs().root(), vec![name(&format!("{}-{own}", SubDir::PRIVATE))?], None),
    };
    let last = path.last().ok_or_else(|| Error::Internal("an empty path".to_owned()))?;
    let made = export.fs().mkdir(&parent, last, 0o700).await;
    let (dir, _) = made.map_err(|status| export.failed(format!("creating directory `{last}`"), status))?;
    Ok(Place { path, parent, dir, _lock: lock })
}

async fn written<F: Fs>(export: &Export<F>, place: &Place<F>) -> Result<Attr> {
    let (fs, file) = (export.fs(), name("file")?);
    let work = async {
        fs.write_file(&place.dir, &file, 0o600, CONTENT.to_vec()).await?;
        let read = fs.read_file(&place.dir, &file, CONTENT.len()).await?;
        let (_, attr) = fs.lookup(&place.dir, &file).await?;
        Ok((read, attr))
    };
    let (read, attr) = work.await.map_err(|status| export.failed("writing and reading a file", status))?;
    match read == CONTENT {
        true => Ok(attr),
        false => Err(Error::Internal(format!("{} does not return what was written", export.source()))),
    }
}

async fn space<F: Fs>(export: &Export<F>, report: &mut Report) -> bool {
    let tried = "asking for the free space";
    let stat = match export.stat().await {
        Ok(stat) => stat,
        Err(error) => {
            report.add(Step::bad("space", tried, error.to_string(), ""));
            return true;
        }
    };
    let part = |free: u64, total: u64| if total == 0 { 1.0 } else { free as f64 / total as f64 };
    let bytes = part(stat.available_bytes, stat.total_bytes);
    let inodes = part(stat.free_inodes, stat.total_inodes);
    let found = format!(
        "{} of {} MiB and {} of {} inodes are free",
        stat.available_bytes >> 20,
        stat.total_bytes >> 20,
        stat.free_inodes,
        stat.total_inodes
    );
    let advice = "delete what is not needed on the export, or enlarge it";
    let least = f64::min(bytes, inodes);
    report.add(match least {
        0.0 => Step::bad("space", tried, found, advice),
        _ if least < LITTLE => Step::warning("space", tried, found, advice),
        _ => Step::good("space", tried, found),
    });
    least > 0.0
}

/// Who the server takes this process for, and whether it may give files to others.
async fn identity<F: Fs>(export: &Export<F>, place: &Place<F>, file: &Attr, report: &mut Report) {
    let me = rustix::process::geteuid().as_raw();
    let tried = "asking for the owner of what was made";
    if file.uid != me {
        let found = format!("uid {me} is uid {} on the server", file.uid);
        let advice = "the server squashes: parameters `uid` and `gid`, `fsGroup`, and copies of files of other owners are \
                      refused; export with no_root_squash to have them";
        report.add(Step::warning("squash", tried, found, advice));
        return;
    }
    let give = SetAttr { uid: Some(OTHER), gid: Some(OTHER), ..SetAttr::default() };
    report.add(match export.fs().setattr(&place.dir, give).await {
        Ok(()) => Step::good("squash", tried, format!("uid {me} is itself, and may give files to others")),
        Err(status) => Step::warning(
            "squash",
            tried,
            format!("giving a directory to uid {OTHER}: {status}"),
            "parameters `uid` and `gid` and `fsGroup` are refused; run as root, and export with no_root_squash",
        ),
    });
}

fn clock(file: &Attr, report: &mut Report) {
    let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let ahead = file.mtime.seconds - i64::try_from(here).unwrap_or(i64::MAX);
    let tried = "comparing the clocks";
    report.add(match ahead.abs() <= SKEW {
        true => Step::good("clock", tried, format!("they differ by at most {SKEW} s")),
        false => Step::warning(
            "clock",
            tried,
            format!("the server's clock is {} s {}", ahead.abs(), if ahead > 0 { "ahead" } else { "behind" }),
            "set both by NTP: times of files and snapshots are the server's, and Kerberos needs equal clocks",
        ),
    });
}

/// Whether a lock of one connection keeps another one out.
async fn locks<F: Fs>(export: &Export<F>, other: Option<&Export<F>>, place: &Place<F>, report: &mut Report) {
    let tried = "locking a byte on two connections";
    if !export.fs().locks_are_shared() {
        let advice = "controllers cannot exclude each other: run one, or mount with version 4, or with `lock` where the \
                      server has lockd";
        report.add(Step::warning("locks", tried, "locks of version 3 stay on this machine", advice));
        return;
    }
    let hold = async |export: &Export<F>, dir: &F::Handle| {
        let fs = export.fs();
        let (file, _) = fs.open_or_create(dir, &Name::new("lock")?, 0o600).await?;
        Ok::<_, Status>((fs.try_lock(&file, 1, LockMode::Exclusive).await?, file))
    };
    let work = async {
        // The first lock lasts as long as its file is open.
        let (first, _file) = hold(export, &place.dir).await?;
        let second = match other {
            Some(other) => hold(other, &place.on(other).await?.ok_or(Status::NoEnt)?).await?.0,
            None => hold(export, &place.dir).await?.0,
        };
        Ok::<_, Status>((first, second))
    };
    let advice = "two controllers would change one volume at the same time: run one (controller.replicas=1), or use a \
                  server that locks";
    report.add(match work.await {
        Ok((true, false)) => Step::good("locks", tried, "the second has to wait for the first"),
        Ok((true, true)) => Step::bad("locks", tried, "both have the lock", advice),
        Ok((false, _)) => Step::bad("locks", tried, "the first lock is refused", advice),
        Err(status) => Step::bad("locks", tried, status.to_string(), advice),
    });
}

/// What the server can. Nothing of it is needed.
async fn features<F: Fs>(export: &Export<F>, place: &Place<F>, report: &mut Report) {
    let fs = export.fs();
    let clones = async {
        let (source, _) = fs.open(&place.dir, &Name::new("file")?, OpenMode::Read).await?;
        let (target, _) = fs.create(&place.dir, &Name::new("clone")?, 0o600).await?;
        fs.clone_file(&source, &target).await
    };
    let clones = match clones.await {
        Ok(_) => "the server clones files (CLONE): snapshots cost no time and no space",
        Err(_) => "the server does not clone files (CLONE): snapshots and clones are copies",
    };
    let xattrs = match fs.list_xattrs(&place.dir).await {
        Ok(_) => "it has extended attributes",
        Err(_) => "it has no extended attributes",
    };
    report.add(Step::good("features", "trying what the server can", format!("{clones}; {xattrs}")));
}

async fn agent<F: Fs>(export: &Export<F>, report: &mut Report) {
    let tried = "looking for the quota agent";
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    report.add(match quota::agent(export).await {
        Ok(None) => Step::good("agent", tried, "there is none: sizes are recorded, and nothing enforces them"),
        Ok(Some(agent)) => {
            let age = now.saturating_sub(agent.looked);
            let found = format!("version {} on {}, which last looked {age} s ago", agent.version, agent.file_system);
            match age > 3 * agent.period.max(1) && agent.looked > 0 {
                false => Step::good("agent", tried, found),
                true => {
                    Step::bad("agent", tried, found, "start `csi-nfs agent` on the server: new limits are not enforced")
                }
            }
        }
        Err(error) => Step::bad("agent", tried, error.to_string(), ""),
    });
}

impl<F: Fs> Place<F> {
    /// The directory on another connection; `None` if it is not there.
    async fn on(&self, other: &Export<F>) -> Result<Option<F::Handle>, Status> {
        let fs = other.fs();
        let mut dir = fs.root();
        for name in &self.path {
            match fs.lookup(&dir, name).await {
                Ok((next, _)) => dir = next,
                Err(Status::NoEnt) => return Ok(None),
                Err(status) => return Err(status),
            }
        }
        Ok(Some(dir))
    }

    /// Whether another address of the server shows what was made.
    pub async fn is_seen_by(&self, other: &Export<F>, tried: &str) -> Step {
        match self.on(other).await {
            Ok(Some(_)) => Step::good("addresses", tried, "it is there"),
            Ok(None) => Step::bad(
                "addresses",
                tried,
                "it is not there",
                "the name leads to servers with different content: let it lead to one of them",
            ),
            Err(status) => Step::bad("addresses", tried, status.to_string(), "let every address serve the export"),
        }
    }

    /// Removes everything that was made.
    pub async fn remove(self, export: &Export<F>) -> Step {
        let fs = export.fs();
        let tried = "removing what was made";
        let work = async {
            for file in ["file", "lock", "clone"] {
                match fs.unlink(&self.dir, &Name::new(file)?).await {
                    Ok(()) | Err(Status::NoEnt) => {}
                    Err(status) => return Err(status),
                }
            }
            let Some(last) = self.path.last() else { return Ok(()) };
            // A file that was open a moment ago stays as `.nfs…` until the kernel has closed it.
            for _ in 1..CLOSING {
                match fs.rmdir(&self.parent, last).await {
                    Err(Status::NotEmpty) => tokio::time::sleep(PAUSE).await,
                    removed => return removed,
                }
            }
            fs.rmdir(&self.parent, last).await
        };
        match work.await {
            Ok(()) => Step::good("clean", tried, "done"),
            Err(status) => {
                let path = self.path.iter().map(Name::to_string).collect::<Vec<_>>().join("/");
                Step::bad("clean", tried, format!("`{path}` stays: {status}"), "remove it by hand")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::doctor::report::Verdict;
    use crate::export::fs::Time;
    use crate::testing::crash_harness::{connect, reach};
    use crate::testing::memory::{MemoryServer, Node};

    /// Examines the export twice: as it is, and with the driver's directories. Returns what is not good, both times.
    async fn complaints(server: &MemoryServer) -> Vec<(&'static str, Verdict)> {
        let mut complaints = Vec::new();
        for with_layout in [false, true] {
            let export = connect(server);
            if with_layout && reach(server).make_layout().await.is_err() {
                continue;
            }
            let before = server.tree();
            let mut report = Report { export: String::new(), steps: Vec::new() };
            if let Some(place) = examine(&export, Some(&connect(server)), &mut report).await {
                assert!(place.is_seen_by(&connect(server), "").await.verdict == Verdict::Good);
                report.add(place.remove(&export).await);
            }
            assert_eq!(server.tree().paths(), before.paths(), "nothing stays");
            complaints.extend(
                report.steps.iter().filter(|step| step.verdict != Verdict::Good).map(|step| (step.step, step.verdict)),
            );
        }
        complaints.dedup();
        complaints
    }

    fn now() -> i64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed()
    }

    #[rstest]
    #[case::healthy(|_: &MemoryServer| {}, None)]
    #[case::squashed(|server: &MemoryServer| server.set_root_squash(true), Some(("squash", Verdict::Warning)))]
    #[case::read_only(|server: &MemoryServer| server.set_read_only(true), Some(("write", Verdict::Bad)))]
    #[case::full(|server: &MemoryServer| server.set_capacity(1, 100), Some(("space", Verdict::Bad)))]
    #[case::no_inodes(|server: &MemoryServer| server.set_capacity(1 << 30, 1), Some(("space", Verdict::Bad)))]
    #[case::cannot_clone(|server: &MemoryServer| server.set_clone_supported(false), None)]
    #[case::no_xattrs(|server: &MemoryServer| server.set_xattrs_supported(false), None)]
    #[case::no_locks(|server: &MemoryServer| server.set_locks_supported(false), Some(("locks", Verdict::Bad)))]
    #[case::ahead(
        |server: &MemoryServer| server.set_clock(Time { seconds: now() + 60, nanoseconds: 0 }),
        Some(("clock", Verdict::Warning))
    )]
    #[case::agent_gone(
        |server: &MemoryServer| {
            let agent = r#"{"version":"1","fileSystem":"xfs","holdsRoot":true,"looked":1000,"period":60}"#;
            server.plant(".csi-nfs/quota/agent.json", Node::file(0o600, agent)).unwrap();
        },
        Some(("agent", Verdict::Bad))
    )]
    #[tokio::test]
    async fn a_fault_is_named_and_nothing_else(
        #[case] fault: impl Fn(&MemoryServer),
        #[case] expected: Option<(&'static str, Verdict)>,
    ) {
        let server = MemoryServer::with_capacity(1 << 30, 1000);
        server.set_clock(Time { seconds: now(), nanoseconds: 0 });
        server.plant("volume/file", Node::file(0o600, "x")).unwrap();
        let (fs, mode) = (server.client(), SetAttr { mode: Some(0o777), ..SetAttr::default() });
        fs.setattr(&fs.root(), mode).await.unwrap();
        fault(&server);
        assert_eq!(complaints(&server).await, expected.into_iter().collect::<Vec<_>>());
    }
}
