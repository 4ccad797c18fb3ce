//! A look at everything on an export, step by step, so that what somebody waits for is done between the steps.
//!
//! What is on the export is hostile or changed by hand, so a look trusts nothing that the agent remembers: it reads the
//! answers again, then looks at each snapshot and each record, and at each answer without a record.

use tokio::time::Instant;

use crate::agent::look::{Look, Stage};
use crate::agent::projects::Projects;
use crate::agent::queue::{Item, PERIOD, Urgency};
use crate::agent::reconciler::{Reconciler, name};
use crate::error::Result;
use crate::export::fs::{Cookie, Fs, Name};
use crate::volume::id::VolumeName;
use crate::volume::quota::Agent;
use crate::volume::record::Record;
use crate::volume::record_file::{RecordFile as _, now};

impl<F: Fs, P: Projects<F>> Reconciler<F, P> {
    /// Begins a look, or another one after the present one.
    pub(super) async fn begin_look(&mut self) -> Result<()> {
        if self.look.is_some() {
            self.look_again = true;
            return Ok(());
        }
        if self.looks == 0 {
            self.show_itself(0).await?;
        }
        self.queue.push(Item::Directories, Urgency::Change);
        self.known.begin_look();
        self.look = Some(Look::new(self.looked_at));
        Ok(())
    }

    /// Does the next step of a look. Returns whether there was one.
    pub(super) async fn look_on(&mut self) -> bool {
        let Some(mut look) = self.look.take() else { return false };
        match self.look_step(&mut look).await {
            Ok(true) => self.look = Some(look),
            Ok(false) => {
                self.queue.done(&Item::Look);
                if std::mem::take(&mut self.look_again) {
                    self.queue.push(Item::Look, Urgency::Change);
                } else {
                    self.queue.push_at(Item::Look, Instant::now() + PERIOD);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "looking at all volumes failed; the agent retries");
                self.queue.failed(Item::Look, Instant::now());
            }
        }
        true
    }

    /// Returns whether there is more to do.
    async fn look_step(&mut self, look: &mut Look) -> Result<bool> {
        if look.stage == Stage::Rest {
            let Some(volume) = self.known.not_looked_at(look.last.as_ref()) else {
                self.looks += 1;
                self.looked = now();
                self.looked_at = Some(look.progress.totals().entries);
                return self.show_itself(self.looked).await.map(|()| false);
            };
            look.last = Some(volume.clone());
            look.progress.entry();
            self.perform(Item::Volume(volume)).await;
            return Ok(true);
        }
        if let Some(file) = look.page.pop() {
            self.look_at(look.stage, &file).await?;
            look.progress.entry();
            return Ok(true);
        }
        if let Some(from) = look.next {
            (look.page, look.next) = self.names_from(look.stage, from).await?;
            return Ok(true);
        }
        match look.stage {
            Stage::Answers => {
                self.known.forget_unread();
                self.loaded = true;
                for volume in std::mem::take(&mut self.deferred) {
                    self.queue.push(Item::Volume(volume), Urgency::New);
                }
                look.go_on_with(Stage::Snapshots);
            }
            Stage::Snapshots => {
                self.queue.push(Item::Usage, Urgency::Change);
                look.go_on_with(Stage::Records);
            }
            Stage::Records | Stage::Rest => look.go_on_with(Stage::Rest),
        }
        Ok(true)
    }

    /// A page of the names that a stage is about.
    async fn names_from(&self, stage: Stage, from: Cookie) -> Result<(Vec<Name>, Option<Cookie>)> {
        let layout = self.export.layout().await?;
        let dir = match (stage, &layout) {
            (Stage::Answers, _) => &self.answers,
            (Stage::Snapshots, Some(layout)) => &layout.snapshots,
            (_, Some(layout)) => &layout.volumes,
            (_, None) => return Ok((Vec::new(), None)),
        };
        let page = self.export.fs().readdir(dir, from).await;
        let page = page.map_err(|e| self.export.failed("listing a directory", e))?;
        Ok((page.entries.into_iter().map(|entry| entry.name).collect(), page.next))
    }

    async fn look_at(&mut self, stage: Stage, file: &Name) -> Result<()> {
        match (stage, Record::of_file(file)) {
            (Stage::Answers, Some(volume)) => {
                if let Some(answer) = self.answer(&volume).await? {
                    self.known.read(volume, answer);
                }
            }
            (Stage::Records, Some(volume)) => {
                self.known.looked_at(&volume);
                self.perform(Item::Volume(volume)).await;
            }
            (Stage::Snapshots, _) if VolumeName::of_file(file, ".tree").is_some() => {
                self.perform(Item::Snapshot(file.clone())).await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes `agent.json`: the agent's version, and when it last looked at all volumes.
    async fn show_itself(&self, looked: u64) -> Result<()> {
        let fs = self.projects.kind();
        let agent = Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file_system: fs.name().to_owned(),
            holds_root: fs.holds_root(),
            looked,
            looks: self.looks,
            period: PERIOD.as_secs(),
        };
        self.write(&self.quota, &name("agent.json")?, &agent).await
    }
}
