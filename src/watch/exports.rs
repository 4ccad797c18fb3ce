//! The exports in use, each with the task that looks at it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, FsStat};
use crate::export::pool::Connect;
use crate::nfs::source::{Server, Source};
use crate::volume::exports::Exports;
use crate::watch::figures::{Figures, Memory};
use crate::watch::volumes::{Round, VolumeWatch};

/// The pause between two looks at an export.
const EVERY: Duration = Duration::from_secs(30);
/// The longest pause, for an export whose looks take long.
const RARELY: Duration = Duration::from_secs(600);
/// How many times longer than a look the pause after it is.
const PAUSE_PER_LOOK: u32 = 20;
/// How soon a look at an export begins that a call uses for the first time.
const SOON: Duration = Duration::from_secs(5);
/// An export is in use for this long after a call has used it.
const USED: Duration = Duration::from_secs(600);
/// An export that answers no quick operation for this long is told of as unreachable.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for reading all figures, with listings of directories.
const PATIENCE_WITH_LISTINGS: Duration = Duration::from_secs(120);
/// How many exports of one server may be silent before no look begins at its others: each look that hangs has a thread
/// of the server's gate, and calls need the rest.
const SILENT: usize = 4;

/// What was last seen of the exports in use.
#[derive(Debug, Default)]
pub struct ExportWatch {
    seen: Mutex<BTreeMap<Source, Seen>>,
    /// What was last seen of their volumes.
    pub volumes: VolumeWatch,
    /// The servers of the exports whose looks hang.
    silent: Mutex<Vec<Server>>,
}

/// What was last seen of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Whether it answered.
    pub reachable: bool,
    /// When that was seen.
    pub checked: SystemTime,
    /// Its file system; `None` if it does not answer.
    pub stat: Option<FsStat>,
    /// What the driver has on it; `None` if it does not answer.
    pub figures: Option<Figures>,
    /// Whether the driver has anything on it, at the last look that was answered.
    pub holds_anything: bool,
}

impl ExportWatch {
    /// What was last seen of each export in use, in order. Waits for nothing.
    pub fn seen(&self) -> Vec<(Source, Seen)> {
        self.all().iter().map(|(share, seen)| (share.clone(), seen.clone())).collect()
    }

    /// Looks at all exports in use, without end. An export is in use if the driver's flags name it, if a call used it
    /// in the last ten minutes, or if anything of the driver's is on it.
    pub async fn keep<C: Connect>(self: &Arc<Self>, exports: &Arc<Exports<C>>) {
        let (mut tasks, mut watched) = (JoinSet::new(), BTreeSet::new());
        loop {
            for (share, _) in exports.known() {
                if self.is_in_use(exports, &share) && watched.insert(share.clone()) {
                    tasks.spawn(Self::watch(self.clone(), exports.clone(), share));
                }
            }
            tokio::time::sleep(SOON).await;
            while let Some(ended) = tasks.try_join_next() {
                if let Ok(share) = ended {
                    watched.remove(&share);
                }
            }
        }
    }

    /// Looks at an export for as long as it is in use. Returns the export.
    async fn watch<C: Connect>(self: Arc<Self>, exports: Arc<Exports<C>>, share: Source) -> Source {
        let (mut memory, mut round) = (Memory::default(), Round::default());
        while self.is_in_use(&exports, &share) {
            let begun = Instant::now();
            let pause = match self.look(&exports, &share, &mut memory).await {
                // A look that hung says nothing about what the next one costs.
                Ok(()) if begun.elapsed() > PATIENCE_WITH_LISTINGS => EVERY,
                Ok(()) => begun.elapsed() * PAUSE_PER_LOOK,
                Err(error) => {
                    tracing::debug!(export = %share, %error, "a look at the export failed");
                    self.failed(&share);
                    EVERY
                }
            };
            let next = Instant::now() + pause.clamp(EVERY, RARELY);
            if let Err(error) = self.look_at_volumes(&exports, &share, &mut round, next).await {
                tracing::debug!(export = %share, %error, "a look at the volumes of the export failed");
                self.volumes.forget(&share);
                round = Round::default();
            }
            tokio::time::sleep_until(next).await;
        }
        self.all().remove(&share);
        self.volumes.forget(&share);
        share
    }

    fn is_in_use<C: Connect>(&self, exports: &Exports<C>, share: &Source) -> bool {
        exports.pool().is_used(share, USED) || self.all().get(share).is_some_and(|seen| seen.holds_anything)
    }

