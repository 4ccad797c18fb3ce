//! What must exist: the meaning of all calls on a plain map, without how a driver implements them.
//!
//! A call that is cut short may leave an intermediate state. So each call is a sequence of stages, in the order that
//! ARCHITECTURE.md promises. Without a fault only the last stage counts.

mod findings;
mod snapshots;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Files, is_inside};
use super::history::{Call, Id, Step};
use super::rpc::{Answer, Code, snapshot_id};
use super::world::Look;
use crate::volume::on_delete::OnDelete;
use snapshots::{Group, Phase, Snapshot};
use volumes::Volume;

type Name = &'static str;

/// A state that an export may be in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct State {
    files: Files,
    volumes: BTreeMap<Name, Volume>,
    /// The names of deleted volumes whose directories were to stay, with those directories.
    kept: BTreeSet<(Name, Name)>,
    snapshots: BTreeMap<Name, Snapshot>,
    groups: BTreeMap<Name, Group>,
}

/// The course of a call.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The states from before the call to its end, each with whether other calls may run in between there.
    pub stages: Vec<(State, bool)>,
    pub end: State,
    pub answer: Answer,
}

/// A call in progress: its current state and its stages so far.
struct Work {
    now: State,
    stages: Vec<(State, bool)>,
}

impl Work {
    fn on(state: &State) -> Self {
        Self { now: state.clone(), stages: vec![(state.clone(), false)] }
    }

    /// Makes an atomic change.
    fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.now);
        if self.stages.last().is_none_or(|(last, _)| *last != self.now) {
            self.stages.push((self.now.clone(), false));
        }
    }

    /// Marks a stage at which other calls may run in between.
    fn open(&mut self) {
        self.stages.push((self.now.clone(), true));
    }

    fn done(self, answer: Answer) -> Turn {
        Turn { stages: self.stages, end: self.now, answer }
    }

    fn failed(self, code: Code) -> Turn {
        self.done(Answer::Failed(code))
    }
}

impl State {
    /// The course of a call on a controller with this default policy.
    pub fn call(&self, call: &Call, default: OnDelete) -> Turn {
        match call {
            Call::Create { name, dir, on_delete, from: None } => self.create((*name, *dir), *on_delete, default),
            Call::Create { name, dir, on_delete, from: Some(from) } => {
                self.fill((*name, *dir), *on_delete, *from, default)
            }
            Call::Delete(id) => self.delete(*id, default),
            Call::Modify(id, policy) => self.modify(*id, *policy),
            Call::Expand(id, bytes) => self.expand(*id, *bytes),
            Call::Get(id) => self.get(*id),
            Call::Snapshot { name, of } => self.snapshot(name, *of),
            Call::DeleteSnapshot(name) => self.delete_snapshot(name),
            Call::Group { name, of } => self.group(name, of),
            Call::DeleteGroup(name, members) => self.delete_group(name, *members),
        }
    }

    /// The state after a tenant or an administrator has done this step.
    pub fn outside(&self, step: &Step) -> Self {
        let mut state = self.clone();
        match step {
            Step::Write { dir, number } => {
                state.make_dirs(dir);
                state.files.write(&format!("{dir}/f{number}"), &number.to_string());
            }
            Step::MakeDir { dir } => state.make_dirs(dir),
            Step::RemoveDir { dir } => {
                state.files.remove(dir);
                let gone = |other: &str| other == *dir || is_inside(other, dir);
                state.volumes.values_mut().filter(|volume| gone(volume.id.dir)).for_each(Volume::unplace);
            }
            _ => {}
        }
        state
    }

    /// The same state without the kept entries of directories that no longer exist. Somebody may create such a
    /// directory again before or after the driver notices that it was removed.
    pub fn without_stale(&self) -> Self {
        let mut state = self.clone();
        state.kept.retain(|(_, dir)| self.files.has(dir));
        state
    }

    /// Whether an export in this state looks like this.
    pub fn looks_like(&self, look: &Look) -> bool {
        self.files == look.files
            && self.listed_volumes() == look.listed_volumes
            && self.shown_snapshots().map(|(name, source, _)| (snapshot_id(&name), source)).collect::<BTreeSet<_>>()
                == look.listed_snapshots
            && self.shown_snapshots().all(|(name, _, content)| look.snapshots.get(&name) == content)
    }

    fn listed_volumes(&self) -> BTreeSet<(String, u64)> {
        let whole = self.volumes.values().filter(|volume| volume.is_whole());
        whole.map(|volume| (volume.id.to_string(), volume.capacity)).collect()
    }

    /// The snapshots that are ready: their names, source volumes and content.
    fn shown_snapshots(&self) -> impl Iterator<Item = (String, String, Option<&Files>)> {
        let single = self.snapshots.iter().filter(|(_, snapshot)| snapshot.ready);
        let single = single.map(|(name, it)| ((*name).to_owned(), it.of.to_string(), it.content.as_ref()));
        let groups = self.groups.iter().filter(|(_, group)| group.phase == Phase::Ready);
        let members = groups.flat_map(|(name, group)| {
            let members = group.of.iter().zip(&group.contents).enumerate();
            members.map(move |(n, (of, content))| (format!("{name}-{n}"), of.to_string(), content.as_ref()))
        });
        single.chain(members)
    }

    fn make_dirs(&mut self, dir: &str) {
        for dir in super::files::above(dir).chain([dir]) {
            self.files.make_dir(dir);
        }
    }

    /// The recorded volume of an ID.
    fn own(&self, id: Id) -> Option<(Name, &Volume)> {
        let name = id.name()?;
        self.volumes.get(name).filter(|volume| volume.id.dir == id.dir).map(|volume| (name, volume))
    }

    /// The volume to read from: its directory and its capacity.
    fn source(&self, id: Id) -> Option<(Name, u64)> {
        match self.own(id) {
            Some((_, volume)) => volume.is_whole().then_some((volume.id.dir, volume.capacity)),
            None => self.files.has(id.dir).then_some((id.dir, 0)),
        }
    }
}
