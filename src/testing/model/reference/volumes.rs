//! The meaning of the calls for volumes.

use super::{Name, State, Turn, Work};
use crate::testing::model::files::{above, is_inside};
use crate::testing::model::history::{Id, Origin};
use crate::testing::model::random::made;
use crate::testing::model::rpc::{Answer, Code};
use crate::volume::on_delete::OnDelete;

/// A recorded volume.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Volume {
    /// The ID that CreateVolume returned.
    pub(super) id: Id,
    pub(super) capacity: u64,
    /// The `onDelete` of the CreateVolume request.
    asked: Option<OnDelete>,
    /// What happens to the directory on deletion.
    policy: Option<OnDelete>,
    /// Whether a request gave the policy explicitly, instead of the driver's default.
    said: bool,
    /// Whether the directory had content before its first volume was created.
    adopted: bool,
    from: Option<Origin>,
    stage: Stage,
}

/// The progress of filling a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// The volume is recorded, and its content is not yet in its directory.
    Pending,
    /// The content is in the volume's directory.
    Placed,
    /// The volume exists.
    Whole,
}

impl Volume {
    pub(super) fn is_whole(&self) -> bool {
        self.stage == Stage::Whole
    }

    /// Notes that the volume's directory was removed.
    pub(super) fn unplace(&mut self) {
        if self.stage == Stage::Placed {
            self.stage = Stage::Pending;
        }
    }

    fn answer(&self) -> Answer {
        Answer::Volume(self.id.to_string(), self.capacity)
    }
}

impl State {
    pub(super) fn create(&self, who: (Name, Option<Name>), on_delete: Option<OnDelete>, default: OnDelete) -> Turn {
        let (name, dir) = (who.0, who.1.unwrap_or(who.0));
        let mut work = Work::on(self);
        if let Some(volume) = self.volumes.get(name) {
            if volume.id.dir != dir || volume.from.is_some() || volume.asked != on_delete {
                return work.failed(Code::AlreadyExists);
            }
            work.make_dirs(dir);
            return work.done(volume.answer());
        }
        if self.is_nested(name, dir) {
            return work.failed(Code::FailedPrecondition);
        }
        if self.others(name, dir).any(|other| !other.is_whole()) {
            return work.failed(Code::AlreadyExists);
        }
        let adopted = self.is_kept(dir)
            || self.others(name, dir).any(|other| other.adopted)
            || self.others(name, dir).next().is_none() && self.files.is_filled(dir);
        if !self.files.has(dir) {
            work.change(|state| state.forget_kept(dir));
        }
        work.make_dirs(dir);
        let volume = Volume { adopted, ..asked(who, on_delete, default, None) };
        work.change(|state| {
            state.kept.remove(&(name, dir));
            state.volumes.insert(name, volume.clone());
        });
        work.done(volume.answer())
    }

    /// CreateVolume with a content source.
    pub(super) fn fill(
        &self,
        who: (Name, Option<Name>),
        on_delete: Option<OnDelete>,
        from: Origin,
        default: OnDelete,
    ) -> Turn {
        let (name, dir) = (who.0, who.1.unwrap_or(who.0));
        let mut work = Work::on(self);
        let known = self.volumes.get(name);
        if let Some(volume) = known {
            if volume.id.dir != dir || volume.from != Some(from) || volume.asked != on_delete {
                return work.failed(Code::AlreadyExists);
            }
            if volume.is_whole() {
                return work.done(volume.answer());
            }
        }
        let source = match from {
            Origin::Volume(id) => {
                self.source(id).map(|(dir, size)| (self.files.below(dir), size)).ok_or(Code::NotFound)
            }
            Origin::Snapshot(snapshot) => self.snapshot_content(snapshot),
        };
        let (content, capacity) = match source {
            Ok(source) => source,
            // The content that is in place is whole, although its source is gone.
            Err(Code::NotFound) if known.is_some_and(|volume| volume.stage == Stage::Placed) => {
                return work.placed(name);
            }
            Err(code) => {
                if code == Code::NotFound {
                    work.change(|state| state.give_up(name));
                }
                return work.failed(code);
            }
        };
        if known.is_none() {
            if self.is_nested(name, dir) {
                return work.failed(Code::FailedPrecondition);
            }
            if self.others(name, dir).next().is_some() || self.files.is_filled(dir) {
                return work.failed(Code::AlreadyExists);
            }
            let adopted = self.is_kept(dir);
            work.change(|state| state.files.remove(dir));
            let volume =
                Volume { capacity, adopted, stage: Stage::Pending, ..asked(who, on_delete, default, Some(from)) };
            work.change(|state| state.put(name, volume));
        }
        work.open();
        if work.now.volumes[name].stage != Stage::Placed {
            if work.now.files.has(dir) || self.others(name, dir).next().is_some() {
                work.change(|state| state.give_up(name));
                return work.failed(Code::AlreadyExists);
            }
            // The empty directory that was removed above may have been the source itself.
            let gone = matches!(from, Origin::Volume(id) if !work.now.files.has(id.dir));
            let Some(content) = content.filter(|_| !gone) else {
                work.change(|state| state.give_up(name));
                return work.failed(Code::NotFound);
            };
            work.change(|state| state.forget_kept(dir));
            work.make_parents(dir);
            work.change(|state| {
                state.files.put(dir, &content);
                state.volume(name, |volume| (volume.stage, volume.capacity) = (Stage::Placed, capacity));
            });
        }
        work.placed(name)
    }

