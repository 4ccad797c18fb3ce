//! A bounded number of threads for what blocks. A thread that has done one thing takes the next that waits, so that much work
//! at once takes no more threads than may be in it.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. Clones are the same ones.
#[derive(Clone)]
pub struct Threads(Arc<Inner>);

struct Inner {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Job>,
}

impl Threads {
    /// At most so many at once; none yet.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, state: Mutex::default() }))
    }

    /// Does `call` on a thread that may block, when its turn comes; a panic in it is the caller's. `None` where the process is
    /// going down.
    ///
    /// When the returned future is dropped, a call that has not begun is not made, and one that has goes on; what it gives is
    /// dropped on its thread.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (tell, told) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        self.submit(Box::new(move || {
            if !tell.is_closed() {
                // Where nobody listens any more, the answer comes back, and goes here.
                drop(tell.send(catch_unwind(AssertUnwindSafe(call))));
            }
        }));
        match told.await.ok()? {
            Ok(value) => Some(value),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// How many more calls would begin at once.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.0.most - self.0.state().running
    }

    fn submit(&self, job: Job) {
        let mut state = self.0.state();
        if state.running == self.0.most {
            state.waiting.push_back(job);
            return;
        }
        state.running += 1;
        drop(state);
        let inner = Arc::clone(&self.0);
        // Nobody waits for the thread itself.
        drop(tokio::task::spawn_blocking(move || {
            let mut next = Some(job);
            while let Some(job) = next {
                job();
                let mut state = inner.state();
                next = state.waiting.pop_front();
                if next.is_none() {
                    state.running -= 1;
                }
            }
        }));
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state();
        write!(f, "{} of {} threads at work, {} calls waiting", state.running, self.0.most, state.waiting.len())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn much_work_at_once_takes_few_threads() {
        let (threads, running) = (Threads::new(2), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (threads, running) = (threads.clone(), running.clone());
            async move {
                let count = move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    (now, std::thread::current().id())
                };
                threads.run(count).await.unwrap()
            }
        };
        let done = futures_util::future::join_all((0..200).map(|_| work())).await;
        assert!(done.iter().all(|(now, _)| *now <= 2));
        let used: std::collections::HashSet<_> = done.into_iter().map(|(_, thread)| thread).collect();
        assert!(used.len() <= 2, "{used:?}");
    }

    #[tokio::test]
    async fn a_call_whose_turn_never_came_is_not_made_for_a_caller_that_is_gone() {
        let threads = Threads::new(1);
        let (release, wait) = mpsc::channel::<()>();
        let first = threads.run(move || wait.recv());
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let second = threads.run(move || count.fetch_add(1, Ordering::SeqCst));
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(second);
        drop(release);
        assert!(first.await.unwrap().is_err());
        assert_eq!(threads.run(|| 7).await, Some(7));
        assert_eq!(made.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_is_the_callers_and_the_thread_goes_on() {
        let threads = Threads::new(1);
        let broken = threads.clone();
        let panicked = tokio::spawn(async move { broken.run(|| panic!("in the call")).await }).await;
        assert!(panicked.unwrap_err().is_panic());
        assert_eq!(threads.run(|| 7).await, Some(7));
    }
}
