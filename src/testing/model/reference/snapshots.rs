//! The meaning of the calls for snapshots and groups of snapshots.

use super::{Name, State, Turn, Work};
use crate::testing::model::files::Files;
use crate::testing::model::history::Id;
use crate::testing::model::rpc::{Answer, Code};

/// A recorded snapshot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Snapshot {
    pub(super) of: Id,
    /// The capacity of the volume.
    size: u64,
    /// The content, once it is copied.
    pub(super) content: Option<Files>,
    pub(super) ready: bool,
}

/// A recorded group of snapshots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Group {
    pub(super) of: Vec<Id>,
    sizes: Vec<u64>,
    /// The content of each snapshot, once it is copied.
    pub(super) contents: Vec<Option<Files>>,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    Pending,
    Ready,
    /// The group is not visible any more, but parts of it may be left.
    Deleted,
}

impl State {
    pub(super) fn snapshot(&self, name: Name, of: Id) -> Turn {
        let mut work = Work::on(self);
        let found = self.snapshots.get(name);
        match found {
            Some(found) if found.of.to_string() != of.to_string() => return work.failed(Code::AlreadyExists),
            Some(found) if found.ready => return work.done(Answer::Snapshot(of.to_string())),
            _ => {}
        }
        let source = self.source(of);
        let content = source.and_then(|(dir, _)| self.files.below(dir));
        let Some((_, size)) = source.filter(|_| content.is_some() || found.is_some()) else {
            work.change(|state| drop(state.snapshots.remove(name)));
            return work.failed(Code::NotFound);
        };
        if found.is_none() {
            let pending = Snapshot { of, size, content: None, ready: false };
            work.change(|state| drop(state.snapshots.insert(name, pending)));
        }
        work.open();
        let snapshot = work.now.snapshots[name].clone();
        let Some(content) = snapshot.content.clone().or(content) else {
            work.change(|state| drop(state.snapshots.remove(name)));
            return work.failed(Code::NotFound);
        };
        let size = if snapshot.size == 0 { content.bytes() } else { snapshot.size };
        let placed = Snapshot { content: Some(content), size, ..snapshot };
        work.change(|state| drop(state.snapshots.insert(name, placed.clone())));
        work.change(|state| drop(state.snapshots.insert(name, Snapshot { ready: true, ..placed })));
        work.done(Answer::Snapshot(of.to_string()))
    }

    pub(super) fn delete_snapshot(&self, name: Name) -> Turn {
        let mut work = Work::on(self);
        work.change(|state| drop(state.snapshots.remove(name)));
        work.done(Answer::Done)
    }

    pub(super) fn group(&self, name: Name, of: &[Id]) -> Turn {
        let mut work = Work::on(self);
        let text = |ids: &[Id]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found = self.groups.get(name).filter(|group| group.phase != Phase::Deleted);
        match found {
            Some(found) if text(&found.of) != text(of) => return work.failed(Code::AlreadyExists),
            Some(found) if found.phase == Phase::Ready => return work.done(Answer::Group(text(of))),
            _ => {}
        }
        let sources: Option<Vec<_>> = of.iter().map(|id| self.source(*id)).collect();
        let contents =
            |sources: &[(Name, u64)]| sources.iter().map(|(dir, _)| self.files.below(dir)).collect::<Vec<_>>();
        let whole = |sources: &Vec<_>| contents(sources).iter().all(Option::is_some);
        let Some(sources) = sources.filter(|sources| found.is_some() || whole(sources)) else {
            // A pending group is given up.
            if found.is_some() {
                work.remove_group(name);
            }
            return work.failed(Code::NotFound);
        };
        if found.is_none() {
            let sizes = sources.iter().map(|(_, size)| *size).collect();
            let pending = Group { of: of.to_vec(), sizes, contents: vec![None; of.len()], phase: Phase::Pending };
            work.change(|state| drop(state.groups.remove(name)));
            work.change(|state| drop(state.groups.insert(name, pending)));
        }
        work.open();
        let begun = work.now.groups[name].clone();
        let copied = begun.contents.iter().cloned().zip(contents(&sources)).map(|(before, now)| before.or(now));
        let copied: Vec<Option<Files>> = copied.collect();
        // The snapshots are copied concurrently, so any of them may be complete first.
        for some in 1..1_u32 << of.len() {
            let mut partly = begun.clone();
            for (n, content) in copied.iter().enumerate().filter(|(n, _)| some >> n & 1 == 1) {
                partly.contents[n].clone_from(content);
            }
            work.change(|state| drop(state.groups.insert(name, partly)));
        }
        if copied.contains(&None) {
            work.remove_group(name);
            return work.failed(Code::NotFound);
        }
        let bytes = |(content, size): (&Option<Files>, &u64)| match (content, size) {
            (Some(content), 0) => content.bytes(),
            (_, size) => *size,
        };
        let sizes = copied.iter().zip(&begun.sizes).map(bytes).collect();
        let ready = Group { phase: Phase::Ready, contents: copied, sizes, ..begun };
        work.change(|state| drop(state.groups.insert(name, ready)));
        work.done(Answer::Group(text(of)))
    }

    pub(super) fn delete_group(&self, name: Name, members: usize) -> Turn {
        let mut work = Work::on(self);
        if let Some(group) = self.groups.get(name) {
            if group.of.len() != members {
                return work.failed(Code::InvalidArgument);
            }
            work.remove_group(name);
        }
        work.done(Answer::Done)
    }

    /// The content of a snapshot, and the capacity of a volume that is restored from it.
    pub(super) fn snapshot_content(&self, name: Name) -> Result<(Option<Files>, u64), Code> {
        let (content, size, ready) = match name.split_once('-') {
            Some((group, member)) => {
                let group = self.groups.get(group).filter(|group| group.phase != Phase::Deleted);
                let (group, n) = (group.ok_or(Code::NotFound)?, member.parse::<usize>().unwrap());
                let content = group.contents.get(n).ok_or(Code::NotFound)?;
                (content, group.sizes[n], group.phase == Phase::Ready)
            }
            None => {
                let snapshot = self.snapshots.get(name).ok_or(Code::NotFound)?;
                (&snapshot.content, snapshot.size, snapshot.ready)
            }
        };
        if ready { Ok((content.clone(), size)) } else { Err(Code::FailedPrecondition) }
    }
}

impl Work {
    fn remove_group(&mut self, name: Name) {
        self.change(|state| {
            if let Some(group) = state.groups.get_mut(name) {
                group.phase = Phase::Deleted;
            }
        });
        self.change(|state| drop(state.groups.remove(name)));
    }
}
