//! The quota agent, with its health and metrics over HTTP.

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use crate::agent;
use crate::agent::progress::{Board, Progress};
use crate::config::AgentConfig;
use crate::error::Result;
use crate::server::http;
use crate::server::metrics::{Metrics, Reading};
use crate::service::identity::Readiness;

/// A metric by path: its name, its help, and its value; `None` if there is none yet.
type PathMetric = (&'static str, &'static str, fn(&Progress) -> Option<u64>);
const METRICS: [PathMetric; 9] = [
    ("agent_active", "1 if this agent sets the limits of the path, 0 if it is on standby.", |progress| {
        Some(progress.is_active.into())
    }),
    ("agent_last_answer_timestamp_seconds", "When the agent last answered for a volume.", |progress| {
        Some(progress.answered).filter(|when| *when > 0)
    }),
    ("agent_last_look_timestamp_seconds", "When the agent last finished a look at all volumes.", |progress| {
        Some(progress.looked).filter(|when| *when > 0)
    }),
    ("agent_volumes_behind", "Volumes whose limits do not agree with their records yet.", |progress| {
        Some(progress.volumes_behind as u64)
    }),
    ("agent_walks_in_progress", "Walks that count what is in a tree.", |progress| Some(progress.walks as u64)),
    ("agent_walks_waiting", "Walks that wait until another one ends.", |progress| Some(progress.walks_waiting as u64)),
    ("agent_walked_entries", "Files and directories that the walks in progress have passed.", |progress| {
        Some(progress.walked)
    }),
    ("agent_look_entries", "Objects that the look in progress has looked at; nothing if there is none.", |progress| {
        Some(progress.look?.done.entries)
    }),
    ("agent_look_expected_entries", "Objects that the last look was about, while one is in progress.", |progress| {
        progress.look?.expected
    }),
];

/// Runs the agent until `shutdown` completes.
///
/// # Errors
/// Those of [`agent::run`], and the address that cannot be bound.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let paths = config.settings.paths.iter().map(|path| path.display().to_string());
    let board = Arc::new(Board::new(paths));
    let _http = match config.http_endpoint {
        Some(address) => {
            let (metrics, readiness) = (Arc::new(Metrics::default()), Readiness::default());
            register(&metrics, &board);
            readiness.serving();
            let listener = http::bind(address).await?;
            Some(AbortOnDropHandle::new(tokio::spawn(http::serve(listener, readiness, metrics))))
        }
        None => None,
    };
    agent::run(config.settings, &board, shutdown).await
}

fn register(metrics: &Metrics, board: &Arc<Board>) {
    for (name, help, value) in METRICS {
        let board = Arc::clone(board);
        metrics.gauge(name, help, move || {
            let reading =
                |(path, progress): (String, Progress)| Some(Reading::labelled("path", path, value(&progress)? as f64));
            board.read().into_iter().filter_map(reading).collect()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_metrics_and_no_time_before_there_is_one() {
        let board = Arc::new(Board::new(["/srv/a".to_owned(), "/srv/b".to_owned()]));
        let metrics = Metrics::default();
        register(&metrics, &board);
        let scraped = metrics.scrape();
        for line in ["csi_nfs_agent_active{path=\"/srv/a\"} 0.0", "csi_nfs_agent_volumes_behind{path=\"/srv/b\"} 0.0"] {
            assert!(scraped.lines().any(|other| other == line), "{line}\n{scraped}");
        }
        assert!(!scraped.contains("timestamp_seconds{"), "{scraped}");
    }
}
