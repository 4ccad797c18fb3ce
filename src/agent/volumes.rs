//! Makes the limits of a volume agree with its record.
//!
//! The agent gives the directory a project ID, sets the limits of the ID, gives the ID to everything in the directory,
//! and then writes its answer. In this order, the next start can finish what a crash interrupted. An ID is in use while
//! an answer names it, it has a limit, or any object belongs to it. The answers and the file system show this, so the
//! agent keeps no list of IDs.

use crate::agent::answers::NONE;
use crate::agent::projects::Projects;
use crate::agent::queue::{Item, Urgency};
use crate::agent::reconciler::Reconciler;
use crate::agent::walk::{Purpose, Walk};
use crate::error::{Error, Result};
use crate::export::fs::{Fs, Kind, Status, gone};
use crate::volume::id::VolumeName;
use crate::volume::limits::Limits;
use crate::volume::quota::{Answer, read_in};
use crate::volume::record::Record;
use crate::volume::record_file::{RecordFile as _, now};

/// Why a limit is not in force during a walk.
const COUNTING: &str = "what is in the directory is being counted first";

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Makes the limits of a volume agree with its record. `walked` is the project that a walk has given to everything
    /// in its directory. Returns whether nothing is left to do: a walk may be under way.
    pub(super) async fn settle(&mut self, volume: &VolumeName, walked: Option<u32>) -> Result<bool> {
        let had = self.known.get(volume).is_some();
        let settled = match Record::read(&self.export, volume).await {
            Ok(Some(record)) if record.limits().any() => self.limit(volume, &record, walked).await,
            Ok(_) => self.release(volume).await.map(|()| true),
            // A newer driver may have written the record, so the current limits stay.
            Err(error) => Err(error),
        };
        if had && self.known.get(volume).is_none() {
            // The volume is gone, so another volume of the same directory can get limits.
            for other in self.known.naming(NONE) {
                self.queue.push(Item::Volume(other.clone()), Urgency::Change);
            }
        }
        settled
    }

    async fn limit(&mut self, volume: &VolumeName, record: &Record, walked: Option<u32>) -> Result<bool> {
        let (wanted, sub_dir) = (record.limits(), &record.id.sub_dir);
        let Some(directory) = self.export.find_dir(&self.export.fs().root(), sub_dir.names()).await? else {
            // A record is written after its directory is created, so this volume is being deleted.
            return Ok(true);
        };
        let (project, inherited) =
            self.projects.of(&directory).await.map_err(|e| self.failed("reading the project ID", volume, e))?;
        let known = self.known.get(volume).cloned();
        if let Some(answer) = &known
            && answer.reason.is_none()
            && (answer.limits, answer.project, true) == (wanted, project, inherited)
            && self.used(project).await?.limits == wanted.rounded()
        {
            return Ok(true);
        }
        if !self.loaded && known.is_none() && inherited && self.is_ours(project) {
            // An answer that is not read yet may name the ID.
            self.deferred.push(volume.clone());
            return Ok(false);
        }
        if let Some(other) = self.known.other(project, volume)
            && Record::read(&self.export, other).await?.is_some_and(|record| record.id.sub_dir == *sub_dir)
        {
            let reason = format!("it shares its directory with volume `{other}`, whose limit is enforced");
            self.answer_with(volume, NONE, Err(reason)).await?;
            return Ok(true);
        }
        let target = self.assign(volume, &directory, (project, inherited), wanted).await?;
        // Existing objects get the ID. One walk is enough, because new objects inherit the ID.
        let complete = known.is_some_and(|answer| answer.reason.is_none() && answer.project == target);
        if !(project == target && (complete || walked == Some(target))) {
            let walk = Walk::new(directory, Purpose::Assign(target));
            match self.walk(Item::Volume(volume.clone()), walk).await {
                Ok(true) => {}
                Ok(false) => {
                    self.answer_with(volume, target, Err(COUNTING.to_owned())).await?;
                    return Ok(false);
                }
                Err(status) => return Err(self.not_counted(volume, target, status).await),
            }
        }
        self.answer_with(volume, target, Ok(wanted)).await?;
        let Limits { bytes, inodes } = wanted;
        tracing::info!(%volume, project = target, bytes, inodes, "limits are enforced");
        Ok(true)
    }

    /// Assigns a directory to a project with these limits. Returns the project.
    async fn assign(
        &self,
        volume: &VolumeName,
        directory: &F::Handle,
        (project, inherited): (u32, bool),
        wanted: Limits,
    ) -> Result<u32> {
        let known = self.known.get(volume).map(|answer| answer.project);
        let before = known.filter(|id| self.range.contains(id));
        // An interrupted attempt may have set the ID on the directory without an answer. The directory keeps this ID if
        // no other answer names it.
        let own = inherited && self.is_ours(project) && self.known.other(project, volume).is_none();
        let ids = self.ids.clone();
        let _choosing = ids.lock().await;
        let target = match before {
            _ if own => project,
            // An earlier ID that is in use belongs to objects in the trash or in an archive, so it is not reused.
            Some(before) if !self.used(before).await?.in_use() => before,
            _ => self.free_id().await?,
        };
        if let Some(before) = before.filter(|before| *before != target && self.known.other(*before, volume).is_none()) {
            let freed = self.projects.limit(before, Limits::default()).await;
            freed.map_err(|e| self.failed("removing earlier limits", volume, e))?;
        }
        let limited = self.used(target).await?.limits;
        let assigned = self.projects.assign(directory, Kind::Directory, target).await;
        assigned.map_err(|e| self.failed("setting the project ID", volume, e))?;
        if limited != wanted.rounded() {
            let set = self.projects.limit(target, wanted).await;
            set.map_err(|e| self.failed("setting the limits", volume, e))?;
        }
        Ok(target)
    }

    /// Whether an ID is for volumes.
    fn is_ours(&self, project: u32) -> bool {
        self.range.contains(&project) && self.snapshots != Some(project)
    }

    fn failed(&self, action: &str, volume: &VolumeName, status: Status) -> Error {
        self.export.failed(format!("{action} of volume `{volume}`"), status)
    }

    /// Answers that the objects in a volume's directory could not be counted. Returns the error.
    pub(super) async fn not_counted(&mut self, volume: &VolumeName, project: u32, status: Status) -> Error {
        let why = format!("not everything in the directory could be counted yet: {status}");
        match self.answer_with(volume, project, Err(why)).await {
            Ok(()) => self.failed("counting what is in the directory", volume, status),
            Err(error) => error,
        }
    }

    /// Removes the limits of a volume that should have none. Its ID becomes free once no object belongs to it.
    async fn release(&mut self, volume: &VolumeName) -> Result<()> {
        self.stop_walk(&Item::Volume(volume.clone()));
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

    /// The answer for a volume, as it is on the export.
    pub(super) async fn answer(&self, volume: &VolumeName) -> Result<Option<Answer>> {
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
            self.answered = answer.since;
            self.known.insert(volume.clone(), answer);
        }
        Ok(())
    }
}
