//! Sets project IDs and limits on a file system to match the records of an export.
//!
//! For each volume, the agent gives the directory a project ID, sets the limits of the ID, gives the ID to everything
//! in the directory, and then writes its answer. In this order, the next start can finish what a crash interrupted. An
//! ID is in use while an answer names it, it has a limit, or any object belongs to it. The answers and the file system
//! show this, so the agent keeps no list of IDs. Records are hostile input: the agent changes only directories below
//! the export, and follows no link.

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

/// The maximum depth of a tree. Each level holds a descriptor during the walk.
const DEPTH: usize = 4096;

/// The lock on the choice of a project ID, held from the search for a free ID until the file system shows the ID as
/// used. Several exports may be on one file system.
pub type Ids = Arc<Mutex<()>>;

/// An export and the projects of its file system.
pub struct Reconciler<F: Fs, P: Projects<F>> {
    pub(super) export: Export<F>,
    pub(super) projects: P,
    /// The project IDs that volumes may get.
    pub(super) range: RangeInclusive<u32>,
    pub(super) quota: F::Handle,
    answers: F::Handle,
    pub(super) ids: Ids,
    /// The answers that exist.
    known: Answers,
    /// How many times all volumes were checked.
    looks: u64,
    /// The project ID of snapshots.
    pub(super) snapshots: Option<u32>,
}

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Opens the agent's directory on an export. Returns `None` if the export has no private directory yet. Only the
    /// agent that holds the lock on [`Self::lock_file`] may change limits.
    pub async fn open(export: Export<F>, projects: P, range: RangeInclusive<u32>, ids: Ids) -> Result<Option<Self>> {
        let root = export.fs().root();
        let path = [name(SubDir::PRIVATE)?];
        let Some(private) = export.find_dir(&root, path).await? else { return Ok(None) };
        // A driver whose root is squashed must read the answers. Only the driver can enter the directory above.
        let quota = export.make_dirs(&private, [name("quota")?], 0o755).await?;
        let answers = export.make_dirs(&quota, [name("volumes")?], 0o755).await?;
        let (known, looks, snapshots) = (Answers::default(), 0, None);
        Ok(Some(Self { export, projects, range, quota, answers, ids, known, looks, snapshots }))
    }

    /// The file whose lock decides which agent changes limits.
    pub async fn lock_file(&self) -> Result<F::Handle> {
        let opened = layout::lock_file(self.export.fs(), &self.quota, true).await;
        opened.map_err(|e| self.export.failed("opening `.csi-nfs/quota/lock`", e))
    }

    /// The export.
    pub fn export(&self) -> &Export<F> {
        &self.export
    }

    /// Checks every volume, and records the time of the check. Returns whether every volume is in order. If not, the
    /// problems are in the log, and the caller should check again soon.
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
        // Read the project ID of snapshots first, so that no volume gets it.
        let mut all = self.count_snapshots().await;
        let mut volumes = Record::names(&self.export).await?;
        volumes.extend(self.known.volumes().cloned());
        volumes.sort_unstable();
        volumes.dedup();
        for volume in volumes {
            all &= self.look_at(&volume).await;
            // The calls run on this thread and never yield, so without this no other task would run.
            yield_now().await;
        }
        self.looks += 1;
        self.show_itself(now(), period).await?;
        Ok(all)
    }

    /// Writes `agent.json`: the agent's version, and when it last checked all volumes.
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

    /// Checks one volume. Returns whether it is in order.
    pub async fn look_at(&mut self, volume: &VolumeName) -> bool {
        let had = self.known.get(volume).is_some();
        let mut all = self.try_settle(volume).await;
        if had && self.known.get(volume).is_none() {
            // The volume is gone, so another volume of the same directory can get limits.
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
                tracing::warn!(%volume, %error, "setting the volume's limits failed; the agent retries");
                false
            }
        }
    }

    async fn settle(&mut self, volume: &VolumeName) -> Result<bool> {
        let record = match Record::read(&self.export, volume).await {
            Ok(Some(record)) => record,
            Ok(None) => return self.release(volume).await.map(|()| true),
            // A newer driver may have written the record, so the current limits stay.
            Err(error) => return Err(error),
        };
        let wanted = record.limits();
        if !wanted.any() {
            return self.release(volume).await.map(|()| true);
        }
        let sub_dir = &record.id.sub_dir;
        let Some(directory) = self.export.find_dir(&self.export.fs().root(), sub_dir.names()).await? else {
            // A record is written after its directory is created, so this volume is being deleted.
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
            let reason = format!("it shares its directory with volume `{other}`, whose limit is enforced");
            self.answer_with(volume, NONE, Err(reason)).await?;
            return Ok(true);
        }
        let before = known.as_ref().map(|answer| answer.project).filter(|id| self.range.contains(id));
        // An interrupted attempt may have set the ID on the directory without an answer. The directory keeps this ID if
        // no other answer names it.
        let ours = |id: &u32| self.range.contains(id) && self.snapshots != Some(*id);
        let own = Some(project).filter(|id| inherited && ours(id) && self.known.other(*id, volume).is_none());
        let ids = self.ids.clone();
        let choosing = ids.lock().await;
        let target = match (own, before) {
            (Some(own), _) => own,
            // An earlier ID that is in use belongs to objects in the trash or in an archive, so it is not reused.
            (None, Some(before)) if !self.used(before).await?.in_use() => before,
            (None, _) => self.free_id().await?,
        };
        if let Some(before) = before.filter(|before| *before != target && self.known.other(*before, volume).is_none()) {
            let freed = self.projects.limit(before, Limits::default()).await;
            freed.map_err(|e| failed("removing earlier limits", e))?;
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
        // Existing objects get the ID. One walk is enough, because new objects inherit the ID.
        let walk = if walked { Ok(()) } else { self.walk(directory, target).await };
        let (answer, settled) = match walk {
            Ok(()) => (Ok(wanted), true),
            Err(status) => {
                let why = format!("not everything in the directory could be counted yet: {status}");
                tracing::warn!(%volume, error = %status, "accounting objects of the volume failed; the agent retries");
                (Err(why), false)
            }
        };
        self.answer_with(volume, target, answer).await?;
        if settled {
            let Limits { bytes, inodes } = wanted;
            tracing::info!(%volume, project = target, bytes, inodes, "limits are enforced");
        }
        Ok(settled)
    }

    /// A project ID that is not in use: no answer names it, it has no limit, and no object belongs to it.
    pub(super) async fn free_id(&self) -> Result<u32> {
        for id in self.known.unnamed(&self.range).filter(|id| self.snapshots != Some(*id)) {
            let project = self.used(id).await?;
            if !project.in_use() && !project.limits.any() {
                return Ok(id);
            }
        }
        Err(Error::Exhausted(format!(
            "no project ID from {} to {} is free: give the agent a larger range with --project-ids",
            self.range.start(),
            self.range.end()
        )))
    }

    pub(super) async fn used(&self, id: u32) -> Result<Project> {
        self.projects.get(id).await.map_err(|e| self.export.failed("reading the limits of a project", e))
    }

    /// Removes the limits of a volume that should have none. Its ID becomes free once no object belongs to it.
    async fn release(&mut self, volume: &VolumeName) -> Result<()> {
        let answer = match self.known.get(volume) {
            Some(answer) => Some(answer.clone()),
            None => self.answer(volume).await?,
        };
        let Some(answer) = answer else { return Ok(()) };
        if self.range.contains(&answer.project) && self.known.other(answer.project, volume).is_none() {
            let freed = self.projects.limit(answer.project, Limits::default()).await;
            freed.map_err(|e| self.export.failed(format!("removing the limits of volume `{volume}`"), e))?;
        }
        gone(self.export.fs().unlink(&self.answers, &Record::file(volume)?).await)
            .map_err(|e| self.export.failed(format!("removing the answer of volume `{volume}`"), e))?;
        self.known.remove(volume);
        tracing::info!(%volume, project = answer.project, "limits are removed");
        Ok(())
    }

    /// Assigns everything below a directory to the project. Repeating an interrupted walk is cheap, because objects
    /// that have the project already are only read.
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
                    // Links and devices have no content to account, and opening them has side effects.
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
        // `new` is a temporary name that no other file of the agent has.
        self.export.replace_small((&self.quota, &name("new")?), (dir, file), 0o644, content).await
    }
}

/// A directory on the path of a walk: its next page, and its subdirectories that the walk has not entered.
struct Step<H> {
    dir: H,
    next: Option<u64>,
    inside: Vec<Name>,
}

pub(super) fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| Error::Internal(format!("`{}`: {status}", text.escape_debug())))
}
