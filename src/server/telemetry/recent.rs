//! The calls that are being served, and those that failed last, for `csi-nfs status`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tonic::Code;

use crate::nfs::text::one_line;
use crate::server::status::{Call, Failure, Status, rfc3339, short, tenths};
use crate::service::call_span::About;

/// How many failures are remembered.
const FAILURES: usize = 10;

/// The calls of a server.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    running: BTreeMap<u64, Running>,
    failures: VecDeque<Failure>,
}

#[derive(Debug)]
struct Running {
    method: String,
    about: Arc<About>,
    started: Instant,
}

impl Recent {
    /// A call begins. Returns its number.
    pub(super) fn started(&self, method: &str, about: &Arc<About>) -> u64 {
        let mut known = self.known();
        known.next += 1;
        let number = known.next;
        let running = Running { method: method.to_owned(), about: Arc::clone(about), started: Instant::now() };
        known.running.insert(number, running);
        number
    }

    /// A call has ended. It failed unless the code is OK, or ABORTED: such a call is told to come again for work that
    /// goes on.
    pub(super) fn ended(&self, number: u64, code: (Code, &str), message: &str) {
        let mut known = self.known();
        let Some(Running { method, about, started }) = known.running.remove(&number) else { return };
        if matches!(code.0, Code::Ok | Code::Aborted) {
            return;
        }
        known.failures.truncate(FAILURES - 1);
        known.failures.push_front(Failure {
            at: rfc3339(SystemTime::now()),
            method,
            volume: short(about.volume()),
            code: code.1.to_owned(),
            message: one_line(message).into_owned(),
            seconds: tenths(started.elapsed()),
        });
    }

    /// Adds the calls to a status.
    pub(super) fn tell(&self, status: &mut Status) {
        let known = self.known();
        let call = |running: &Running| Call {
            method: running.method.clone(),
            volume: short(running.about.volume()),
            server: short(running.about.server()),
            seconds: tenths(running.started.elapsed()),
        };
        status.calls.extend(known.running.values().map(call));
        status.failures.extend(known.failures.iter().cloned());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
