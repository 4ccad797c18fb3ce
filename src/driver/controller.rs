//! The controller's part: the exports, the copies, and the Controller and Group Controller services.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use crate::config::ControllerConfig;
use crate::driver::{CLOSING, Shared, copies, exports, status, volumes};
use crate::export::Export;
use crate::export::client::{Clients, ExportFs};
use crate::export::copy::Options;
use crate::export::fs::Fs as _;
use crate::export::pool::Pool;
use crate::export::user::UserSpace;
use crate::server::Services;
use crate::server::metrics::{Metrics, Reading};
use crate::service::controller::Controller;
use crate::service::proto::csi::controller_server::ControllerServer;
use crate::service::proto::csi::group_controller_server::GroupControllerServer;
use crate::snapshot::jobs::Jobs;
use crate::volume::exports::Exports;
use crate::watch::exports::ExportWatch;

/// The parts of the controller that run besides its services.
pub struct Running {
    pool: Arc<Pool<Clients>>,
    own: UserSpace,
    jobs: Arc<Jobs>,
    background: AbortOnDropHandle<()>,
}

/// Starts the controller's part and adds its services.
pub fn start(config: ControllerConfig, shared: &Shared, services: &mut Services) -> Running {
    let configured = &config.settings.mount_options;
    let named = configured.exports.keys().chain(&config.exports);
    let known: Vec<_> = named.map(|export| (export.clone(), configured.of(export).clone())).collect();
    let own = UserSpace::new(shared.reachability.clone(), config.client_name.unwrap_or_else(UserSpace::unique_owner))
        .with_certificates(config.certificates);
    let pool = Arc::new(Pool::new(Clients::new(config.client, shared.mounter.clone(), own.clone()), known));
    let (watched, watch) = (Arc::new(Exports::new(pool.clone(), configured.clone())), Arc::new(ExportWatch::default()));
    let jobs = Arc::new(Jobs::new(Options { in_flight: config.copy_workers }, shared.stop.clone()));
    register_metrics(&shared.metrics, &pool);
    copies::register(&shared.metrics, &pool, &jobs);
    exports::register(&shared.metrics, &watch);
    volumes::register(&shared.metrics, &watch);
    status::tell_controller(&shared.board, &pool, &jobs, &watch);
    let controller = Arc::new(Controller::new(pool.clone(), config.settings, jobs.clone()));
    services.add(ControllerServer::from_arc(controller.clone()));
    services.add(GroupControllerServer::from_arc(controller));
    let metrics_are_read = shared.metrics_are_read;
    let keep_watch = async move {
        if metrics_are_read {
            watch.keep(&watched).await;
        }
    };
    let kept = pool.clone();
    let background = tokio::spawn(async move { tokio::join!(kept.open_known(), kept.close_idle(), keep_watch).1 });
    Running { pool, own, jobs, background: AbortOnDropHandle::new(background) }
}

impl Running {
    /// Stops the copies and closes the exports.
    pub async fn close(self) {
        self.background.abort();
        // Once the cancelled task has ended, it no longer holds the pool.
        let _ = self.background.await;
        self.jobs.ended(CLOSING).await;
        self.pool.close().await;
        self.own.ended().await;
    }
}

fn register_metrics(metrics: &Metrics, pool: &Arc<Pool<Clients>>) {
    let locked = pool.clone();
    metrics.histogram("lock_wait_seconds", "How long calls waited for locks on the export.", "export", move || {
        locked.lock_waits().into_iter().map(|(share, waits)| (share.to_string(), waits)).collect()
    });
    let trashed = pool.clone();
    metrics.gauge("trash_entries", "Deleted volumes that are still in the trash.", move || {
        let reading = |export: Arc<Export<ExportFs>>| {
            Reading::labelled("export", export.source().to_string(), export.trash.waiting() as f64)
        };
        trashed.connected().into_iter().map(reading).collect()
    });
    let reached = pool.clone();
    let help = "1 if the driver's own client reaches the export, 0 if the kernel's does.";
    metrics.gauge("export_own_client", help, move || {
        let reading = |export: Arc<Export<ExportFs>>| {
            let own = export.fs().client() == "own";
            Reading::labelled("export", export.source().to_string(), f64::from(u8::from(own)))
        };
        reached.connected().into_iter().map(reading).collect()
    });
    let cleared = pool.clone();
    let help = "Files and directories that the clearing of the trash has removed; nothing if none is in progress.";
    metrics.gauge("trash_removed_entries", help, move || {
        let reading = |export: Arc<Export<ExportFs>>| {
            let removed = export.trash.clearing()?.done.entries;
            Some(Reading::labelled("export", export.source().to_string(), removed as f64))
        };
        cleared.connected().into_iter().filter_map(reading).collect()
    });
}
