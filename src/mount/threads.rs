//! A bounded number of threads for blocking calls. A thread that has finished a call takes the next waiting call.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::mount::thread_limits::{Kind, Limits, Load, OVERDUE, Owner};

struct Job {
    kind: Kind,
    /// Becomes true when the call begins.
    begun: Arc<AtomicBool>,
    work: Box<dyn FnOnce() + Send>,
}

/// A pool of threads. Clones share the threads.
#[derive(Clone)]
pub struct Threads(Arc<Inner>);

struct Inner {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The running calls by number, with the time at which they began.
    running: HashMap<u64, (Kind, Instant)>,
    last: u64,
    waiting: VecDeque<Job>,
}

impl State {
    /// Counts a job as begun, and returns its number.
    fn begin(&mut self, job: &Job) -> u64 {
        self.last += 1;
        self.running.insert(self.last, (job.kind.clone(), Instant::now()));
        job.begun.store(true, Ordering::Relaxed);
        self.last
    }

    /// Begins the first waiting job that has room.
    fn next(&mut self, limits: Limits) -> Option<(u64, Job)> {
        self.waiting.front()?;
        let load = Load::of(&self.running);
        if load.is_full(limits) {
            return None;
        }
        let first = self.waiting.iter().position(|job| load.has_room(limits, &job.kind))?;
        let job = self.waiting.remove(first)?;
        Some((self.begin(&job), job))
    }
}

/// A call that was submitted.
pub struct Submitted<T> {
    told: oneshot::Receiver<Result<T, Box<dyn Any + Send>>>,
    begun: Arc<AtomicBool>,
}

impl<T> Submitted<T> {
    /// Tells whether the call has begun, also while its result is waited for.
    pub fn begun(&self) -> impl Fn() -> bool + use<T> {
        let begun = self.begun.clone();
        move || begun.load(Ordering::Relaxed)
    }