    pub(super) fn delete(&self, id: Id, default: OnDelete) -> Turn {
        let dir = id.dir;
        let mut work = Work::on(self);
        let own = self.own(id);
        let name = own.map_or("", |(name, _)| name);
        if self.is_nested(name, dir) {
            return work.failed(Code::FailedPrecondition);
        }
        let is_part_of_kept = self.kept.iter().any(|(_, kept)| *kept == dir || is_inside(dir, kept));
        if own.is_none() && is_part_of_kept && self.files.has(dir) {
            return work.done(Answer::Done);
        }
        let shared = self.others(name, dir).next().is_some();
        match own {
            // The content was never moved to the volume's directory.
            Some((_, volume)) if volume.stage == Stage::Pending => {}
            _ => match self.fate(id, default) {
                OnDelete::Retain => {
                    let kept = id.name().filter(|_| self.files.has(dir));
                    work.change(|state| {
                        state.volumes.remove(name);
                        state.kept.extend(kept.map(|name| (name, dir)));
                    });
                    return work.done(Answer::Done);
                }
                _ if shared => {}
                policy => work.remove(dir, policy, own.is_some()),
            },
        }
        work.change(|state| {
            state.kept.remove(&(name, dir));
            state.volumes.remove(name);
        });
        work.done(Answer::Done)
    }

    /// What happens to the directory of a volume on deletion, unless other volumes share it.
    fn fate(&self, id: Id, default: OnDelete) -> OnDelete {
        let own = self.own(id).map(|(_, volume)| volume);
        let policy = match own {
            Some(volume) if !volume.is_whole() => OnDelete::Delete,
            Some(volume) => volume.policy.or(id.keep).unwrap_or(default),
            None => id.keep.unwrap_or(default),
        };
        let holds_kept = self.kept.iter().any(|(_, kept)| is_inside(kept, id.dir) && self.files.has(kept));
        let kept = self.kept.iter().any(|(_, kept)| *kept == id.dir);
        let stays = own.is_some_and(|own| own.is_whole() && !own.said && (own.adopted || kept));
        if holds_kept || stays { OnDelete::Retain } else { policy }
    }

    pub(super) fn modify(&self, id: Id, policy: OnDelete) -> Turn {
        let mut work = Work::on(self);
        let (name, volume) = match self.for_change(id) {
            Ok(found) => found,
            Err(code) => return work.failed(code),
        };
        if !self.files.has(id.dir) {
            return work.failed(Code::NotFound);
        }
        let volume = Volume { policy: Some(policy), said: true, ..volume };
        work.change(|state| state.put(name, volume));
        work.done(Answer::Done)
    }

    pub(super) fn expand(&self, id: Id, bytes: u64) -> Turn {
        let mut work = Work::on(self);
        let (name, volume) = match self.for_change(id) {
            Ok(found) => found,
            Err(code) => return work.failed(code),
        };
        let capacity = volume.capacity.max(bytes);
        if capacity > volume.capacity {
            work.change(|state| state.put(name, Volume { capacity, ..volume }));
        }
        work.done(Answer::Capacity(capacity))
    }

    pub(super) fn get(&self, id: Id) -> Turn {
        let work = Work::on(self);
        match (self.own(id), self.source(id)) {
            (Some((_, volume)), Some(_)) => work.done(volume.answer()),
            (None, Some(_)) => work.done(Answer::Volume(id.to_string(), 0)),
            (_, None) => work.failed(Code::NotFound),
        }
    }

