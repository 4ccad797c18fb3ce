//! Since when entries are in a directory.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::export::fs::{Entry, Name};

/// The maximum number of remembered entries. The age of others is not known.
const MOST: usize = 1000;

/// When the entries of a directory were first seen. Times on the server do not say it: tenants can set them.
#[derive(Debug, Default)]
pub struct FirstSeen(HashMap<(Name, u64), SystemTime>);

impl FirstSeen {
    /// Notes what is in the directory at `now`. Returns since when the oldest entry is there; `None` if the directory
    /// is empty. An entry with another file ID is another entry, whatever its name.
    pub fn note(&mut self, entries: &[Entry], now: SystemTime) -> Option<SystemTime> {
        let mut before = std::mem::take(&mut self.0);
        let keys = entries.iter().map(|entry| (entry.name.clone(), entry.fileid));
        let (known, new): (Vec<_>, Vec<_>) = keys.partition(|key| before.contains_key(key));
        let known = known.into_iter().filter_map(|key| before.remove_entry(&key));
        self.0 = known.chain(new.into_iter().map(|key| (key, now))).take(MOST).collect();
        self.0.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(name: &str, fileid: u64) -> Entry {
        Entry { name: Name::new(name).unwrap(), kind: None, fileid, cookie: 0 }
    }

    #[test]
    fn the_oldest_entry_that_is_still_there_counts() {
        let mut seen = FirstSeen::default();
        let at = |minutes: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minutes);
        assert_eq!(seen.note(&[], at(1)), None);
        assert_eq!(seen.note(&[entry("a", 1)], at(2)), Some(at(2)));
        assert_eq!(seen.note(&[entry("b", 2), entry("a", 1)], at(3)), Some(at(2)));
        assert_eq!(seen.note(&[entry("b", 2), entry("a", 7)], at(4)), Some(at(3)), "another file has the name");
        assert_eq!(seen.note(&[entry("a", 7)], at(5)), Some(at(4)));
        assert_eq!(seen.note(&[], at(6)), None);
    }

    #[test]
    fn an_old_entry_is_remembered_however_many_new_ones_come() {
        let mut seen = FirstSeen::default();
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        seen.note(&[entry("old", 1)], SystemTime::UNIX_EPOCH);
        let many: Vec<Entry> = (2..3000).map(|n| entry(&n.to_string(), n)).chain([entry("old", 1)]).collect();
        assert_eq!(seen.note(&many, later), Some(SystemTime::UNIX_EPOCH));
        assert!(seen.0.len() <= MOST);
    }
}
