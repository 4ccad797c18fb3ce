//! The agent's answers, by volume and by project ID.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::volume::id::VolumeName;
use crate::volume::quota::Answer;

/// The ID of objects that belong to no project.
pub(super) const NONE: u32 = 0;

/// The answer for each volume.
#[derive(Debug, Default)]
pub(super) struct Answers {
    of: BTreeMap<VolumeName, Answer>,
    /// For each project ID, the volumes whose answers name it.
    named: BTreeMap<u32, BTreeSet<VolumeName>>,
}

impl Answers {
    pub(super) fn get(&self, volume: &VolumeName) -> Option<&Answer> {
        self.of.get(volume)
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &VolumeName> {
        self.of.keys()
    }

    pub(super) fn insert(&mut self, volume: VolumeName, answer: Answer) {
        self.remove(&volume);
        self.named.entry(answer.project).or_default().insert(volume.clone());
        self.of.insert(volume, answer);
    }

    pub(super) fn remove(&mut self, volume: &VolumeName) {
        let Some(answer) = self.of.remove(volume) else { return };
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
