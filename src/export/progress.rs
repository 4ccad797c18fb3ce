//! How far long work is: what is done, of how much, since when, how fast, and how long it still takes. Copies, walks
//! and checks count here; the log, answers to calls, metrics and `csi-nfs status` tell it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, interval_at};

/// How often the log tells how far long work is.
pub const TELL: Duration = Duration::from_secs(30);

/// The shortest time from which a rate is told: before, it would be chance.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// Counts what long work has done. It may be read at any time. A clone shares the counters.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    counters: Arc<Counters>,
    /// The counters of the whole that this is a part of.
    whole: Option<Arc<Counters>>,
}

#[derive(Debug, Default)]
struct Counters {
    begun: OnceLock<(Instant, SystemTime)>,
    entries: AtomicU64,
    bytes: AtomicU64,
    vanished: AtomicU64,
    /// How many parts there are, how many of them know how much they are, and how much these are.
    parts: AtomicU64,
    known: AtomicU64,
    expected: AtomicU64,
}

/// What long work has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Entries that are complete, directories included.
    pub entries: u64,
    /// Bytes of files' content, holes included; 0 where the work does not touch content.
    pub bytes: u64,
    /// Entries that were listed and then removed before their turn came.
    pub vanished: u64,
}

/// How far long work is at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// What is done.
    pub done: Totals,
    /// How many entries there are in all, if that is known and was not passed since.
    pub expected: Option<u64>,
    /// When the work began; `None` if it waits.
    pub started: Option<SystemTime>,
    /// How long it has been under way.
    pub took: Duration,
}

impl Progress {
    /// Notes that the work begins, if it has not begun.
    pub fn begin(&self) {
        for counters in self.and_whole() {
            counters.begun.get_or_init(|| (Instant::now(), SystemTime::now()));
        }
    }

    /// The progress of one of several parts, which begins now and counts for the whole, too.
    pub fn part(&self) -> Self {
        self.counters.parts.fetch_add(1, Ordering::Relaxed);
        let part = Self { counters: Arc::default(), whole: Some(Arc::clone(&self.counters)) };
        part.begin();
        part
    }

