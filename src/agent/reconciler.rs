//! Brings the projects of a file system into agreement with the records of an export.
//!
//! For each volume, in this order, so that the next start finishes what a crash cut short: the directory gets a project ID,
//! the ID its limits, what is in the directory already the ID, and then the answer says so. An ID is in use as long as
//! an answer names it, a limit is set on it, or anything belongs to it: that is asked of the file system, so that no list
//! of IDs has to be kept. Records are hostile input: only directories below the export are touched, and no link is followed.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::yield_now;

use crate::agent::answers::{Answers, NONE};
use crate::agent::projects::{Project, Projects};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsResult, Kind, Name, OpenMode, Status, gone};
use crate::export::layout;
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::limits::Limits;
use crate::volume::quota::{Agent, Answer, read_in};
use crate::volume::record::Record;
use crate::volume::record_file::{RecordFile as _, now};

/// Directories inside one another, at most: each is a descriptor while the tree is walked.
const DEPTH: usize = 4096;

/// Held from the search for a free ID until the file system shows that it is in use: several exports may be on one file system.
pub type Ids = Arc<Mutex<()>>;

/// An export and the projects of its file system.
pub struct Reconciler<F: Fs, P: Projects<F>> {
    pub(super) export: Export<F>,
    pub(super) projects: P,
    /// The IDs that may be given to volumes.
    pub(super) range: RangeInclusive<u32>,
    pub(super) quota: F::Handle,
    answers: F::Handle,
    pub(super) ids: Ids,
    /// The answers there are.
    known: Answers,
    /// How many times all volumes were looked at.
    looks: u64,
    /// The ID of what snapshots take.
    pub(super) snapshots: Option<u32>,
}

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Opens the agent's directory on an export that has a private one; `None` where there is none yet. Who holds the lock
    /// of its file `lock` is the one that works.
    pub async fn open(export: Export<F>, projects: P, range: RangeInclusive<u32>, ids: Ids) -> Result<Option<Self>> {
        let root = export.fs().root();
        let path = [name(SubDir::PRIVATE)?];
        let Some(private) = export.find_dir(&root, path).await? else { return Ok(None) };
        // For a driver whose root is squashed to read; what is above it is the driver's alone.
        let quota = export.make_dirs(&private, [name("quota")?], 0o755).await?;
        let answers = export.make_dirs(&quota, [name("volumes")?], 0o755).await?;
        let (known, looks, snapshots) = (Answers::default(), 0, None);
        Ok(Some(Self { export, projects, range, quota, answers, ids, known, looks, snapshots }))
    }

    /// The file whose lock says which agent works.
    pub async fn lock_file(&self) -> Result<F::Handle> {
        let opened = layout::lock_file(self.export.fs(), &self.quota, true).await;
        opened.map_err(|e| self.export.failed("opening `.csi-nfs/quota/lock`", e))
    }

    /// The export.
    pub fn export(&self) -> &Export<F> {
        &self.export
    }

    /// Looks at every volume, and says that it did. Answers whether all is as it should be: what is not is logged, and worth
    /// another look soon.
    pub async fn look_at_all(&mut self, period: Duration) -> Result<bool> {
        if self.looks == 0 {
            self.show_itself(0, period).await?;
        }
        self.known = Answers::default();
        for file in self.export.names(&self.answers).await? {
            let Some(volume) = Record::of_file(&file) else { continue };
            if let Some(answer) = self.answer(&volume).await? {
                self.known.insert(volume, answer);
            }
        }
        // Before IDs are given to volumes: its own is none of theirs.
        let mut all = self.count_snapshots().await;
        let mut volumes = Record::names(&self.export).await?;
        volumes.extend(self.known.volumes().cloned());
        volumes.sort_unstable();
        volumes.dedup();
        for volume in volumes {
            all &= self.look_at(&volume).await;
            // Nothing here waits: others have their turn.
            yield_now().await;
        }
        self.looks += 1;
        self.show_itself(now(), period).await?;
        Ok(all)
    }

    /// Says who works here, and when it was last through.
    async fn show_itself(&self, looked: u64, period: Duration) -> Result<()> {
        let fs = self.projects.kind();
        let agent = Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file_system: fs.name().to_owned(),
            holds_root: fs.holds_root(),
            looked,
            looks: self.looks,
            period: period.as_secs(),
        };
        self.write(&self.quota, &name("agent.json")?, &agent).await
    }

    /// Looks at one volume. Answers whether it is as it should be.
    pub async fn look_at(&mut self, volume: &VolumeName) -> bool {
        let had = self.known.get(volume).is_some();
        let mut all = self.try_settle(volume).await;
        if had && self.known.get(volume).is_none() {
            // Who shared its directory takes its place.
            for other in self.known.naming(NONE).cloned().collect::<Vec<_>>() {
                all &= self.try_settle(&other).await;
            }
        }
        all
    }

    async fn try_settle(&mut self, volume: &VolumeName) -> bool {
        match self.settle(volume).await {
            Ok(settled) => settled,
            Err(error) => {
                tracing::warn!(%volume, %error, "the volume's limits are not set; will be tried again");
                false
            }
        }
    }

    async fn settle(&mut self, volume: &VolumeName) -> Result<bool> {
        let record = match Record::read(&self.export, volume).await {
            Ok(Some(record)) => record,
            Ok(None) => return self.release(volume).await.map(|()| true),
            // Written by a newer driver perhaps: what is in force stays in force.
            Err(error) => return Err(error),
        };
        let wanted = record.limits();
        if !wanted.any() {
            return self.release(volume).await.map(|()| true);
        }
        let sub_dir = &record.id.sub_dir;
        let Some(directory) = self.export.find_dir(&self.export.fs().root(), sub_dir.names()).await? else {
            // A record is written after its directory is made: this one is about to go.
            return Ok(true);
        };
        let failed = |action: &str, status| self.export.failed(format!("{action} of volume `{volume}`"), status);
        let (project, inherited) =
            self.projects.of(&directory).await.map_err(|e| failed("reading the project ID", e))?;
        let rounded = wanted.rounded();
        let known = self.known.get(volume).cloned();
        if let Some(answer) = &known
            && answer.reason.is_none()
            && (answer.limits, answer.project, true) == (wanted, project, inherited)
            && self.used(project).await?.limits == rounded
        {
            return Ok(true);
        }
        if let Some(other) = self.known.other(project, volume)
            && Record::read(&self.export, other).await?.is_some_and(|record| record.id.sub_dir == *sub_dir)
        {
            let reason = format!("its directory is that of volume `{other}` too, whose limit holds");
            self.answer_with(volume, NONE, Err(reason)).await?;
            return Ok(true);
        }
        let before = known.as_ref().map(|answer| answer.project).filter(|id| self.range.contains(id));
        // The directory's own is of an earlier life, perhaps cut short before its answer, if no other answer names it.
        let ours = |id: &u32| self.range.contains(id) && self.snapshots != Some(*id);
        let own = Some(project).filter(|id| inherited && ours(id) && self.known.other(*id, volume).is_none());
        let ids = self.ids.clone();
        let choosing = ids.lock().await;
        let target = match (own, before) {
            (Some(own), _) => own,
            // What belongs to it is in the trash, or archived: it is not this directory's.
            (None, Some(before)) if !self.used(before).await?.in_use() => before,
            (None, _) => self.free_id().await?,
        };
        if let Some(before) = before.filter(|before| *before != target && self.known.other(*before, volume).is_none()) {
            let freed = self.projects.limit(before, Limits::default()).await;
            freed.map_err(|e| failed("taking earlier limits away", e))?;
        }
        let limited = self.used(target).await?.limits;
        let walked =
            known.is_some_and(|answer| answer.reason.is_none() && answer.project == target) && project == target;
        let assigned = self.projects.assign(&directory, Kind::Directory, target).await;
        assigned.map_err(|e| failed("setting the project ID", e))?;
        if limited != rounded {
            self.projects.limit(target, wanted).await.map_err(|e| failed("setting the limits", e))?;
        }
        drop(choosing);
        // What was in the directory before it had the ID. Once is enough: later it hands the ID on.
        let walk = if walked { Ok(()) } else { self.walk(directory, target).await };
        let (answer, settled) = match walk {
            Ok(()) => (Ok(wanted), true),
            Err(status) => {
                let why = format!("what is in the directory already cannot all be counted yet: {status}");
                tracing::warn!(%volume, error = %status, "the tree of a volume is not walked to its end; will be tried again");
                (Err(why), false)
            }
        };
        self.answer_with(volume, target, answer).await?;
        if settled {
            tracing::info!(%volume, project = target, bytes = wanted.bytes, inodes = wanted.inodes, "limits are in force");
        }
        Ok(settled)
    }

    /// An ID that nobody uses: neither an answer, nor a limit, nor anything on the file system.
    pub(super) async fn free_id(&self) -> Result<u32> {
        for id in self.known.unnamed(&self.range).filter(|id| self.snapshots != Some(*id)) {
            let project = self.used(id).await?;
            if !project.in_use() && !project.limits.any() {
                return Ok(id);
            }
        }
        Err(Error::Exhausted(format!("no project ID from {} to {} is free", self.range.start(), self.range.end())))
    }

    pub(super) async fn used(&self, id: u32) -> Result<Project> {
        self.projects.get(id).await.map_err(|e| self.export.failed("reading the limits of a project", e))
    }

    /// Takes the limits of a volume away that has none to have; its ID is free when nothing belongs to it any more.
    async fn release(&mut self, volume: &VolumeName) -> Result<()> {
        let answer = match self.known.get(volume) {
            Some(answer) => Some(answer.clone()),
            None => self.answer(volume).await?,
        };
        let Some(answer) = answer else { return Ok(()) };
        if self.range.contains(&answer.project) && self.known.other(answer.project, volume).is_none() {
            let freed = self.projects.limit(answer.project, Limits::default()).await;
            freed.map_err(|e| self.export.failed(format!("taking the limits of volume `{volume}` away"), e))?;
        }
        gone(self.export.fs().unlink(&self.answers, &Record::file(volume)?).await)
            .map_err(|e| self.export.failed(format!("removing the answer of volume `{volume}`"), e))?;
        self.known.remove(volume);
        tracing::info!(%volume, project = answer.project, "limits are taken away");
        Ok(())
    }

    /// Gives everything below a directory the project. What has it already costs a look: a walk that was cut short goes on.
    pub(super) async fn walk(&self, directory: F::Handle, project: u32) -> FsResult<()> {
        let fs = self.export.fs();
        let mut path = vec![Step { dir: directory, next: Some(0), inside: Vec::new() }];
        while let Some(step) = path.last_mut() {
            if let Some(child) = step.inside.pop() {
                let (child, attr) = match fs.lookup(&step.dir, &child).await {
                    Err(Status::NoEnt | Status::Stale) => continue,
                    found => found?,
                };
                if attr.kind != Kind::Directory {
                    continue;
                }
                self.projects.assign(&child, Kind::Directory, project).await?;
                if path.len() >= DEPTH {
                    return Err(Status::NameTooLong);
                }
                path.push(Step { dir: child, next: Some(0), inside: Vec::new() });
                continue;
            }
            let Some(from) = step.next else {
                path.pop();
                continue;
            };
            yield_now().await;
            let page = fs.readdir(&step.dir, from).await?;
            step.next = page.next;
            for entry in page.entries {
                match entry.kind {
                    Some(Kind::Directory) => step.inside.push(entry.name),
                    // What cannot be opened without an effect (links, devices) has no content to count.
                    Some(Kind::File) | None => match fs.open(&step.dir, &entry.name, OpenMode::Read).await {
                        Ok((file, _)) => self.projects.assign(&file, Kind::File, project).await?,
                        Err(Status::IsDir) => step.inside.push(entry.name),
                        Err(Status::NoEnt | Status::Stale | Status::Symlink | Status::WrongType) => {}
                        Err(status) => return Err(status),
                    },
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, volume: &VolumeName) -> Result<Option<Answer>> {
        read_in(&self.export, &self.answers, &Record::file(volume)?).await
    }

    async fn answer_with(
        &mut self,
        volume: &VolumeName,
        project: u32,
        limits: std::result::Result<Limits, String>,
    ) -> Result<()> {
        let (limits, reason) = match limits {
            Ok(limits) => (limits, None),
            Err(reason) => (Limits::default(), Some(reason)),
        };
        let same = |answer: &Answer| (answer.project, answer.limits, &answer.reason) == (project, limits, &reason);
        if !self.known.get(volume).is_some_and(same) {
            let answer = Answer { project, limits, since: now(), reason };
            self.write(&self.answers, &Record::file(volume)?, &answer).await?;
            self.known.insert(volume.clone(), answer);
        }
        Ok(())
    }

    pub(super) async fn write(&self, dir: &F::Handle, file: &Name, value: &impl serde::Serialize) -> Result<()> {
        let content = serde_json::to_vec(value).map_err(|e| Error::Internal(format!("writing `{file}`: {e}")))?;
        // Half-written under a name that none of the agent's files has.
        self.export.replace_small((&self.quota, &name("new")?), (dir, file), 0o644, content).await
    }
}

/// A directory of a walk, and what is still to do in it.
struct Step<H> {
    dir: H,
    next: Option<u64>,
    inside: Vec<Name>,
}

pub(super) fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| Error::Internal(format!("`{}`: {status}", text.escape_debug())))
}