    /// Looks at an export once, and once more if its connection is stale.
    async fn look<C: Connect>(&self, exports: &Exports<C>, share: &Source, memory: &mut Memory) -> Result<()> {
        if self.is_silent(&share.server) {
            return Ok(());
        }
        let options = exports.usual(share);
        let connect = || self.patiently(share, PATIENCE, exports.pool().look(share, &options));
        let export = connect().await?;
        match self.look_at(&export, memory).await {
            Err(Error::Export { status, .. }) if exports.pool().failed(&export, &options, status).await => {
                let export = connect().await?;
                self.look_at(&export, memory).await
            }
            done => done,
        }
    }

    /// Looks at the volumes of an export until the next look at the export itself, if it answers.
    async fn look_at_volumes<C: Connect>(
        &self,
        exports: &Exports<C>,
        share: &Source,
        round: &mut Round,
        next: Instant,
    ) -> Result<()> {
        if self.all().get(share).is_none_or(|seen| !seen.reachable) {
            self.volumes.forget(share);
            *round = Round::default();
            return Ok(());
        }
        let options = exports.usual(share);
        while round.due().max(Instant::now()) < next && !self.is_silent(&share.server) {
            tokio::time::sleep_until(round.due()).await;
            let begun = Instant::now();
            let export = self.patiently(share, PATIENCE, exports.pool().look(share, &options)).await?;
            self.patiently(share, PATIENCE_WITH_LISTINGS, round.slice(&export, &self.volumes)).await?;
            tokio::time::sleep_until(next.min(Instant::now() + begun.elapsed() * PAUSE_PER_LOOK)).await;
        }
        Ok(())
    }

    async fn look_at<F: Fs>(&self, export: &Export<F>, memory: &mut Memory) -> Result<()> {
        let share = export.source();
        let stat = self.patiently(share, PATIENCE, export.stat()).await?;
        self.note(share, |seen| seen.stat = Some(stat));
        let figures = self.patiently(share, PATIENCE_WITH_LISTINGS, Figures::read(export, memory)).await?;
        self.note(share, |seen| {
            seen.figures = Some(figures);
            seen.holds_anything = figures.holds_anything();
        });
        Ok(())
    }

    /// Waits for a part of a look, however long it takes: to give it up would leave its thread in the kernel and begin
    /// another. After `patience`, the export is told of as unreachable.
    async fn patiently<T>(
        &self,
        share: &Source,
        patience: Duration,
        part: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut part = pin!(part);
        if let Ok(done) = timeout(patience, &mut part).await {
            return done;
        }
        self.failed(share);
        self.silent().push(share.server.clone());
        let _no_longer = NoLonger { watch: self, server: &share.server };
        part.await
    }

    /// Notes that the export has answered.
    fn note(&self, share: &Source, what: impl FnOnce(&mut Seen)) {
        let mut all = self.all();
        let seen = all.entry(share.clone()).or_insert_with(Seen::nothing);
        (seen.reachable, seen.checked) = (true, SystemTime::now());
        what(seen);
    }

    /// Notes that the export has not answered.
    fn failed(&self, share: &Source) {
        let mut all = self.all();
        let seen = all.entry(share.clone()).or_insert_with(Seen::nothing);
        *seen = Seen { holds_anything: seen.holds_anything, ..Seen::nothing() };
    }

    /// Whether too many looks at exports of the server hang.
    fn is_silent(&self, server: &Server) -> bool {
        self.silent().iter().filter(|silent| *silent == server).count() >= SILENT
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Source, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self) -> MutexGuard<'_, Vec<Server>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// An export that does not answer now.
    fn nothing() -> Self {
        Self { reachable: false, checked: SystemTime::now(), stat: None, figures: None, holds_anything: false }
    }
}

/// A look that hangs. It no longer does when this is dropped.
struct NoLonger<'a> {
    watch: &'a ExportWatch,
    server: &'a Server,
}

