//! What a test asks the server to do wrong.

use std::collections::{HashMap, VecDeque};

use tokio_util::sync::CancellationToken;

use crate::nfs4::codes::Code;

/// When a connection ends, relative to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server does not see the request.
    Before,
    /// The server carries it out, and does not answer.
    After,
}

/// How the server treats an operation.
#[derive(Clone)]
pub enum Fault {
    /// It is not carried out, and answered with this error.
    Fail(Code),
    /// It is carried out, and this takes the place of its number, its status and its result.
    Result(Vec<u8>),
    /// It is carried out, and this is sent in place of the reply to the request with that number and those results.
    Reply(fn(u32, &[u8]) -> Vec<u8>),
    /// It waits for this.
    Wait(CancellationToken),
}

/// How many operations of a number go well before some fail.
struct Coming {
    well: usize,
    times: usize,
    fault: Fault,
}

/// The faults that are still to come.
#[derive(Default)]
pub(super) struct Faults {
    cuts: HashMap<u64, Cut>,
    operations: HashMap<u32, VecDeque<Coming>>,
}

impl Faults {
    pub(super) fn cut(&mut self, request: u64, when: Cut) {
        self.cuts.insert(request, when);
    }

    pub(super) fn cut_of(&mut self, request: u64) -> Option<Cut> {
        self.cuts.remove(&request)
    }

    pub(super) fn on(&mut self, operation: u32, well: usize, times: usize, fault: Fault) {
        self.operations.entry(operation).or_default().push_back(Coming { well, times, fault });
    }

    pub(super) fn next(&mut self, operation: u32) -> Option<Fault> {
        let all = self.operations.get_mut(&operation)?;
        while let Some(coming) = all.front_mut() {
            if let Some(left) = coming.well.checked_sub(1) {
                coming.well = left;
                return None;
            }
            if let Some(left) = coming.times.checked_sub(1) {
                coming.times = left;
                return Some(coming.fault.clone());
            }
            all.pop_front();
        }
        None
    }
}
