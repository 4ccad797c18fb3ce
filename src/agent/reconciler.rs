//! Sets project IDs and limits on a file system to match the records of an export: what there is to do, and in which
//! order.
//!
//! Work is done in steps. Between two of them, the caller tells what has changed. A step does the most urgent thing:
//! first new records and then changes (`Queue`), then a part of a look at everything (`Look`) or of a walk through a
//! tree (`Walk`), in turn. So neither a walk through millions of files nor a look at all volumes holds up a limit
//! that a call waits for, and what fails holds up nothing else.
//!
//! Records are hostile input: the agent changes only directories below the export, and follows no link.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::agent::answers::Answers;
use crate::agent::look::Look;
use crate::agent::progress::Progress;
use crate::agent::projects::{Project, Projects};
use crate::agent::queue::{Item, Queue, Urgency};
use crate::agent::walk::{Purpose, Walk};
use crate::agent::watch::Change;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsResult, Name, Status};
use crate::export::layout;
use crate::export::progress::Figures;
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::quota::{self, SNAPSHOTS, Snapshots, read_in};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// What failed, in the error of [`Item::Directories`].
pub(super) const DISINHERITING: &str = "taking an inherited project off `.csi-nfs`";
/// How many steps of a walk (see [`Walk::slice`]) are done at once: about a millisecond of work.
const SLICE: usize = 16;
/// After a record changed, looks and walks leave the processor and the disk to the driver for this long: they pause for
/// so many times as long as each of their steps took.
const BUSY: Duration = Duration::from_millis(200);
const SHARE: u32 = 3;
/// How many walks are under way at the same time. Each takes memory and descriptors; the others wait.
const WALKS: usize = 4;

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
    pub(super) answers: F::Handle,
    pub(super) ids: Ids,
    /// The answers that exist.
    pub(super) known: Answers,
    /// Whether all answers were read once. Until then, an ID may be in an answer that is not known.
    pub(super) loaded: bool,
    /// The volumes that wait until all answers are read.
    pub(super) deferred: Vec<VolumeName>,
    /// The project ID of snapshots.
    pub(super) snapshots: Option<u32>,
    pub(super) queue: Queue,
    pub(super) look: Option<Look>,
    /// Whether another look was asked for during the present one.
    pub(super) look_again: bool,
    /// How many looks have ended.
    pub(super) looks: u64,
    /// The volumes whose limits do not agree with their records yet.
    behind: BTreeSet<VolumeName>,
    /// When the last look ended, and when the last answer was written.
    pub(super) looked: u64,
    pub(super) answered: u64,
    /// How many objects the last look was about.
    pub(super) looked_at: Option<u64>,
    walks: VecDeque<Job<F>>,
    /// The items that have to walk, and wait until another walk ends.
    waiting: VecDeque<Item>,
    /// Whose turn it is: that of the walks, or that of the look.
    walks_turn: bool,
    /// When a record last changed.
    changed: Option<Instant>,
    /// When looks and walks go on.
    resumes: Instant,
}