impl Drop for NoLonger<'_> {
    fn drop(&mut self) {
        let mut silent = self.watch.silent();
        if let Some(at) = silent.iter().position(|server| server == self.server) {
            silent.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::export::pool::Pool;
    use crate::nfs::options::MountOptions;
    use crate::testing::memory::{MemoryServer, Node};
    use crate::testing::memory_servers::{Process, Servers, export_of};
    use crate::volume::exports::Configured;

    struct Lab {
        servers: Arc<Servers>,
        exports: Arc<Exports<Arc<Process>>>,
        watch: Arc<ExportWatch>,
        _keeping: AbortOnDropHandle<()>,
    }

    /// A process that watches the exports `names` as soon as it uses them.
    fn watch(names: &[&str]) -> Lab {
        let servers = names.iter().map(|name| (export_of(name), MemoryServer::new())).collect();
        let servers = Servers::new(servers, "");
        let pool = Arc::new(Pool::new(Process::new(&servers), []));
        let exports = Arc::new(Exports::new(pool, Configured::default()));
        let watch = Arc::new(ExportWatch::default());
        let (kept, of) = (watch.clone(), exports.clone());
        let keeping =
            AbortOnDropHandle::new(tokio::spawn(async move { tokio::join!(kept.keep(&of), of.pool().close_idle()).0 }));
        Lab { servers, exports, watch, _keeping: keeping }
    }

    impl Lab {
        async fn call(&self, name: &str) {
            self.exports.pool().get(&export_of(name), &MountOptions::default()).await.unwrap();
        }

        fn seen(&self, name: &str) -> Option<Seen> {
            self.watch.seen().into_iter().find(|(share, _)| *share == export_of(name)).map(|(_, seen)| seen)
        }

        fn plant(&self, name: &str, path: &str) {
            self.servers.servers[&export_of(name)].plant(path, Node::file(0o600, "{}")).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_export_is_looked_at_for_ten_minutes_after_its_last_call() {
        let lab = watch(&["a"]);
        assert_eq!(lab.seen("a"), None);
        lab.call("a").await;
        tokio::time::sleep(2 * SOON).await;
        let seen = lab.seen("a").unwrap();
        assert!(seen.reachable && seen.stat.is_some_and(|stat| stat.total_bytes > 0), "{seen:?}");
        tokio::time::sleep(USED / 2).await;
        assert!(lab.seen("a").is_some());
        tokio::time::sleep(USED).await;
        assert_eq!(lab.seen("a"), None);
        assert!(lab.exports.pool().connected().is_empty(), "the looks do not keep the connection");
    }

    #[tokio::test(start_paused = true)]
    async fn an_export_with_volumes_is_looked_at_without_calls_and_its_figures_end_while_it_is_unreachable() {
        let lab = watch(&["a"]);
        for path in ["lock", "volumes/v.json", "paths/x", "staging/x", "trash/x", "snapshots/x"] {
            lab.plant("a", &format!(".csi-nfs/{path}"));
        }
        lab.call("a").await;
        tokio::time::sleep(10 * USED).await;
        let seen = lab.seen("a").unwrap();
        assert!(seen.reachable && seen.figures.is_some_and(|figures| figures.volumes == 1), "{seen:?}");
        lab.servers.gone.store(true, Ordering::Relaxed);
        tokio::time::sleep(2 * EVERY).await;
        let gone = lab.seen("a").unwrap();
        assert!(!gone.reachable && gone.stat.is_none() && gone.figures.is_none(), "{gone:?}");
        tokio::time::sleep(10 * USED).await;
        assert!(!lab.seen("a").unwrap().reachable, "it is told for as long as it lasts");
        lab.servers.gone.store(false, Ordering::Relaxed);
        tokio::time::sleep(2 * EVERY).await;
        assert!(lab.seen("a").unwrap().reachable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_export_is_told_and_holds_up_no_other() {
        let lab = watch(&["a", "b"]);
        lab.call("a").await;
        lab.call("b").await;
        tokio::time::sleep(2 * SOON).await;
        let connected = lab.exports.pool().connected();
        let frozen = connected.iter().find(|export| *export.source() == export_of("a")).unwrap().fs();
        frozen.delay(10 * USED);
        tokio::time::sleep(EVERY + 2 * PATIENCE).await;
        assert!(!lab.seen("a").unwrap().reachable);
        let operations = frozen.operations();
        tokio::time::sleep(10 * EVERY).await;
        assert_eq!(frozen.operations(), operations, "no look begins while one hangs");
        let before = lab.seen("b").unwrap().checked;
        tokio::time::sleep(2 * EVERY).await;
        assert!(lab.seen("b").unwrap().reachable && lab.seen("b").unwrap().checked > before);
    }
}
