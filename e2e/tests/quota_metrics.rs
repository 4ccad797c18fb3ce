//! What the quota agent tells over HTTP.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::quota::required;
use crate::support::agent::Agent;
use crate::support::driver::program;
use crate::support::wait::until;
use crate::support::{Driver, Lab, Place, http};

const ADDRESS: &str = "127.0.0.11:9189";

/// The value of an agent's metric for a path.
fn metric(name: &str, path: &str) -> Option<f64> {
    let start = format!("csi_nfs_agent_{name}{{path=\"{path}\"}} ");
    http::get(ADDRESS, "/metrics").lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

#[tokio::test]
async fn the_agent_tells_how_far_it_is() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let path = share.path.display().to_string();
    let _agent = Agent::by(Command::new(program()), &["--http-endpoint", ADDRESS], &[&share]);
    let alive = || std::net::TcpStream::connect(ADDRESS).is_ok().then_some(());
    until("the agent's HTTP port", Duration::from_secs(10), alive).await;
    assert!(http::get(ADDRESS, "/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!((metric("active", &path), metric("last_look_timestamp_seconds", &path)), (Some(0.0), None));

    let driver = Driver::start().await;
    driver.create(required(&share, "v", 16)).await.unwrap();
    let settled = || (metric("volumes_behind", &path)? == 0.0 && metric("active", &path)? == 1.0).then_some(());
    until("the volume's limit", Duration::from_secs(30), settled).await;
    let looked = || metric("last_look_timestamp_seconds", &path);
    let looked = until("a look at all volumes", Duration::from_secs(30), looked).await;
    let answered = metric("last_answer_timestamp_seconds", &path).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - looked).abs() < 60.0 && (now - answered).abs() < 60.0, "{now} {looked} {answered}");

    // A record that no agent understands is behind for as long as it is there.
    let bad = share.path.join(".csi-nfs/volumes/bad.json");
    fs::write(&bad, r#"{"version": 9999}"#).unwrap();
    let behind = || (metric("volumes_behind", &path)? == 1.0).then_some(());
    until("a volume that is behind", Duration::from_secs(30), behind).await;
    fs::remove_file(&bad).unwrap();
    until("the end of that", Duration::from_secs(30), settled).await;
    assert_eq!((metric("walks_in_progress", &path), metric("walks_waiting", &path)), (Some(0.0), Some(0.0)));
}