/// A walk under way, and what it is for.
struct Job<F: Fs> {
    item: Item,
    walk: Walk<F>,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It did something, and there may be more to do.
    Worked,
    /// There is nothing to do until then, or until something changes.
    Idle(Option<Instant>),
}

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Opens the agent's directory on an export. Returns `None` if the export has no private directory yet. Only the
    /// agent that holds the lock on [`Self::lock_file`] may take steps. The first step begins a look at everything.
    pub async fn open(export: Export<F>, projects: P, range: RangeInclusive<u32>, ids: Ids) -> Result<Option<Self>> {
        let root = export.fs().root();
        let path = [name(SubDir::PRIVATE)?];
        let Some(private) = export.find_dir(&root, path).await? else { return Ok(None) };
        // A driver whose root is squashed must read the answers. Only the driver can enter the directory above.
        let quota = export.make_dirs(&private, [name("quota")?], 0o755).await?;
        let answers = export.make_dirs(&quota, [name("volumes")?], 0o755).await?;
        // No volume may get the project ID of snapshots.
        let snapshots: Option<Snapshots> = read_in(&export, &quota, &name(SNAPSHOTS)?).await?;
        let snapshots = snapshots.map(|snapshots| snapshots.project).filter(|id| range.contains(id));
        let mut queue = Queue::default();
        queue.push(Item::Look, Urgency::Change);
        Ok(Some(Self {
            export,
            projects,
            range,
            quota,
            answers,
            ids,
            known: Answers::default(),
            loaded: false,
            deferred: Vec::new(),
            snapshots,
            queue,
            look: None,
            look_again: false,
            looks: 0,
            behind: BTreeSet::new(),
            looked: 0,
            answered: 0,
            looked_at: None,
            walks: VecDeque::new(),
            waiting: VecDeque::new(),
            walks_turn: false,
            changed: None,
            resumes: Instant::now(),
        }))
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

    /// How the work stands.
    pub fn progress(&self) -> Progress {
        Progress {
            is_active: true,
            answered: self.answered,
            looked: self.looked,
            volumes_behind: self.behind.len(),
            walks: self.walks.len(),
            walks_waiting: self.waiting.len(),
            walked: self.walks.iter().map(|job| job.walk.figures().done.entries).sum(),
            look: self.look.as_ref().map(|look| look.progress.figures()),
        }
    }

    /// What takes long: what it is about, and how far it is.
    pub fn under_way(&self) -> Vec<(String, Figures)> {
        let walks = self.walks.iter().map(|job| (format!("counting what is in {}", job.item), job.walk.figures()));
        let look = self.look.iter().map(|look| ("looking at all volumes".to_owned(), look.progress.figures()));
        walks.chain(look).collect()
    }

    /// Notes what has changed in the directory of records.
    pub fn records_changed(&mut self, change: &Change) {
        let Change::Names(names) = change else { return self.queue.push(Item::Look, Urgency::Change) };
        let look = quota::look();
        for name in names {
            match Record::of_file(name) {
                Some(volume) => {
                    self.changed = Some(Instant::now());
                    self.behind.insert(volume.clone());
                    let is_new = self.known.get(&volume).is_none();
                    let urgency = if is_new { Urgency::New } else { Urgency::Change };
                    self.queue.push(Item::Volume(volume), urgency);
                }
                None if look.as_ref() == Ok(name) => self.queue.push(Item::Look, Urgency::Change),
                None => {}
            }
        }
    }

    /// Notes what has changed in the directory of snapshots.
    pub fn snapshots_changed(&mut self, change: &Change) {
        let Change::Names(names) = change else { return self.queue.push(Item::Look, Urgency::Change) };
        for name in names.iter().filter(|name| VolumeName::of_file(name, ".tree").is_some()) {
            self.queue.push(Item::Snapshot(name.clone()), Urgency::Change);
        }
        self.queue.push(Item::Usage, Urgency::Change);
    }

    /// Does the most urgent thing. What fails is in the log, and is tried again after a pause.
    pub async fn step(&mut self) -> Step {
        let began = Instant::now();
        if let Some(item) = self.queue.pop(began) {
            self.perform(item).await;
            return Step::Worked;
        }
        if began < self.resumes {
            return Step::Idle(Some(self.queue.next_due().map_or(self.resumes, |due| due.min(self.resumes))));
        }
        self.walks_turn = !self.walks_turn;
        let worked = match self.walks_turn {
            true => self.walk_on().await || self.look_on().await,
            false => self.look_on().await || self.walk_on().await,
        };
        if !worked {
            return Step::Idle(self.queue.next_due());
        }
        if self.changed.is_some_and(|changed| began.duration_since(changed) < BUSY) {
            self.resumes = Instant::now() + began.elapsed() * SHARE;
        }
        Step::Worked
    }

    pub(super) async fn perform(&mut self, item: Item) {
        let done = self.attempt(&item, None).await;
        self.end(item, done);
    }

    /// `walked` is what a walk for this item has just done to everything in its directory. Returns whether nothing is
    /// left to do: a walk may be under way.
    async fn attempt(&mut self, item: &Item, walked: Option<Purpose>) -> Result<bool> {
        let project = match walked {
            Some(Purpose::Assign(project)) => Some(project),
            Some(Purpose::Disinherit) | None => None,
        };
        match item {
            Item::Volume(volume) => self.settle(volume, project).await,
            Item::Snapshot(tree) => self.count_tree(tree, project).await,
            Item::Directories => self.disinherit(walked.is_some()).await,
            Item::Usage => self.report_usage().await.map(|()| true),
            // Its end is that of the look.
            Item::Look => self.begin_look().await.map(|()| false),
        }
    }

    fn end(&mut self, item: Item, done: Result<bool>) {
        if let Item::Volume(volume) = &item {
            match done {
                Ok(true) => drop(self.behind.remove(volume)),
                Ok(false) | Err(_) => drop(self.behind.insert(volume.clone())),
            }
        }
        match done {
            Ok(true) => self.queue.done(&item),
            Ok(false) => {}
            Err(error) => {
                match &item {
                    Item::Volume(volume) => {
                        tracing::warn!(%volume, %error, "setting the volume's limits failed; the agent retries")
                    }
                    Item::Snapshot(snapshot) => {
                        tracing::warn!(%snapshot, %error, "accounting a snapshot failed; the agent retries")
                    }
                    Item::Usage => tracing::warn!(%error, "reporting the space of snapshots failed; the agent retries"),
                    Item::Directories => tracing::warn!(%error, "the agent retries"),
                    Item::Look => tracing::warn!(%error, "looking at all volumes failed; the agent retries"),
                }
                self.queue.failed(item, Instant::now());
            }
        }
    }

    /// Begins a walk for an item, unless it is under way, with its first slice. Returns whether the walk has ended.
    pub(super) async fn walk(&mut self, item: Item, mut walk: Walk<F>) -> FsResult<bool> {
        if self.walks.iter().any(|job| job.item == item && job.walk.purpose() == walk.purpose()) {
            return Ok(false);
        }
        self.stop_walk(&item);
        if walk.slice(self.export.fs(), &self.projects, SLICE).await? {
            return Ok(true);
        }
        if self.walks.len() < WALKS {
            self.walks.push_back(Job { item, walk });
        } else if !self.waiting.contains(&item) {
            self.waiting.push_back(item);
        }
        Ok(false)
    }

    /// Ends the walk for an item, if there is one.
    pub(super) fn stop_walk(&mut self, item: &Item) {
        self.walks.retain(|job| job.item != *item);
    }

    /// Goes on with a walk. Returns whether there was one.
    async fn walk_on(&mut self) -> bool {
        if self.walks.len() < WALKS
            && let Some(item) = self.waiting.pop_front()
        {
            self.queue.push(item, Urgency::Change);
            return true;
        }
        let Some(mut job) = self.walks.pop_front() else { return false };
        match job.walk.slice(self.export.fs(), &self.projects, SLICE).await {
            Ok(false) => {
                self.walks.push_back(job);
                return true;
            }
            Ok(true) => {
                let done = self.attempt(&job.item, Some(job.walk.purpose())).await;
                self.end(job.item, done);
            }
            // The directory was removed, or a part of it was moved.
            Err(status @ (Status::NoEnt | Status::Stale)) => {
                tracing::debug!(item = ?job.item, error = %status, "a walk begins again");
                self.queue.failed(job.item, Instant::now());
            }
            Err(status) => {
                let error = self.walk_failed(&job.item, job.walk.purpose(), status).await;
                self.end(job.item, Err(error));
            }
        }
        true
    }

    async fn walk_failed(&mut self, item: &Item, purpose: Purpose, status: Status) -> Error {
        match (item, purpose) {
            (Item::Volume(volume), Purpose::Assign(project)) => self.not_counted(volume, project, status).await,
            (Item::Snapshot(tree), _) => self.export.failed(format!("counting what is in `{tree}`"), status),
            _ => self.export.failed(DISINHERITING, status),
        }
    }

    /// A project ID that is not in use: no known answer names it, it has no limit, and no object belongs to it.
    pub(super) async fn free_id(&self) -> Result<u32> {
        let (first, last) = (*self.range.start(), *self.range.end());
        // Volumes get their IDs one after the other. As long as the answers are not all known, doubling distances lead
        // past those that are in use.
        let leaps = (0..u32::BITS).filter(|_| !self.loaded).filter_map(|bit| first.checked_add((1 << bit) - 1));
        let leaps = leaps.filter(|id| *id <= last);
        for id in leaps.chain(self.known.unnamed(&self.range)).filter(|id| self.snapshots != Some(*id)) {
            let project = self.used(id).await?;
            if !project.in_use() && !project.limits.any() && self.known.naming(id).next().is_none() {
                return Ok(id);
            }
        }
        Err(Error::Exhausted(format!(
            "no project ID from {first} to {last} is free: give the agent a larger range with --project-ids"
        )))
    }

    pub(super) async fn used(&self, id: u32) -> Result<Project> {
        self.projects.get(id).await.map_err(|e| self.export.failed("reading the limits of a project", e))
    }

    pub(super) async fn write(&self, dir: &F::Handle, file: &Name, value: &impl serde::Serialize) -> Result<()> {
        let content = serde_json::to_vec(value).map_err(|e| Error::Internal(format!("writing `{file}`: {e}")))?;
        // `new` is a temporary name that no other file of the agent has.
        self.export.replace_small((&self.quota, &name("new")?), (dir, file), 0o644, content).await
    }

    /// Takes steps until there is nothing to do at once. Returns whether everything is in order.
    #[cfg(test)]
    pub(crate) async fn run_until_idle(&mut self) -> bool {
        while self.step().await == Step::Worked {}
        self.queue.is_in_order()
    }
}

pub(super) fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|status| Error::Internal(format!("`{}`: {status}", text.escape_debug())))
}
