//! What is kept of very many volumes, in little memory.

use crate::volume::id::VolumeName;

/// A line for each volume: its name, or its name, `#` and a note. A name has no `#` and no line break.
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

    /// Adds the volumes of `other` behind all others.
    pub(super) fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// Sorts lines that were added in any order. Of several lines of one volume one stays.
    pub(super) fn sort(&mut self) {
        let mut lines: Vec<&str> = self.0.split_inclusive('\n').collect();
        lines.sort_unstable_by(|one, other| name_of(one).cmp(name_of(other)));
        lines.dedup_by(|one, other| name_of(one) == name_of(other));
        self.0 = lines.concat();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The volumes behind `after`, with their notes.
    pub(super) fn behind(&self, after: Option<&VolumeName>) -> impl Iterator<Item = (VolumeName, &str)> {
        self.0[self.end_of(after)..].lines().filter_map(|line| {
            let (name, note) = line.split_once('#').unwrap_or((line, ""));
            Some((VolumeName::parse("name", name).ok()?, note))
        })
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

fn name_of(line: &str) -> &str {
    line.split(['#', '\n']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        let names = ["a b", "é", "a", "a!", "b", "a\u{a0}", "a"];
        let (mut sorted, mut lines) = (names.map(named).to_vec(), Lines::default());
        sorted.sort();
        sorted.dedup();
        names.iter().for_each(|name| lines.push(&named(name), "note"));
        lines.sort();
        assert!(lines.behind(None).map(|(name, _)| name).eq(sorted));
    }

    proptest! {
        #[test]
        fn lines_are_what_a_map_would_be((some, more) in (volumes(), volumes()), name in "[a-cé!]{1,4}") {
            let more: Map = more.into_iter().filter(|(name, _)| !some.contains_key(name)).collect();
            let (mut map, mut text) = (some.clone(), lines(&some));
            map.extend(more.clone());
            text.append(&lines(&more));
            text.append(&lines(&some));
            text.sort();
            prop_assert_eq!(&text, &lines(&map));
            prop_assert_eq!(text.is_empty(), map.is_empty());
            let after = named(&name);
            let behind: Map = text.behind(Some(&after)).map(|(name, note)| (name.to_string(), note.to_owned())).collect();
            prop_assert!(behind.iter().eq(map.iter().filter(|(other, _)| other.as_str() > name.as_str())));
            map.remove(&name);
            text.remove(&after);
            prop_assert_eq!(&text, &lines(&map));
        }
    }
}
