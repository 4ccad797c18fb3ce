//! Creations on two exports at once, when the server of one of them is slow: how long those on the other take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use crate::load::creating;
use crate::run::Run;
use crate::support::{Driver, Lab, Place, Share, mounts, requests};
use crate::{Series, clients, each, percentile};

const ROUNDS: usize = 5;
/// The number of calls in flight on each export.
const IN_FLIGHT: usize = 100;
/// The number of creations that are measured in each round.
const CALLS: usize = 1000;
/// What each packet to the slow server takes longer. With much less, that server would take much of the processor, which
/// all share.
const DELAY: &str = "500ms";
/// How long the calls on the slow server run before the others begin.
const BEFORE: Duration = Duration::from_secs(10);

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let _slow = lab.with_slow_ganesha(DELAY);
    println!(
        "\nCreateVolume, {IN_FLIGHT} in flight on the kernel's server with XFS, and as many on NFS-Ganesha, whose network \
         takes {DELAY}. {CALLS} calls, median of {ROUNDS} rounds.\n"
    );
    println!("{:8} {:>5} {:>26} {:>26} {:>6}  goal", "client", "", "alone", "beside the slow one", "ratio");
    let mut picture = Run::bars(
        "slow-server",
        "CreateVolume, 100 in flight, alone and beside 100 on a slow server",
        "ms",
        &["alone", "beside the slow server"],
    );
    for client in clients() {
        let (share, slow) = (lab.share(Place::Xfs), lab.share(Place::Ganesha));
        let [mut p50, mut p99] = [(); 2].map(|()| [Series::default(), Series::default()]);
        let mut on_slow = 0;
        for round in 1..=ROUNDS {
            eprintln!("{client} client: round {round} of {ROUNDS}");
            // The driver before this one has left calls on the slow server.
            mounts::no_nfs_is_left().await;
            let driver = Driver::with(&["-v=0", &format!("--client={client}")]).await;
            // Connected, as exports in use are.
            for share in [&share, &slow] {
                driver.create(requests::create(share, "first")).await.unwrap();
            }
            let alone = burst(&driver, &share, format!("alone-{round}")).await;
            let measured = async {
                tokio::time::sleep(BEFORE).await;
                burst(&driver, &share, format!("beside-{round}")).await
            };
            let (beside, made) = creating(&driver, &slow, &format!("slow-{round}"), IN_FLIGHT, measured).await;
            on_slow += made;
            for (n, took) in [alone, beside].into_iter().enumerate() {
                p50[n].0.push(percentile(took.clone(), 50));
                p99[n].0.push(percentile(took, 99));
            }
        }
        for (what, series, goal) in [("p50", &p50, ""), ("p99", &p99, "1.5")] {
            let [alone, beside] =
                series.each_ref().map(|series| format!("{:.0} ms ({})", series.median(), series.spread()));
            let ratio = series[1].median() / series[0].median();
            println!("{client:8} {what:>5} {alone:>26} {beside:>26} {ratio:>6.2}  {goal}");
            picture.row(&format!("{what}, {client} client"), 1.0, &series.each_ref().map(Some));
        }
        println!("{client:8} {on_slow} volumes were made on the slow server meanwhile");
    }
    picture.keep();
}

/// Creates volumes, several at a time. Returns the duration of each call in ms.
async fn burst(driver: &Driver, share: &Share, name: String) -> Vec<f64> {
    let next = AtomicUsize::new(0);
    let create = || async {
        let number = next.fetch_add(1, Ordering::Relaxed);
        driver.create(requests::create(share, &format!("{name}-{number}"))).await.unwrap();
    };
    let calls = stream::iter(0..CALLS).map(|_| each([create()]));
    calls.buffer_unordered(IN_FLIGHT).concat().await
}
