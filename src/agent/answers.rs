//! The agent's answers, by volume and by project ID.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};

use crate::volume::id::VolumeName;
use crate::volume::quota::Answer;

/// The ID of objects that belong to no project.
pub(super) const NONE: u32 = 0;

/// How far the present look is with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// The answer was not read again yet.
    No,
    /// The answer was read again.
    Read,
    /// The volume was looked at.
    All,
}

/// The answer for each volume.
#[derive(Debug, Default)]
pub(super) struct Answers {
    of: BTreeMap<VolumeName, (Answer, Seen)>,
    /// For each project ID, the volumes whose answers name it.
    named: BTreeMap<u32, BTreeSet<VolumeName>>,
}

impl Answers {
    pub(super) fn get(&self, volume: &VolumeName) -> Option<&Answer> {
        self.of.get(volume).map(|(answer, _)| answer)
    }

    /// Records an answer that was written. The present look has no need to see it.
    pub(super) fn insert(&mut self, volume: VolumeName, answer: Answer) {
        self.put(volume, answer, Seen::All);
    }

    /// Records an answer that the present look has read.
    pub(super) fn read(&mut self, volume: VolumeName, answer: Answer) {
        self.put(volume, answer, Seen::Read);
    }

    fn put(&mut self, volume: VolumeName, answer: Answer, seen: Seen) {
        self.remove(&volume);
        self.named.entry(answer.project).or_default().insert(volume.clone());
        self.of.insert(volume, (answer, seen));
    }

    /// Begins a look, which has seen nothing yet.
    pub(super) fn begin_look(&mut self) {
        self.of.values_mut().for_each(|(_, seen)| *seen = Seen::No);
    }

    /// Forgets the answers that the present look has not found.
    pub(super) fn forget_unread(&mut self) {
        let unread = self.of.iter().filter(|(_, (_, seen))| *seen == Seen::No).map(|(volume, _)| volume.clone());
        unread.collect::<Vec<_>>().iter().for_each(|volume| self.remove(volume));
    }

    /// Records that the present look looks at a volume.
    pub(super) fn looked_at(&mut self, volume: &VolumeName) {
        if let Some((_, seen)) = self.of.get_mut(volume) {
            *seen = Seen::All;
        }
    }

    /// The first volume after `last` that the present look has not looked at.
    pub(super) fn not_looked_at(&self, last: Option<&VolumeName>) -> Option<VolumeName> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.of.range::<VolumeName, _>((after, Bound::Unbounded));
        rest.find(|(_, (_, seen))| *seen != Seen::All).map(|(volume, _)| volume.clone())
    }

    pub(super) fn remove(&mut self, volume: &VolumeName) {
        let Some((answer, _)) = self.of.remove(volume) else { return };
        if let Some(names) = self.named.get_mut(&answer.project) {
            names.remove(volume);
            if names.is_empty() {
                self.named.remove(&answer.project);
            }
        }
    }

    /// The volumes whose answers name the ID.
    pub(super) fn naming(&self, id: u32) -> impl Iterator<Item = &VolumeName> {
        self.named.get(&id).into_iter().flatten()
    }

    /// Another volume whose answer names the ID. Volumes share no project by [`NONE`].
    pub(super) fn other(&self, id: u32, than: &VolumeName) -> Option<&VolumeName> {
        self.naming(id).find(|name| *name != than).filter(|_| id != NONE)
    }

    /// The IDs of the range that no answer names. Those after the largest named ID come first, so that freed IDs are
    /// reused late.
    pub(super) fn unnamed(&self, range: &RangeInclusive<u32>) -> impl Iterator<Item = u32> {
        let last = self.named.range(range.clone()).next_back().and_then(|(last, _)| last.checked_add(1));
        let start = last.filter(|id| range.contains(id)).unwrap_or(*range.start());
        (start..=*range.end()).chain(*range.start()..start).filter(|id| !self.named.contains_key(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::limits::Limits;

    fn named(name: &str) -> VolumeName {
        VolumeName::parse("name", name).unwrap()
    }

    fn answers(of: &[(&str, u32)]) -> Answers {
        let mut answers = Answers::default();
        for &(name, project) in of {
            answers.insert(named(name), Answer { project, limits: Limits::default(), since: 0, reason: None });
        }
        answers
    }

    #[test]
    fn a_named_id_is_not_offered_and_a_freed_id_is_offered_last() {
        let mut answers = answers(&[("a", 10), ("b", 11), ("c", 13), ("theirs", 99)]);
        let offered = |answers: &Answers| answers.unnamed(&(10..=15)).collect::<Vec<_>>();
        assert_eq!(offered(&answers), [14, 15, 12]);
        answers.remove(&named("a"));
        assert_eq!(offered(&answers), [14, 15, 10, 12]);
        answers.insert(named("c"), Answer { project: 15, limits: Limits::default(), since: 0, reason: None });
        assert_eq!(offered(&answers), [10, 12, 13, 14]);
    }

    #[test]
    fn several_answers_may_name_one_id_and_none_is_never_shared() {
        let answers = answers(&[("a", 10), ("b", 10), ("c", NONE), ("d", NONE)]);
        assert_eq!(answers.other(10, &named("a")), Some(&named("b")));
        assert_eq!(answers.other(NONE, &named("c")), None);
        assert_eq!(answers.naming(NONE).count(), 2);
    }
}
