//! `make bench`: the speed of the driver on real NFS servers. `make bench BENCH=copies` runs one part: `calls`,
//! `requests`, `scale`, `quotas`, `copies`, `volumes`, `many`, `fsgroup` or `soak`; `slow`, `crowded`, `trash` and
//! `million` only run when they are named. With `CSI_NFS_E2E_RUNS=FOLDER` it keeps the figures of the pictures there. `RTT=0.4` gives the
//! network a round trip of so many milliseconds, and `FLUSH=10` the disk of the XFS export flushes that take so long.
//! `VOLUMES` and `FILES` are the sizes of the parts that only run when they are named, and `CSI_NFS_CLIENT` is the only
//! client that `crowded`, `trash` and `slow` measure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark has nobody to report to")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

use std::time::{Duration, Instant};

#[path = "../tests/support/mod.rs"]
mod support;

mod bare;
mod calls;
mod copies;
mod crowded;
mod fsgroup;
mod load;
mod operations;
mod processes;
mod quotas;
mod run;
mod scale;
mod slow;
mod soak;
mod trash;
mod volumes;

use support::Lab;

/// The clients of NFS that the controller has (`--client`).
const CLIENTS: [&str; 2] = ["kernel", "own"];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let lab = Lab::alone_for(Duration::from_secs(2700)).await;
    let _network = round_trip().map(|delay| lab.with_delay(&delay));
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name| part.as_deref().is_none_or(|part| part == name);
    if wanted("calls") {
        calls::run(&lab).await;
    }
    if wanted("requests") {
        operations::run(&lab).await;
    }
    if wanted("scale") {
        scale::run(&lab).await;
    }
    if wanted("quotas") {
        quotas::run(&lab).await;
    }
    if wanted("copies") {
        copies::run(&lab).await;
    }
    if wanted("volumes") {
        volumes::run(&lab).await;
    }
    if wanted("many") {
        copies::many(&lab).await;
    }
    // These take minutes.
    match part.as_deref() {
        Some("slow") => slow::run(&lab).await,
        Some("crowded") => crowded::run(&lab).await,
        Some("trash") => trash::run(&lab).await,
        Some("million") => copies::million(&lab).await,
        _ => {}
    }
    if wanted("fsgroup") {
        fsgroup::run(&lab).await;
    }
    if wanted("soak") {
        soak::run(&lab).await;
    }
}

/// The clients that a part measures in turn: both, or the one that `CSI_NFS_CLIENT` names.
fn clients() -> Vec<String> {
    let both = || CLIENTS.map(str::to_owned).to_vec();
    std::env::var("CSI_NFS_CLIENT").map_or_else(|_| both(), |client| vec![client])
}

/// The number that an environment variable gives, if it is set.
fn number(variable: &str, usual: usize) -> usize {
    let given = std::env::var(variable).ok().filter(|text| !text.is_empty());
    given.map_or(usual, |text| text.parse().unwrap())
}

/// What one way takes on a network of which `RTT` gives the round trip in ms.
fn round_trip() -> Option<String> {
    /// A round trip without any delay, in ms.
    const LEAST: f64 = 0.1;
    let milliseconds: f64 = std::env::var("RTT").ok().filter(|text| !text.is_empty())?.parse().unwrap();
    assert!(milliseconds >= LEAST, "RTT={milliseconds}: the round trip is {LEAST} ms without a delay");
    Some(format!("{:.0}us", (milliseconds - LEAST) / 2.0 * 1e3))
}

/// Measured values of one kind, one for each round.
#[derive(Default)]
struct Series(Vec<f64>);

impl Series {
    fn median(&self) -> f64 {
        percentile(self.0.clone(), 50)
    }

    /// The least and the most.
    fn range(&self) -> (f64, f64) {
        self.0.iter().fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)))
    }

    fn spread(&self) -> String {
        let (least, most) = self.range();
        format!("{least:.2} to {most:.2}")
    }
}

fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The duration of each piece of work in ms.
async fn each<F: Future>(works: impl IntoIterator<Item = F>) -> Vec<f64> {
    let mut took = Vec::new();
    for work in works {
        let start = Instant::now();
        work.await;
        took.push(ms(start.elapsed()));
    }
    took
}

/// The p50 of so many calls of the work, which gets the call's number, in ms.
fn timed(calls: usize, mut work: impl FnMut(usize)) -> f64 {
    let one = |n| {
        let start = Instant::now();
        work(n);
        ms(start.elapsed())
    };
    percentile((0..calls).map(one).collect(), 50)
}
