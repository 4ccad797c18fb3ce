//! What may happen to an export: calls with and without faults, restarts, and what tenants and administrators do.

use std::fmt;

use crate::testing::memory::Crash;
use crate::volume::on_delete::OnDelete;

/// A volume's identifier, in its parts: `nfs#export#DIR#NAME#KEEP`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub dir: &'static str,
    /// The volume's name, where its directory has another.
    pub uuid: Option<&'static str>,
    /// `retain` or `archive`, where it says so.
    pub keep: Option<OnDelete>,
}

impl Id {
    /// The volume's name, where the identifier tells it.
    pub fn name(self) -> Option<&'static str> {
        self.uuid.or_else(|| (!self.dir.contains('/')).then_some(self.dir))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nfs#export#{}#{}#{}", self.dir, self.uuid.unwrap_or(""), self.keep.map_or("", OnDelete::as_str))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_string().trim_start_matches("nfs#export#"))
    }
}

/// What a volume is filled with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    Volume(Id),
    Snapshot(&'static str),
}

/// A request to a controller. The same value is the same request, to the byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Create {
        name: &'static str,
        dir: Option<&'static str>,
        on_delete: Option<OnDelete>,
        from: Option<Origin>,
    },
    Delete(Id),
    Modify(Id, OnDelete),
    Expand(Id, u64),
    Get(Id),
    Snapshot {
        name: &'static str,
        of: Id,
    },
    DeleteSnapshot(&'static str),
    Group {
        name: &'static str,
        of: Vec<Id>,
    },
    /// The group's name, and how many snapshots the caller takes it to have.
    DeleteGroup(&'static str, usize),
}

/// What goes wrong with a call at its `n`-th operation on the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The controller dies.
    Crash(u64, Crash),
    /// The controller does not hear the answer of the export, and lives on.
    LoseAnswer(u64),
    Io(u64),
    Full(u64),
    /// The caller gives up after so many milliseconds, each of which is an operation.
    GiveUp(u64),
}

/// One thing that happens. Controllers are 0 and 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Call {
        at: usize,
        call: Call,
        fault: Option<Fault>,
    },
    /// One call at each controller at the same time: how long the first one's operations take, the second one's, and how
    /// much later the second one begins, in milliseconds.
    Both {
        calls: [Call; 2],
        pace: (u64, u64, u64),
    },
    /// The controller ends and another one starts, with this `--default-ondelete-policy`.
    Restart {
        at: usize,
        default: OnDelete,
    },
    /// The server loses power, and what was not committed with it; both controllers start anew.
    PowerLoss,
    /// A tenant or an administrator writes a file, named and filled after the number, and makes the directory where it is
    /// not there.
    Write {
        dir: &'static str,
        number: usize,
    },
    /// An administrator makes a directory.
    MakeDir {
        dir: &'static str,
    },
    /// An administrator removes a directory with all that is in it.
    RemoveDir {
        dir: &'static str,
    },
    /// `csi-nfs check`, whose findings are kept.
    Check,
    /// `csi-nfs check --repair` goes on with the findings that were kept.
    Repair,
}

/// A random number generator that is the same everywhere: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    pub fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    /// True `n` times in a hundred.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }
}
