//! The copies that this process makes. A copy continues when the call that started it ends. A retry of the call joins
//! it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::error::{Error, Result};
use crate::export::copy::Options;
use crate::export::progress::{Progress, TELL, told};
use crate::nfs::source::Server;
use crate::nfs::status::Status;
use crate::snapshot::copies::{About, Copy, Key};
use crate::snapshot::tree::How;
use crate::snapshot::turns::{self, Place};

/// How long after a copy's end its error is kept for a retry, if no caller waited for the copy.
const KEPT: Duration = Duration::from_secs(600);

struct Job {
    about: Arc<About>,
    cancel: CancellationToken,
    done: watch::Receiver<Option<Result<()>>>,
    /// When it ended, if it has.
    ended: Option<Instant>,
}

impl Job {
    fn has_ended(&self) -> bool {
        self.done.borrow().is_some() || self.done.has_changed().is_err()
    }

    fn running(&self) -> Running {
        Running { about: Arc::clone(&self.about), done: self.done.clone() }
    }
}

/// The copies of this process.
pub struct Jobs {
    jobs: Mutex<HashMap<Key, Job>>,
    /// The turns of each server. A server that is in use once is likely to be used again.
    turns: Mutex<HashMap<Server, Arc<Semaphore>>>,
    ending: CancellationToken,
    tasks: TaskTracker,
    options: Options,
}

/// A copy to wait for.
#[derive(Debug, Clone)]
pub struct Running {
    about: Arc<About>,
    done: watch::Receiver<Option<Result<()>>>,
}

impl Running {
    /// Waits for the copy's result. Cancel-safe.
    pub async fn wait(&mut self) -> Result<()> {
        let broke_off =
            || Error::Internal("the copy stopped without a result; the driver's log has the cause".to_owned());
        let ended = self.done.wait_for(Option::is_some).await.map_err(|_| broke_off())?;
        ended.clone().unwrap_or_else(|| Err(broke_off()))
    }

    /// The copy as it is now.
    pub fn copy(&self) -> Copy {
        self.about.copy()
    }
}

impl Jobs {
    /// Creates an empty list. `ending` cancels all copies because the process ends: each waiting call gets an error,
    /// and a retry finds the pending records.
    pub fn new(options: Options, ending: CancellationToken) -> Self {
        Self { jobs: Mutex::default(), turns: Mutex::default(), ending, tasks: TaskTracker::new(), options }
    }

