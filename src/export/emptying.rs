//! Which of several calls removes the directory that they all take something out of.
//!
//! Each removes it if it is empty then, so only the last one can. To try costs more than one operation: it waits for
//! every other operation in the directory, on this machine and on the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mount::weak_map::WeakMap;

/// The directories out of which calls of this process take something now, each with the number of calls.
#[derive(Debug, Default)]
pub struct Emptying(WeakMap<String, AtomicUsize>);

/// A call that takes something out of a directory.
#[derive(Debug)]
pub struct Leaving(Option<Arc<AtomicUsize>>);

impl Emptying {
    /// A call begins to take something out of the directory `path`. Only for a call that removes the directory if it is
    /// told to: another one leaves it to this one.
    pub fn begin(&self, path: String) -> Leaving {
        let calls = self.0.get_or_insert_with(path, AtomicUsize::default);
        calls.fetch_add(1, Ordering::AcqRel);
        Leaving(Some(calls))
    }
}

impl Leaving {
    /// The call has taken it out. Returns whether no other call is about to: then this one removes the directory, if it
    /// is empty.
    pub fn leave(mut self) -> bool {
        self.count_out()
    }

    fn count_out(&mut self) -> bool {
        self.0.take().is_some_and(|calls| calls.fetch_sub(1, Ordering::AcqRel) == 1)
    }
}

impl Drop for Leaving {
    /// A call that failed will be repeated, and then removes the directory.
    fn drop(&mut self) {
        self.count_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_call_in_a_directory_is_told_so_also_after_one_that_failed() {
        let emptying = Emptying::default();
        let begin = |path: &str| emptying.begin(path.to_owned());
        let (first, failed, last) = (begin("team"), begin("team"), begin("team"));
        assert!(begin("other").leave());
        assert!(!first.leave());
        drop(failed);
        assert!(last.leave());
        assert!(begin("team").leave());
    }
}
