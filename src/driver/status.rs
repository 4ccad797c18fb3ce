//! What the parts of the driver tell of themselves for `csi-nfs status`. Nothing here asks a server or waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::driver::Shared;
use crate::export::Export;
use crate::export::features::Feature;
use crate::export::fs::Fs;
use crate::export::pool::{Connect, Pool};
use crate::export::progress::UnderWay;
use crate::mount::reachability::ServerState;
use crate::nfs::source::Source;
use crate::node::mounts::kinds_now;
use crate::node::publish_intents::PublishIntents;
use crate::server::status::{self, Board, Lock, Mounts, Server, Space, Status, Work, rfc3339, short, tenths};
use crate::server::telemetry::Calls;
use crate::service::identity::{Readiness, State};
use crate::snapshot::copies::Copy;
use crate::snapshot::jobs::Jobs;
use crate::snapshot::turns;
use crate::watch::exports::{ExportWatch, Seen};

/// A wait for a lock that is shorter than this is none: the server was asked just now.
const WAIT_MIN: f64 = 0.1;
/// The most sources of a copy that are named.
const SOURCES: usize = 8;

/// The process tells what it is, which servers it uses, and its calls.
pub fn tell(config: &Config, shared: &Shared, readiness: &Readiness, calls: &Calls) {
    let (driver, settings) = (config.driver_name.to_string(), config.given.clone());
    let node = config.node.as_ref().map(|node| format!("node {}", node.id));
    let controller = config.controller.as_ref().map(|_| "controller".to_owned());
    let serves: Vec<String> = controller.into_iter().chain(node).collect();
    let started = rfc3339(SystemTime::now());
    let (readiness, calls, reachability) = (readiness.clone(), calls.clone(), shared.reachability.clone());
    shared.board.add(move |status| {
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.driver.clone_from(&driver);
        status.serves.clone_from(&serves);
        status.started.clone_from(&started);
        status.settings.extend(settings.iter().map(|setting| short(setting)));
        status.state = match readiness.state() {
            State::Starting => "starting",
            State::Serving => "serving",
            State::Draining => "draining",
        }
        .to_owned();
        status.servers.extend(reachability.states().into_iter().map(server));
        calls.tell(status);
    });
}

fn server(ServerState { server, port, result, since, checked, round_trip }: ServerState) -> Server {
    let (address, error) = match result {
        Ok(address) => (Some(address.to_string()), None),
        Err(reason) => (None, Some(short(&reason))),
    };
    let round_trip_seconds = round_trip.map(|took| took.as_secs_f64());
    let (since, checked) = (rfc3339(since), rfc3339(checked));
    Server { server: short(server.as_str()), port, address, error, round_trip_seconds, since, checked }
}

/// The controller tells its exports, its copies, and the locks that are waited for.
pub fn tell_controller<C: Connect>(board: &Board, pool: &Arc<Pool<C>>, jobs: &Arc<Jobs>, watch: &Arc<ExportWatch>) {
    let (pool, jobs, watch) = (pool.clone(), jobs.clone(), watch.clone());
    board.add(move |status: &mut Status| {
        let seen: BTreeMap<Source, Seen> = watch.seen().into_iter().collect();
        let connected = pool.connected();
        status.exports.extend(connected.iter().map(|connected| {
            let figures = seen.get(connected.source()).and_then(|seen| seen.figures.as_ref());
            let snapshot_bytes = figures.and_then(|figures| figures.snapshots_bytes);
            status::Export { snapshot_bytes, ..export(connected) }
        }));
        status.exports.sort_by(|a, b| a.export.cmp(&b.export));
        status.work.extend(jobs.copies().iter().map(copy));
        status.work.extend(connected.iter().filter_map(clearing));
        let of_export = |export: Arc<Export<C::Fs>>| {
            let name = export.source().to_string();
            export.lock_waits().into_iter().map(move |wait| (name.clone(), wait))
        };
        // Connections to one export share its locks.
        let exports: BTreeMap<String, _> =
            connected.into_iter().map(|export| (export.source().to_string(), export)).collect();
        let waits = exports.into_values().flat_map(of_export);
        let locks = waits.into_iter().map(|(export, wait)| Lock {
            export: short(&export),
            part: short(&wait.part),
            holder: if wait.elsewhere { "another controller" } else { "this driver" }.to_owned(),
            seconds: tenths(wait.since.elapsed()),
        });
        status.locks.extend(locks.filter(|lock| lock.seconds >= WAIT_MIN));
    });
}

fn export<F: Fs>(export: &Arc<Export<F>>) -> status::Export {
    let features = export.fs().features();
    let space = export.known_space().map(|(stat, at)| Space {
        bytes: stat.total_bytes,
        free_bytes: stat.available_bytes,
        inodes: stat.total_inodes,
        free_inodes: stat.free_inodes,
        seconds: at.elapsed().as_secs(),
    });
    status::Export {
        export: short(&export.source().to_string()),
        client: export.fs().client().to_owned(),
        version: export.fs().version().map(str::to_owned),
        locks: export.fs().locks_are_shared(),
        clone: features.get(Feature::Clone),
        xattrs: features.get(Feature::Xattrs),
        acls: features.get(Feature::Acls),
        space,
        snapshot_bytes: None,
        trash: export.trash.waiting(),
    }
}

fn copy(copy: &Copy) -> Work {
    let waits_for = match copy.state {
        turns::State::WaitsForLocks => Some("another controller's copy"),
        turns::State::WaitsForTurn => Some("its turn"),
        turns::State::Copies | turns::State::Ends => None,
    };
    Work {
        of: copy.of.iter().take(SOURCES).map(|of| short(of)).collect(),
        waits_for: waits_for.map(str::to_owned),
        seconds: tenths(copy.since.elapsed().unwrap_or_default()),
        ..Work::new("copy", &copy.export.to_string(), &copy.name, &copy.figures)
    }
}

/// The trash that is being cleared.
fn clearing<F: Fs>(export: &Arc<Export<F>>) -> Option<Work> {
    let figures = export.trash.clearing()?;
    let work = Work::new("clearing", &export.source().to_string(), "the trash", &figures);
    Some(Work { seconds: tenths(figures.took), ..work })
}

/// The node tells what is mounted, and the volumes whose files are being given to a group.
pub fn tell_node(board: &Board, intents: &Arc<PublishIntents>, regrouping: UnderWay) {
    let intents = intents.clone();
    board.add(move |status: &mut Status| {
        // The status does not tell security flavours apart.
        let mut mounts: BTreeMap<(String, String, &str), u64> = BTreeMap::new();
        for (kind, volumes) in kinds_now(&intents) {
            let fallback = kind.fallback();
            *mounts.entry((kind.server, kind.version, fallback)).or_default() += volumes;
        }
        status.mounts.extend(mounts.into_iter().map(|((server, version, fallback), volumes)| Mounts {
            server,
            version,
            fallback: fallback.to_owned(),
            volumes,
        }));
        status.work.extend(regrouping.figures().into_iter().map(|(volume, figures)| Work {
            seconds: tenths(figures.took),
            ..Work::new("fsGroup", &volume, "", &figures)
        }));
    });
}
