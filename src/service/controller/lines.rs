//! What is kept of very many volumes, in little memory.

use crate::volume::id::VolumeName;

/// A line for each volume, sorted by name: its name, or its name, `#` and a note. A name has no `#` and no line break.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines(String);

impl Lines {
    /// Adds a volume behind all others. The note has no line break.
    pub(super) fn push(&mut self, name: &VolumeName, note: &str) {
        self.0.push_str(name.as_str());
        if !note.is_empty() {
            self.0.push('#');
            self.0.push_str(note);
        }
        self.0.push('\n');
    }

    /// Sorts lines without notes that were pushed in any order.
    pub(super) fn sort(&mut self) {
        let mut lines: Vec<&str> = self.0.split_inclusive('\n').collect();
        lines.sort_unstable_by_key(|line| line.trim_end_matches('\n'));
        self.0 = lines.concat();
    }

    /// The volumes behind `after`, with their notes.
    pub(super) fn behind(&self, after: Option<&VolumeName>) -> impl Iterator<Item = (VolumeName, &str)> {
        self.0[self.end_of(after)..].lines().filter_map(|line| {
            let (name, note) = line.split_once('#').unwrap_or((line, ""));
            Some((VolumeName::parse("name", name).ok()?, note))
        })
    }

    /// Puts `lines` in the place of the volumes behind `after`, up to `until`.
    pub(super) fn replace(&mut self, after: Option<&VolumeName>, until: Option<&VolumeName>, lines: &Self) {
        let end = until.map_or(self.0.len(), |_| self.end_of(until));
        self.0.replace_range(self.end_of(after)..end, &lines.0);
    }

    /// Removes a volume.
    pub(super) fn remove(&mut self, name: &VolumeName) {
        let (begin, end) = (self.begin_of(|line| line < name.as_str()), self.end_of(Some(name)));
        self.0.replace_range(begin..end, "");
    }

    /// Where the lines of the volumes up to `last` end.
    fn end_of(&self, last: Option<&VolumeName>) -> usize {
        last.map_or(0, |last| self.begin_of(|name| name <= last.as_str()))
    }

    /// Where the first line begins whose name is not `before`.
    fn begin_of(&self, before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (0, self.0.len());
        while low < high {
            let middle = self.0.floor_char_boundary(low.midpoint(high));
            let begin = self.0[low..middle].rfind('\n').map_or(low, |end| low + end + 1);
            let end = self.0[begin..].find(['#', '\n']).map_or(high, |length| begin + length);
            if before(&self.0[begin..end]) {
                low = self.0[end..].find('\n').map_or(high, |rest| end + rest + 1);
            } else {
                high = begin;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> VolumeName {
        VolumeName::parse("name", name).unwrap()
    }

    type Map = BTreeMap<String, String>;

    fn lines(map: &Map) -> Lines {
        let mut lines = Lines::default();
        map.iter().for_each(|(name, note)| lines.push(&named(name), note));
        lines
    }

    fn volumes() -> impl Strategy<Value = Map> {
        proptest::collection::btree_map("[a-cé!]{1,4}", "[a-z#]{0,3}", 0..30)
    }

    #[test]
    fn lines_are_sorted_as_their_names_are() {
        let names = ["a b", "é", "a", "a!", "b", "a\u{a0}"];
        let (mut sorted, mut lines) = (names.map(named), Lines::default());
        sorted.sort();
        names.iter().for_each(|name| lines.push(&named(name), ""));
        lines.sort();
        assert!(lines.behind(None).map(|(name, _)| name).eq(sorted));
    }

    proptest! {
        #[test]
        fn lines_are_what_a_map_would_be(
            (before, other) in (volumes(), volumes()),
            bounds in proptest::collection::btree_set("[a-cé!]{1,4}", 2),
            removed in "[a-cé!]{1,4}",
        ) {
            let [after, until] = &bounds.iter().map(|name| named(name)).collect::<Vec<_>>()[..] else { unreachable!() };
            for (after, until) in [(None, None), (None, Some(until)), (Some(after), None), (Some(after), Some(until))] {
                let range = (
                    after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str().to_owned())),
                    until.map_or(Bound::Unbounded, |name| Bound::Included(name.as_str().to_owned())),
                );
                let seen: Map = other.range(range.clone()).map(|(name, note)| (name.clone(), note.clone())).collect();
                let (mut map, mut text) = (before.clone(), lines(&before));
                map.retain(|name, _| !std::ops::RangeBounds::contains(&range, name));
                map.extend(seen.clone());
                text.replace(after, until, &lines(&seen));
                prop_assert_eq!(&text, &lines(&map));
                map.remove(&removed);
                text.remove(&named(&removed));
                prop_assert_eq!(&text, &lines(&map));
                let behind: Map = text.behind(after).map(|(name, note)| (name.to_string(), note.to_owned())).collect();
                map.retain(|name, _| after.is_none_or(|after| name.as_str() > after.as_str()));
                prop_assert_eq!(behind, map);
            }
        }
    }
}