    /// The recorded volume of an ID, or a new record for an unrecorded directory that the driver takes over.
    fn for_change(&self, id: Id) -> Result<(Name, Volume), Code> {
        self.source(id).ok_or(Code::NotFound)?;
        let name = id.name().ok_or(Code::FailedPrecondition)?;
        match (self.own(id), self.volumes.get(name)) {
            (Some((name, volume)), _) => Ok((name, volume.clone())),
            // The volume was deleted, or another volume has this name.
            (None, None) if self.kept.contains(&(name, id.dir)) => Err(Code::NotFound),
            (None, Some(_)) => Err(Code::NotFound),
            (None, None) => {
                let adopted = self.is_kept(id.dir) || self.others(name, id.dir).any(|other| other.adopted);
                let (policy, said) = (id.keep, false);
                let new = (0, None, None, Stage::Whole);
                let (capacity, asked, from, stage) = new;
                Ok((name, Volume { capacity, asked, policy, said, adopted, from, id, stage }))
            }
        }
    }

    fn put(&mut self, name: Name, volume: Volume) {
        self.volumes.insert(name, volume);
    }

    fn give_up(&mut self, name: Name) {
        self.volumes.remove(name);
    }

    fn volume(&mut self, name: Name, change: impl FnOnce(&mut Volume)) {
        if let Some(volume) = self.volumes.get_mut(name) {
            change(volume);
        }
    }

    /// The volumes with other names that share this directory.
    fn others(&self, name: &str, dir: &str) -> impl Iterator<Item = &Volume> {
        let same = move |(other, volume): &(&Name, &Volume)| **other != name && volume.id.dir == dir;
        self.volumes.iter().filter(same).map(|(_, volume)| volume)
    }

    /// Whether the directory of another volume is below this directory or above it.
    fn is_nested(&self, name: &str, dir: &str) -> bool {
        self.volumes
            .iter()
            .any(|(other, volume)| *other != name && (is_inside(dir, volume.id.dir) || is_inside(volume.id.dir, dir)))
    }

    fn is_kept(&self, dir: &str) -> bool {
        self.files.has(dir) && self.kept.iter().any(|(_, kept)| *kept == dir)
    }

    fn forget_kept(&mut self, dir: &str) {
        self.kept.retain(|(_, kept)| *kept != dir);
    }
}

impl Work {
    /// Ends the filling of a volume whose content is in place.
    fn placed(mut self, name: Name) -> Turn {
        self.change(|state| state.volume(name, |volume| volume.stage = Stage::Whole));
        let answer = self.now.volumes[name].answer();
        self.done(answer)
    }

    fn make_dirs(&mut self, dir: &'static str) {
        self.make_parents(dir);
        self.change(|state| state.files.make_dir(dir));
    }

    fn make_parents(&mut self, dir: &'static str) {
        for dir in above(dir) {
            self.change(|state| state.files.make_dir(dir));
        }
    }

    /// Removes or archives a directory, and removes its parents as long as they are empty.
    fn remove(&mut self, dir: &'static str, policy: OnDelete, recorded: bool) {
        let was_there = self.now.files.has(dir);
        match policy {
            OnDelete::Archive if was_there => self.archive(dir),
            _ => self.change(|state| state.files.remove(dir)),
        }
        if was_there || recorded {
            for dir in above(dir).collect::<Vec<_>>().into_iter().rev() {
                if self.now.files.is_filled(dir) {
                    break;
                }
                self.change(|state| state.files.remove(dir));
            }
        }
        self.change(|state| state.forget_kept(dir));
    }

    /// Renames a directory to a free name `archived-…`.
    fn archive(&mut self, dir: &'static str) {
        let archive = format!("archived-{dir}");
        for dir in above(&archive) {
            self.change(|state| state.files.make_dir(dir));
        }
        let numbered = (1..).map(|n| format!("{archive}-{n}"));
        let free = [archive.clone()].into_iter().chain(numbered).find(|name| !self.now.files.has(name));
        self.change(|state| state.files.rename(dir, &free.unwrap_or_default()));
    }
}

/// A volume as CreateVolume requests it.
fn asked(
    (name, dir): (Name, Option<Name>),
    on_delete: Option<OnDelete>,
    default: OnDelete,
    from: Option<Origin>,
) -> Volume {
    let policy = on_delete.unwrap_or(default);
    Volume {
        id: made(name, dir, policy),
        capacity: 0,
        asked: on_delete,
        policy: Some(policy),
        said: on_delete.is_some(),
        adopted: false,
        from,
        stage: Stage::Whole,
    }
}