    /// Waits for the result. Cancel-safe. A panic in the call continues here. Returns `None` if the process is shutting
    /// down.
    pub async fn result(&mut self) -> Option<T> {
        match (&mut self.told).await.ok()? {
            Ok(value) => Some(value),
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Threads {
    /// A pool of at most `most` threads, which start when needed.
    pub fn new(most: usize) -> Self {
        Self::limited(Limits::of(most))
    }

    /// A pool of at most `most` threads for calls that have owners. The calls of one owner leave some threads to other
    /// owners, and its long calls leave some to its quick calls.
    pub fn for_owners(most: usize) -> Self {
        Self::limited(Limits::for_owners(most))
    }

    fn limited(limits: Limits) -> Self {
        Self(Arc::new(Inner { limits, state: Mutex::default() }))
    }

    /// Makes `call` on a thread that may block, as soon as one is free. A panic in `call` continues in the caller.
    /// Returns `None` if the process is shutting down.
    ///
    /// If the returned future is dropped, a waiting call is never made. A running call continues, and its thread drops
    /// the result.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.submit(Kind::default(), call).result().await
    }

    /// Like [`Self::run`]; the caller waits for the result apart.
    pub fn submit<T: Send + 'static>(&self, kind: Kind, call: impl FnOnce() -> T + Send + 'static) -> Submitted<T> {
        let (tell, told) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        let work = Box::new(move || {
            if !tell.is_closed() {
                // If the caller is gone, `send` returns the result, and this thread drops it.
                drop(tell.send(catch_unwind(AssertUnwindSafe(call))));
            }
        });
        let begun = Arc::new(AtomicBool::new(false));
        self.0.state().waiting.push_back(Job { kind, begun: begun.clone(), work });
        self.start_waiting();
        Submitted { told, begun }
    }

    /// Begins the waiting calls that have room: time gives it to them too, because of running calls that are overdue.
    pub fn start_waiting(&self) {
        while let Some(next) = self.0.next() {
            let inner = Arc::clone(&self.0);
            // Callers wait for the result and not for the thread.
            drop(tokio::task::spawn_blocking(move || {
                let mut next = Some(next);
                while let Some((number, Job { work, .. })) = next {
                    work();
                    // In one step: otherwise another call could take the place on a new thread.
                    let mut state = inner.state();
                    state.running.remove(&number);
                    next = state.next(inner.limits);
                }
            }));
        }
    }

    /// Whether all running calls of `owner` are overdue. Then a call of it that has no room waits in vain.
    pub fn is_stuck(&self, owner: &Owner) -> bool {
        Load::of(&self.0.state().running).is_stuck(owner)
    }

    /// How many quick calls are overdue: their threads are stuck in the kernel.
    pub fn stuck(&self) -> usize {
        let state = self.0.state();
        state.running.values().filter(|(kind, begun)| !kind.takes_long && begun.elapsed() >= OVERDUE).count()
    }

    /// How many more quick calls would start at once.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.0.limits.all - Load::of(&self.0.state().running).taken()
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state();
        write!(
            f,
            "{} of {} threads at work, {} calls waiting",
            state.running.len(),
            self.0.limits.all,
            state.waiting.len()
        )
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(u64, Job)> {
        self.state().next(self.limits)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::mount::thread_limits::SPARED;

    fn long() -> Kind {
        Kind { owner: None, takes_long: true }
    }

    fn of(owner: &str) -> Kind {
        Kind { owner: Some(owner.into()), takes_long: false }
    }

    /// Calls of an owner that hang until the sender is dropped.
    fn hang(threads: &Threads, owner: &str, calls: usize) -> (mpsc::Sender<()>, Vec<Submitted<bool>>) {
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let call = |_| {
            let wait = wait.clone();
            threads.submit(of(owner), move || wait.lock().unwrap().recv().is_ok())
        };
        (release, (0..calls).map(call).collect())
    }

    #[tokio::test]
    async fn calls_of_one_owner_leave_threads_to_others_and_do_not_count_for_ever() {
        let threads = Threads::for_owners(6);
        let (release_one, one) = hang(&threads, "one", 10);
        assert_eq!(one.iter().filter(|call| call.begun()()).count(), 4);
        assert_eq!(threads.submit(of("other"), || 7).result().await, Some(7));
        // A call is told before its thread is free.
        while threads.free() < 2 {
            tokio::task::yield_now().await;
        }
        let (release_two, two) = hang(&threads, "two", 10);
        assert_eq!(two.iter().filter(|call| call.begun()()).count(), 2, "these are all");
        let third = threads.submit(of("third"), || 7);
        assert_eq!(threads.stuck(), 0);
        assert!(!third.begun()() && !threads.is_stuck(&"one".into()));
        tokio::time::sleep(OVERDUE).await;
        assert_eq!(threads.stuck(), 6);
        threads.start_waiting();
        let mut third = third;
        assert_eq!(third.result().await, Some(7), "the overdue calls of the others do not stop it");
        assert!(threads.is_stuck(&"one".into()) && !threads.is_stuck(&"third".into()));
        assert_eq!(one.iter().filter(|call| call.begun()()).count(), 4, "no more calls of an owner than before");
        drop((release_one, release_two));
        for mut call in one.into_iter().chain(two) {
            assert_eq!(call.result().await, Some(false));
        }
        while threads.free() < 6 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn many_calls_at_once_use_few_threads() {
        let (threads, running) = (Threads::new(2), Arc::new(AtomicUsize::new(0)));
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let work = || {
            let (threads, running, wait) = (threads.clone(), running.clone(), wait.clone());
            async move {
                let count = move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(wait.lock().unwrap().recv().is_err(), "nothing is sent");
                    running.fetch_sub(1, Ordering::SeqCst);
                    (now, std::thread::current().id())
                };
                threads.run(count).await.unwrap()
            }
        };
        // All calls are there before the first ends. A thread that ends without a waiting call may be replaced.
        let all = futures_util::future::join_all((0..200).map(|_| work()));
        let (done, ()) = tokio::join!(all, async { drop(release) });
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
                tokio::spawn(async move { threads.submit(long(), call).result().await })
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
        assert_eq!(Threads::new(1).submit(Kind { owner: None, takes_long: true }, || 7).result().await, Some(7));
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
