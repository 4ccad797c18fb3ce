//! A bounded number of threads for blocking calls. A thread that has finished a call takes the next waiting call.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The number of threads that long calls leave to quick calls, if there are more threads than that.
const SPARED: usize = 2;

struct Job {
    takes_long: bool,
    work: Box<dyn FnOnce() + Send>,
}

/// A pool of threads. Clones share the threads.
#[derive(Clone)]
pub struct Threads(Arc<Inner>);

struct Inner {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// How many of the running calls take long.
    long: usize,
    waiting: VecDeque<Job>,
}

impl State {
    /// Whether a job can start now.
    fn has_room(&self, most: usize, job: &Job) -> bool {
        self.running < most && !(job.takes_long && self.long >= most.saturating_sub(SPARED).max(1))
    }

    fn begin(&mut self, job: &Job) {
        self.running += 1;
        self.long += usize::from(job.takes_long);
    }

    /// Counts a job as ended, and starts the first waiting job that has room.
    fn next(&mut self, most: usize, took_long: bool) -> Option<Job> {
        self.running -= 1;
        self.long -= usize::from(took_long);
        let first = self.waiting.iter().position(|job| self.has_room(most, job))?;
        let job = self.waiting.remove(first)?;
        self.begin(&job);
        Some(job)
    }
}

impl Threads {
    /// A pool of at most `most` threads, which start when needed.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, state: Mutex::default() }))
    }

    /// Makes `call` on a thread that may block, as soon as one is free. A panic in `call` continues in the caller.
    /// Returns `None` if the process is shutting down.
    ///
    /// If the returned future is dropped, a waiting call is never made. A running call continues, and its thread drops
    /// the result.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.perform(call, false).await
    }

    /// Like [`Self::run`], for a call that takes long, such as many system calls in one closure. Long calls leave some
    /// threads to quick calls.
    pub async fn run_long<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.perform(call, true).await
    }

    async fn perform<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
        takes_long: bool,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        let work = Box::new(move || {
            if !tell.is_closed() {
                // If the caller is gone, `send` returns the result, and this thread drops it.
                drop(tell.send(catch_unwind(AssertUnwindSafe(call))));
            }
        });
        self.submit(Job { takes_long, work });
        match told.await.ok()? {
            Ok(value) => Some(value),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// How many more quick calls would start at once.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.0.most - self.0.state().running
    }

    fn submit(&self, job: Job) {
        let mut state = self.0.state();
        if !state.has_room(self.0.most, &job) {
            state.waiting.push_back(job);
            return;
        }
        state.begin(&job);
        drop(state);
        let inner = Arc::clone(&self.0);
        // Callers wait for the result and not for the thread.
        drop(tokio::task::spawn_blocking(move || {
            let mut next = Some(job);
            while let Some(Job { takes_long, work }) = next {
                work();
                next = inner.state().next(inner.most, takes_long);
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
    async fn many_calls_at_once_use_few_threads() {
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
    async fn long_calls_leave_threads_to_quick_calls() {
        let threads = Threads::new(4);
        let (release, wait) = mpsc::channel::<()>();
        let (wait, begun) = (Arc::new(Mutex::new(wait)), Arc::new(AtomicUsize::new(0)));
        let long: Vec<_> = (0..10)
            .map(|_| {
                let (threads, wait, begun) = (threads.clone(), wait.clone(), begun.clone());
                let call = move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    wait.lock().unwrap().recv().is_ok()
                };
                tokio::spawn(async move { threads.run_long(call).await })
            })
            .collect();
        while begun.load(Ordering::SeqCst) < 4 - SPARED {
            tokio::task::yield_now().await;
        }
        for n in 0..10 {
            assert_eq!(threads.run(move || n).await, Some(n));
        }
        assert_eq!(begun.load(Ordering::SeqCst), 4 - SPARED, "the other long calls wait");
        drop(release);
        for call in long {
            assert_eq!(call.await.unwrap(), Some(false));
        }
        // One thread is enough for long calls too.
        assert_eq!(Threads::new(1).run_long(|| 7).await, Some(7));
    }

    #[tokio::test]
    async fn a_waiting_call_is_not_made_if_its_caller_is_gone() {
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
    async fn a_panic_continues_in_the_caller_and_the_thread_survives() {
        let threads = Threads::new(1);
        let broken = threads.clone();
        let panicked = tokio::spawn(async move { broken.run(|| panic!("in the call")).await }).await;
        assert!(panicked.unwrap_err().is_panic());
        assert_eq!(threads.run(|| 7).await, Some(7));
    }
}
