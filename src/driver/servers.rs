//! The metrics of NFS servers, for the controller and the node.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::mount::gate::Gates;
use crate::mount::reachability::{Reachability, ServerState};
use crate::server::metrics::{Metrics, Reading};

/// A metric by server: its name, its help, and its value; `None` if there is none yet.
type ServerMetric = (&'static str, &'static str, fn(&ServerState) -> Option<f64>);
const METRICS: [ServerMetric; 3] = [
    ("server_reachable", "1 if the NFS server answered the last check, otherwise 0.", |state| {
        Some(if state.result.is_ok() { 1.0 } else { 0.0 })
    }),
    ("server_checked_timestamp_seconds", "When the NFS server was last checked.", |state| Some(seconds(state.checked))),
    ("server_round_trip_seconds", "How long the last check took that the NFS server answered.", |state| {
        state.round_trip.map(|took| took.as_secs_f64())
    }),
];

/// Registers the metrics of the servers in use, and of the threads that wait for them.
pub fn register(metrics: &Metrics, reachability: &Arc<Reachability>, gates: &Arc<Gates>) {
    let of = gates.clone();
    metrics.gauge("threads_stuck", "Threads that wait in the kernel for the server for more than 4 s.", move || {
        let stuck = of.stuck().into_iter();
        stuck.map(|(server, threads)| Reading::labelled("server", server.to_string(), threads as f64)).collect()
    });
    let of = gates.clone();
    metrics.counter("forced_waits", "Waits that ended because a server or an export stopped answering.", move || {
        of.forced_waits()
    });
    for (name, help, value) in METRICS {
        let known = Arc::clone(reachability);
        metrics.gauge(name, help, move || {
            let reading = |state: ServerState| {
                let labels = vec![("server", state.server.to_string()), ("port", state.port.to_string())];
                Some(Reading { labels, value: value(&state)? })
            };
            known.states().into_iter().filter_map(reading).collect()
        });
    }
}

/// A time as Prometheus has it: in seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
