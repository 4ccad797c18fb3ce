//! Volumes that are created as fast as the driver can, beside what is measured.

use std::cell::Cell;

use futures_util::future::join_all;

use crate::support::{Driver, Share, requests};

/// Creates volumes, so many at a time, until the work is done. Returns what the work returns, and how many volumes there
/// were then. Nobody waits for the calls that are in flight then.
pub async fn creating<T>(
    driver: &Driver,
    share: &Share,
    name: &str,
    in_flight: usize,
    work: impl Future<Output = T>,
) -> (T, usize) {
    let (begun, made) = (Cell::new(0), Cell::new(0));
    let create = async |_| loop {
        let number = begun.replace(begun.get() + 1);
        driver.create(requests::create(share, &format!("{name}-{number}"))).await.unwrap();
        made.set(made.get() + 1);
    };
    tokio::select! {
        worked = work => (worked, made.get()),
        _ = join_all((0..in_flight).map(create)) => unreachable!("it goes on for ever"),
    }
}
