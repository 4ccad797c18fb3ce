//! Events on an export: calls with and without faults, restarts, and the actions of tenants and administrators.

use std::fmt;

use crate::testing::memory::Crash;
use crate::volume::on_delete::OnDelete;

/// A volume ID in its parts: `nfs#export#DIR#NAME#KEEP`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub dir: &'static str,
    /// The volume's name, if its directory has another name.
    pub uuid: Option<&'static str>,
    /// `retain` or `archive`, if the ID has one of them.
    pub keep: Option<OnDelete>,
}

impl Id {
    /// The volume's name, if the ID has it.
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

/// The source of a volume's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    Volume(Id),
    Snapshot(&'static str),
}

/// A request to a controller. Equal values are byte-identical requests.
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
    /// The group's name, and the number of snapshots that the caller lists.
    DeleteGroup(&'static str, usize),
}

/// A fault of a call at its `n`-th operation on the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The controller dies.
    Crash(u64, Crash),
    /// The export's answer is lost. The controller continues.
    LoseAnswer(u64),
    Io(u64),
    Full(u64),
    /// The caller gives up after this many milliseconds. Each operation takes one millisecond.
    GiveUp(u64),
}

/// One event. The controllers are 0 and 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Call {
        at: usize,
        call: Call,
        fault: Option<Fault>,
    },
    /// One call on each controller at the same time. `pace` has milliseconds: the time that each operation of the first
    /// call takes, the same for the second call, and the delay before the second call starts.
    Both {
        calls: [Call; 2],
        pace: (u64, u64, u64),
    },
    /// The controller stops and another one starts with this `--default-ondelete-policy`.
    Restart {
        at: usize,
        default: OnDelete,
    },
    /// The server loses power and all data that was not committed. Both controllers restart.
    PowerLoss,
    /// A tenant or an administrator writes a file. Its name and content come from the number. The directory is created
    /// if it does not exist.
    Write {
        dir: &'static str,
        number: usize,
    },
    /// An administrator creates a directory.
    MakeDir {
        dir: &'static str,
    },
    /// An administrator removes a directory with everything in it.
    RemoveDir {
        dir: &'static str,
    },
    /// `csi-nfs check` runs, and the history keeps its findings.
    Check,
    /// `csi-nfs check --repair` repairs the findings that were kept.
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

    /// True with a probability of `n` percent.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }
}
