//! Turns: how many copies run at the same time on one server. A copy takes its turn after the locks that it needs, so
//! that none holds a turn while it only waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How many copies run at the same time on one server, each with
/// [`Options::in_flight`](crate::export::copy::Options::in_flight) entries in flight. Other copies wait.
pub const COPIES: usize = 4;

/// What a copy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It waits for its locks, which another controller may hold.
    #[default]
    WaitsForLocks,
    /// It has its locks, and waits until another copy on the same server ends.
    WaitsForTurn,
    /// It copies.
    Copies,
    /// It has copied, and puts the copy into its place.
    Ends,
}

impl State {
    /// Whether the copy is at work.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Copies | Self::Ends)
    }
}

/// What a copy does now. A clone is of the same copy.
#[derive(Debug, Clone, Default)]
pub struct Now(Arc<Mutex<State>>);

impl Now {
    /// What the copy does.
    pub fn get(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The place of one copy among those on its server. It waits until it takes its turn.
#[derive(Debug, Clone)]
pub struct Place(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    turns: Arc<Semaphore>,
    now: Now,
}

/// The turn of a copy, which ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
    place: Place,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.place.0.now.set(State::Ends);
    }
}

impl Place {
    /// A place among the copies that share `turns`.
    pub fn among(turns: Arc<Semaphore>) -> Self {
        Self(Arc::new(Waiting { turns, now: Now::default() }))
    }

    /// Where to read what the copy does. It does not hold the place.
    pub fn now(&self) -> Now {
        self.0.now.clone()
    }

    /// Waits for the copy's turn. A copy that is cancelled does not wait: it looks at the token, and cleans up what it
    /// has made.
    pub async fn turn(&self, cancel: &CancellationToken) -> Turn {
        self.0.now.set(State::WaitsForTurn);
        let permit = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            permit = self.0.turns.clone().acquire_owned() => permit.ok(),
        };
        self.0.now.set(State::Copies);
        Turn { _permit: permit, place: self.clone() }
    }
}

impl Default for Place {
    /// A place of its own.
    fn default() -> Self {
        Self::among(turns())
    }
}

/// The turns of one server.
pub fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(COPIES))
}