    /// Notes how many entries there are in all. Only the first call counts.
    pub fn expect(&self, entries: u64) {
        if self.counters.known.swap(1, Ordering::Relaxed) == 0 {
            self.counters.expected.store(entries, Ordering::Relaxed);
            if let Some(whole) = &self.whole {
                whole.expected.fetch_add(entries, Ordering::Relaxed);
                whole.known.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One more entry is complete.
    pub fn entry(&self) {
        self.entries(1);
    }

    /// More entries are complete.
    pub fn entries(&self, more: u64) {
        self.add(|counters| &counters.entries, more);
    }

    /// More bytes of content are complete.
    pub fn bytes(&self, more: u64) {
        self.add(|counters| &counters.bytes, more);
    }

    /// An entry was removed before its turn came.
    pub fn vanished(&self) {
        self.add(|counters| &counters.vanished, 1);
    }

    fn add(&self, counter: fn(&Counters) -> &AtomicU64, more: u64) {
        for counters in self.and_whole() {
            counter(counters).fetch_add(more, Ordering::Relaxed);
        }
    }

    fn and_whole(&self) -> impl Iterator<Item = &Counters> {
        [Some(&self.counters), self.whole.as_ref()].into_iter().flatten().map(|counters| &**counters)
    }

    /// What is done so far.
    pub fn totals(&self) -> Totals {
        let [entries, bytes, vanished] =
            [&self.counters.entries, &self.counters.bytes, &self.counters.vanished].map(|n| n.load(Ordering::Relaxed));
        Totals { entries, bytes, vanished }
    }

    /// How far the work is now.
    pub fn figures(&self) -> Figures {
        let done = self.totals();
        let [parts, known, expected] =
            [&self.counters.parts, &self.counters.known, &self.counters.expected].map(|n| n.load(Ordering::Relaxed));
        let is_known = known >= parts.max(1) && expected >= done.entries;
        let begun = self.counters.begun.get();
        Figures {
            done,
            expected: is_known.then_some(expected),
            started: begun.map(|(_, at)| *at),
            took: begun.map(|(at, _)| at.elapsed()).unwrap_or_default(),
        }
    }
}

impl Figures {
    /// Entries and bytes a second since the beginning; `None` in the first second.
    pub fn rate(&self) -> Option<(f64, f64)> {
        let seconds = Some(self.took).filter(|took| *took >= RATE_AFTER)?.as_secs_f64();
        Some((self.done.entries as f64 / seconds, self.done.bytes as f64 / seconds))
    }

    /// How long the work still takes if it goes on as before, in whole seconds.
    pub fn left(&self) -> Option<Duration> {
        let (entries, _) = self.rate().filter(|(entries, _)| *entries > 0.0)?;
        // An entry that is gone is none that is left.
        let left = self.expected?.saturating_sub(self.done.entries + self.done.vanished);
        Duration::try_from_secs_f64((left as f64 / entries).ceil()).ok()
    }
}

/// Without the `s` of a fraction: whole seconds.
fn rounded(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { entries, bytes, .. } = self.done;
        write!(f, "{entries}")?;
        if let Some(expected) = self.expected {
            write!(f, " of {expected}")?;
        }
        f.write_str(if self.expected.unwrap_or(entries) == 1 { " entry" } else { " entries" })?;
        if bytes > 0 {
            write!(f, ", {}", Bytes(bytes as f64))?;
        }
        if let Some((entries, each_second)) = self.rate() {
            let digits = usize::from(entries < 10.0);
            write!(f, " in {} ({entries:.digits$} entries/s", rounded(self.took))?;
            if bytes > 0 {
                write!(f, ", {}/s", Bytes(each_second))?;
            }
            f.write_str(")")?;
        }
        match self.left() {
            Some(left) if !left.is_zero() => write!(f, ", about {} left", rounded(left)),
            _ => Ok(()),
        }
    }
}

/// A number of bytes for a person, in units of 1024.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024.0 {
            return write!(f, "{:.0} B", self.0);
        }
        let mut value = self.0 / 1024.0;
        let mut units = UNITS.into_iter();
        let mut unit = units.next().unwrap_or_default();
        for larger in units {
            // What would be shown as 1024.0 is one of the next unit.
            if value < 1023.95 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        write!(f, "{value:.1} {unit}")
    }
}

/// Work of one kind that is under way, by what it is about. A clone refers to the same work.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<Works>>);

/// What each is about, and how far it is.
type Works = Vec<(Arc<str>, Progress)>;

impl UnderWay {
    /// Work begins, and is under way until the returned value is dropped.
    pub fn begin(&self, what: &str) -> Begun {
        let (what, progress) = (Arc::from(what), Progress::default());
        progress.begin();
        self.list().push((Arc::clone(&what), progress.clone()));
        Begun { list: self.clone(), what, progress }
    }

    /// What is under way, and how far, the oldest first.
    pub fn figures(&self) -> Vec<(String, Figures)> {
        self.list().iter().map(|(what, progress)| (what.to_string(), progress.figures())).collect()
    }

    /// How far the work about this is, if it is under way.
    pub fn of(&self, what: &str) -> Option<Figures> {
        self.list().iter().find(|(other, _)| **other == *what).map(|(_, progress)| progress.figures())
    }

    fn list(&self) -> MutexGuard<'_, Works> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that is under way until this is dropped.
#[derive(Debug)]
pub struct Begun {
    list: UnderWay,
    what: Arc<str>,
    /// How far it is.
    pub progress: Progress,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.list.list().retain(|(what, _)| !Arc::ptr_eq(what, &self.what));
    }
}