    /// Starts a copy of the volumes or snapshots `of`, or joins the copy with the same key that is under way.
    pub fn join<W>(self: &Arc<Self>, key: Key, of: Vec<String>, work: impl FnOnce(How) -> W) -> Running
    where
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let mut jobs = self.lock();
        jobs.retain(|_, job| !job.has_ended() || job.ended.is_some_and(|ended| ended.elapsed() < KEPT));
        if let Some(job) = jobs.get(&key).filter(|job| !job.has_ended()) {
            return job.running();
        }
        let (ended, done) = watch::channel(None);
        let cancel = self.ending.child_token();
        let how = How {
            options: self.options.clone(),
            progress: Progress::default(),
            place: Place::among(self.turns_of(&key.0.server)),
            cancel: cancel.clone(),
            ending: self.ending.clone(),
        };
        let span = tracing::info_span!(parent: None, "copy", export = %key.0, copy = %key.1, of = of.join(" "));
        let (now, progress) = (how.place.now(), how.progress.clone());
        let about = Arc::new(About { key: key.clone(), of, now, progress, since: SystemTime::now() });
        let (all, work) = (self.clone(), work(how));
        let job = Job { about: about.clone(), cancel, done, ended: None };
        let running = job.running();
        jobs.insert(key.clone(), job);
        self.tasks.spawn(
            async move {
                let begun = Instant::now();
                let result = told(work, (TELL, TELL), || about.tell()).await;
                let (copied, took) = (about.progress.totals(), begun.elapsed());
                match &result {
                    Ok(()) => tracing::info!(entries = copied.entries, bytes = copied.bytes, ?took, "copy finished"),
                    Err(error) => {
                        tracing::warn!(entries = copied.entries, bytes = copied.bytes, ?took, %error, "copy failed")
                    }
                }
                let mut jobs = all.lock();
                // The list has one receiver of its own. If there is no other, the error is kept for the next call.
                if result.is_ok() || ended.receiver_count() > 1 {
                    jobs.remove(&key);
                } else if let Some(job) = jobs.get_mut(&key) {
                    job.ended = Some(Instant::now());
                }
                ended.send_replace(Some(result));
            }
            .instrument(span),
        );
        running
    }

    fn turns_of(&self, server: &Server) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(server.clone()).or_insert_with(turns::turns).clone()
    }

    /// Takes the error of a copy that failed while no caller waited for it.
    pub fn failure(&self, key: &Key) -> Option<Error> {
        let mut jobs = self.lock();
        let error = jobs.get(key)?.done.borrow().clone()?.err();
        jobs.remove(key);
        error
    }

    /// Cancels a copy, and waits until it has ended.
    pub async fn end(&self, key: &Key) {
        let job = self.lock().get(key).map(|job| (job.cancel.clone(), job.running()));
        if let Some((cancel, mut running)) = job {
            cancel.cancel();
            // The caller deletes the target of the copy, so the result does not matter.
            let _ = running.wait().await;
            self.failure(key);
        }
    }

    /// Ends a copy if the call that joined it is answered that something does not exist. The copy would fail for the
    /// same reason later, and its error would be kept for a call that has nothing to do with it.
    pub async fn end_after<T>(&self, key: &Key, answer: &Result<T>) {
        if matches!(answer, Err(Error::NotFound { .. })) {
            self.end(key).await;
        }
    }

    /// Cancels all copies of the volume or snapshot with this identifier.
    pub fn end_copies_of(&self, of: &str) {
        self.lock().values().filter(|job| job.about.of.iter().any(|one| one == of)).for_each(|job| job.cancel.cancel());
    }

    /// Waits until all copies, which are cancelled already, have ended, but no longer than `limit`.
    pub async fn ended(&self, limit: Duration) {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            for copy in self.copies() {
                tracing::warn!(export = %copy.export, copy = copy.name, far = %copy, "a copy did not end in time");
            }
        }
    }

    /// The copies that run or wait, as they are now, the oldest first.
    pub fn copies(&self) -> Vec<Copy> {
        let jobs = self.lock();
        let mut copies: Vec<Copy> = jobs.values().filter(|job| !job.has_ended()).map(|job| job.about.copy()).collect();
        copies.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
        copies
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a call whose copy has failed. A copy gives up the record with which it began. If `begun`, that of the call, is
/// still there, then the copy was for an earlier one, which was deleted during the copy, and the call has to be repeated.
pub async fn failed<R: PartialEq>(error: Error, begun: &R, now: impl Future<Output = Result<Option<R>>>) -> Error {
    let is_final = match &error {
        Error::UnderWay(_) | Error::Interrupted(_) | Error::Unreachable { .. } => false,
        Error::Export { status, .. } => !status.is_unanswered() && *status != Status::Stale,
        _ => true,
    };
    if is_final && now.await.is_ok_and(|now| now.as_ref() == Some(begun)) {
        return Error::Interrupted(format!(
            "the copy was begun anew while an earlier one went on, which has failed: {error}; call again"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;
    use crate::nfs::source::{Share, Source};
    use crate::snapshot::turns::{COPIES, State};
    use crate::testing::log::Log;

    #[tokio::test(start_paused = true)]
    async fn a_copy_tells_what_it_does_and_how_far_it_is() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let (next, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let told = (next.clone(), go.clone());
        let mut running = jobs.join(key("a"), vec!["v".to_owned()], async move |how: How| {
            told.0.notify_one();
            told.1.notified().await;
            let turn = how.place.turn(&how.cancel).await;
            let part = how.progress.part();
            part.expect(4);
            tokio::time::sleep(Duration::from_secs(10)).await;
            part.entries(1);
            part.bytes(20 << 20);
            told.0.notify_one();
            told.1.notified().await;
            drop(turn);
            told.0.notify_one();
            told.1.notified().await;
            Ok(())
        });
        next.notified().await;
        assert_eq!(running.copy().to_string(), "the copy waits until another controller is done with it");
        go.notify_one();
        next.notified().await;
        let told = "copied 1 of 4 entries, 20.0 MiB in 10s (0.1 entries/s, 2.0 MiB/s), about 30s left";
        assert_eq!(running.copy().to_string(), told);
        assert_eq!(jobs.copies(), [running.copy()]);
        go.notify_one();
        next.notified().await;
        assert_eq!(running.copy().state, State::Ends);
        go.notify_one();
        running.wait().await.unwrap();
        assert_eq!(jobs.copies(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_takes_long_is_in_the_log_every_thirty_seconds() {
        let (log, _logging) = Log::captured();
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let mut running = jobs.join(key("a"), vec!["v".to_owned()], async |how: How| {
            tokio::time::sleep(Duration::from_secs(35)).await;
            let _turn = how.place.turn(&how.cancel).await;
            how.progress.begin();
            how.progress.expect(3);
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(30)).await;
                how.progress.entry();
                how.progress.bytes(5);
            }
            Ok(())
        });
        running.wait().await.unwrap();
        let text = log.text();
        assert_eq!(text.lines().filter(|line| line.contains("a copy waits")).count(), 1, "{text}");
        let told: Vec<&str> = text.lines().filter(|line| line.contains("copying a tree")).collect();
        assert_eq!(told.len(), 3, "{text}");
        assert!(told[2].contains("entries=2 expected=3 bytes=10 vanished=0 seconds_left=43"), "{text}");
    }

    fn key(job: &str) -> Key {
        key_on("nfs", job)
    }

    fn key_on(server: &str, job: &str) -> Key {
        let export = Source::share(Server::parse("", server).unwrap(), Share::parse("", "/export").unwrap());
        (export, job.to_owned())
    }

    /// How many copies run, and how many wait.
    fn counts(jobs: &Jobs) -> (usize, usize) {
        let copies = jobs.copies();
        let running = copies.iter().filter(|copy| copy.state.is_running()).count();
        (running, copies.len() - running)
    }

    fn failed() -> Result<()> {
        Err(Error::Exhausted("full".to_owned()))
    }

    #[tokio::test]
    async fn a_second_call_joins_the_copy_of_the_first_and_both_get_its_result() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let end = Arc::new(Notify::new());
        let wait = end.clone();
        let mut first = jobs.join(key("a"), vec!["v".to_owned()], |_| async move {
            wait.notified().await;
            failed()
        });
        let mut second = jobs.join(key("a"), vec!["v".to_owned()], |_| async { Ok(()) });
        end.notify_one();
        assert_eq!((first.wait().await, second.wait().await), (failed(), failed()));
        assert_eq!(jobs.failure(&key("a")), None, "both calls have the error already");
    }

    #[tokio::test]
    async fn an_error_that_no_call_waited_for_is_returned_once_to_the_next_call() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        drop(jobs.join(key("a"), vec!["v".to_owned()], |_| async { failed() }));
        jobs.tasks.close();
        jobs.tasks.wait().await;
        assert_eq!(jobs.failure(&key("a")), failed().err());
        assert_eq!(jobs.failure(&key("a")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_a_copy_whose_caller_was_answered_otherwise_is_not_kept() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let work = async |how: How| {
            how.cancel.cancelled().await;
            failed()
        };
        drop(jobs.join(key("a"), vec!["v".to_owned()], work));
        jobs.end_after(&key("a"), &Ok(())).await;
        assert_eq!(jobs.failure(&key("a")), None, "it goes on");
        jobs.end_after(&key("a"), &Err::<(), _>(Error::not_found("volume `v`", "it is gone"))).await;
        assert_eq!(jobs.failure(&key("a")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_a_copy_that_took_long_is_kept_as_long_as_any_other() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        drop(jobs.join(key("a"), vec!["v".to_owned()], |_| async {
            tokio::time::sleep(2 * KEPT).await;
            failed()
        }));
        tokio::time::sleep(2 * KEPT + KEPT / 2).await;
        jobs.join(key("b"), vec!["v".to_owned()], |_| async { Ok(()) }).wait().await.unwrap();
        assert_eq!(jobs.failure(&key("a")), failed().err());
    }

    #[tokio::test]
    async fn copies_end_when_their_source_or_target_is_deleted_or_the_process_ends() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let work = |how: How| async move {
            how.cancel.cancelled().await;
            failed()
        };
        let (mut a, mut b) =
            (jobs.join(key("a"), vec!["v".to_owned()], work), jobs.join(key("b"), vec!["w".to_owned()], work));
        let mut c = jobs.join(key("c"), vec!["w".to_owned()], work);
        jobs.end_copies_of("v");
        assert_eq!(a.wait().await, failed());
        jobs.end(&key("b")).await;
        assert_eq!(b.wait().await, failed());
        jobs.ending.cancel();
        jobs.ended(Duration::from_secs(60)).await;
        assert_eq!(c.wait().await, failed());
    }

    #[tokio::test]
    async fn copies_beyond_the_limit_wait_for_their_turn_and_do_not_stop_another_server() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let gate = Arc::new(Notify::new());
        let mut running: Vec<Running> = (0..COPIES + 2)
            .map(|n| {
                let gate = gate.clone();
                jobs.join(key(&n.to_string()), vec!["v".to_owned()], |how| async move {
                    let _turn = how.place.turn(&how.cancel).await;
                    gate.notified().await;
                    Ok(())
                })
            })
            .collect();
        while counts(&jobs).0 < COPIES {
            tokio::task::yield_now().await;
        }
        assert_eq!(counts(&jobs), (COPIES, 2));
        let take_turn = |how: How| async move {
            drop(how.place.turn(&how.cancel).await);
            Ok(())
        };
        jobs.join(key_on("other", "0"), vec!["w".to_owned()], take_turn).wait().await.unwrap();
        while let Some(mut copy) = running.pop() {
            while tokio::time::timeout(Duration::from_millis(1), copy.wait()).await.is_err() {
                gate.notify_one();
            }
        }
        assert_eq!(counts(&jobs), (0, 0));
    }

    #[tokio::test]
    async fn a_copy_that_broke_off_is_joined_by_nobody() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let broken = jobs.join(key("v"), vec!["v".to_owned()], async |_| panic!("the copy breaks off")).wait().await;
        assert!(matches!(broken, Err(Error::Internal(_))), "{broken:?}");
        assert_eq!(jobs.join(key("v"), vec!["v".to_owned()], async |_| Ok(())).wait().await, Ok(()));
    }

    #[tokio::test]
    async fn a_copy_that_only_waits_for_a_lock_takes_no_turn() {
        let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
        let waiting = |n: usize| {
            jobs.join(key(&n.to_string()), vec!["v".to_owned()], async move |how: How| {
                how.cancel.cancelled().await;
                Ok(())
            })
        };
        let _waiting: Vec<Running> = (0..2 * COPIES).map(waiting).collect();
        let take_turn = |how: How| async move {
            drop(how.place.turn(&how.cancel).await);
            Ok(())
        };
        jobs.join(key("other"), vec!["w".to_owned()], take_turn).wait().await.unwrap();
        assert_eq!(counts(&jobs), (0, 2 * COPIES));
    }
}