/// Does `work`. Calls `tell` now and then while it takes long: after `first`, and then after each `every`.
pub async fn told<T>(work: impl Future<Output = T>, (first, every): (Duration, Duration), mut tell: impl FnMut()) -> T {
    let mut ticks = interval_at(Instant::now() + first, every);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => tell(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn figures(entries: u64, expected: Option<u64>, seconds: u64) -> Figures {
        let done = Totals { entries, bytes: entries * (3 << 20), vanished: 0 };
        Figures { done, expected, started: None, took: Duration::from_secs(seconds) }
    }

    #[rstest]
    #[case(figures(0, None, 0), "0 entries")]
    #[case(figures(1, None, 0), "1 entry, 3.0 MiB")]
    #[case(figures(0, Some(1), 5), "0 of 1 entry in 5s (0.0 entries/s)")]
    #[case(figures(100, None, 50), "100 entries, 300.0 MiB in 50s (2.0 entries/s, 6.0 MiB/s)")]
    #[case(
        figures(1000, Some(10_000), 90),
        "1000 of 10000 entries, 2.9 GiB in 1m 30s (11 entries/s, 33.3 MiB/s), about 13m 30s left"
    )]
    fn figures_say_how_much_of_how_much_how_fast_and_how_long_it_still_takes(
        #[case] figures: Figures,
        #[case] text: &str,
    ) {
        assert_eq!(figures.to_string(), text);
    }

    #[rstest]
    #[case(1023.0, "1023 B")]
    #[case(1024.0, "1.0 KiB")]
    #[case(1024.0 * 1024.0 - 1.0, "1.0 MiB")]
    #[case(1.5 * (1u64 << 60) as f64, "1.5 EiB")]
    #[case(u64::MAX as f64, "16.0 EiB")]
    fn bytes_have_the_unit_that_a_person_would_use(#[case] bytes: f64, #[case] text: &str) {
        assert_eq!(Bytes(bytes).to_string(), text);
    }

    #[test]
    fn a_whole_knows_how_much_it_is_when_all_its_parts_do() {
        let whole = Progress::default();
        assert_eq!((whole.figures().started, whole.figures().expected), (None, None));
        let (one, two) = (whole.part(), whole.part());
        assert!(whole.figures().started.is_some());
        one.expect(3);
        one.expect(4);
        assert_eq!((one.figures().expected, whole.figures().expected), (Some(3), None));
        two.expect(2);
        one.entry();
        two.entries(2);
        let done = Totals { entries: 3, ..Totals::default() };
        assert_eq!((whole.figures().done, whole.figures().expected), (done, Some(5)));
    }

    #[test]
    fn a_number_that_the_work_has_passed_is_not_told() {
        let progress = Progress::default();
        progress.expect(1);
        progress.entry();
        assert_eq!(progress.figures().expected, Some(1));
        progress.entry();
        assert_eq!(progress.figures().expected, None);
    }

    #[test]
    fn work_is_under_way_until_it_ends() {
        let under_way = UnderWay::default();
        let (one, two) = (under_way.begin("v"), under_way.begin("v"));
        one.progress.entries(3);
        let far = |under_way: &UnderWay| -> Vec<u64> {
            under_way.figures().iter().map(|(_, figures)| figures.done.entries).collect()
        };
        assert_eq!(far(&under_way), [3, 0]);
        assert_eq!(under_way.of("v").map(|figures| figures.done.entries), Some(3));
        assert_eq!(under_way.of("w"), None);
        drop(one);
        assert_eq!(far(&under_way), [0]);
        drop(two);
        assert_eq!(under_way.figures(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn time_counts_from_the_beginning_of_the_work_and_not_of_the_wait() {
        let progress = Progress::default();
        tokio::time::advance(Duration::from_secs(9)).await;
        progress.begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        progress.begin();
        assert_eq!(progress.figures().took, Duration::from_secs(2));
    }
}
