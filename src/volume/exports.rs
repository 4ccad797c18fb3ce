//! The exports that hold volumes, and the mount options to reach them with.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::locks::Guard;
use crate::export::pool::{Connect, Pool};
use crate::export::run_to_completion::run_to_completion;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::volume::find::{self, read_own};
use crate::volume::id::VolumeId;
use crate::volume::lock::lock;
use crate::volume::record::Record;

/// The mount options that the driver's flags name.
#[derive(Debug, Clone, Default)]
pub struct Configured {
    /// `--mount-options`.
    pub all: MountOptions,
    /// `--export-mount-options`: used for these exports instead of `all`.
    pub exports: BTreeMap<Source, MountOptions>,
}

impl Configured {
    /// The options for an export.
    pub fn of(&self, share: &Source) -> &MountOptions {
        self.exports.get(share).unwrap_or(&self.all)
    }
}

/// The exports and the options to mount them with. Options from a call's secrets override all others.
pub struct Exports<C: Connect> {
    pool: Arc<Pool<C>>,
    /// Used if nothing else gives options.
    configured: Configured,
}

/// How an export was reached for a volume.
#[derive(Debug, Clone)]
pub struct Reached {
    /// The options of [`Exports::reach`]; `None` if these are the volume's.
    by_trial: Option<MountOptions>,
}

impl Reached {
    /// The options in the volume's record, if the export was reached with others.
    pub fn others(&self, record: Option<&Record>) -> Result<Option<MountOptions>> {
        match (&self.by_trial, record) {
            (Some(used), Some(record)) if !record.mount_options.is_empty() => {
                let recorded = MountOptions::parse("mountOptions", record.mount_options.iter().cloned())?;
                Ok(Some(recorded).filter(|recorded| recorded != used))
            }
            _ => Ok(None),
        }
    }
}

impl<C: Connect> Exports<C> {
    /// The exports of `pool`. They are mounted with `configured` if nothing else gives options.
    pub fn new(pool: Arc<Pool<C>>, configured: Configured) -> Self {
        Self { pool, configured }
    }

    /// The connections to the exports.
    pub fn pool(&self) -> &Pool<C> {
        &self.pool
    }

    /// Every export that this process was asked about, with its [usual](Self::usual) options, in order.
    pub fn known(&self) -> Vec<(Source, MountOptions)> {
        let known = self.pool.known().into_iter();
        known
            .map(|(share, last)| (share.clone(), self.configured.exports.get(&share).cloned().unwrap_or(last)))
            .collect()
    }

    /// The options for a call that is about an export and not about one of its volumes: its own, otherwise those that
    /// last worked, otherwise those for all exports.
    pub fn usual(&self, share: &Source) -> MountOptions {
        let own = self.configured.exports.get(share).cloned();
        own.or_else(|| self.pool.options(share)).unwrap_or_else(|| self.configured.all.clone())
    }

    /// The options to use for an export if nothing else gives any.
    pub fn configured(&self, share: &Source) -> &MountOptions {
        self.configured.of(share)
    }

    /// Runs `work` on an export. If the connection is stale, runs it once more on a new connection. There is no retry
    /// after a time-out, because the time-out has used up the call's time; the next call gets a new connection.
    pub async fn on<T, W>(
        &self,
        share: &Source,
        options: &MountOptions,
        work: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>>,
    {
        let export = self.pool.get(share, options).await?;
        let done = work(export.clone()).await;
        match &done {
            Err(Error::Export { status, .. }) if self.pool.failed(&export, options, *status).await => {
                work(self.pool.get(share, options).await?).await
            }
            _ => done,
        }
    }

    /// Runs `work` on the export of a volume.
    pub async fn on_volume<T, W>(
        &self,
        id: &VolumeId,
        secret: Option<&MountOptions>,
        work: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>>,
    {
        let options = self.volume_options(id, secret).await?;
        self.on(&id.export(), &options, work).await
    }

    /// Runs `work` on the export of a volume, for which `work` reads the volume's record itself. So it asks [`Reached::others`]
    /// before it changes anything, and returns the other options. Then it runs once more, with these.
    pub async fn on_volume_or_again<T, W>(
        &self,
        id: &VolumeId,
        secret: Option<&MountOptions>,
        work: impl Fn(Arc<Export<C::Fs>>, Reached) -> W,
    ) -> Result<T>
    where
        W: Future<Output = Result<ControlFlow<T, MountOptions>>>,
    {
        let share = id.export();
        let (mut options, mut by_trial) = match secret {
            Some(options) => (options.clone(), false),
            None => (self.reach(&share).await?, true),
        };
        loop {
            let reached = Reached { by_trial: by_trial.then(|| options.clone()) };
            match self.on(&share, &options, |export| work(export, reached.clone())).await? {
                ControlFlow::Break(done) => return Ok(done),
                ControlFlow::Continue(others) => (options, by_trial) = (others, false),
            }
        }
    }

    /// Changes a volume under its lock. The caller may stop waiting for the lock. Once the change has started, it runs
    /// to completion even if the caller is gone, and a retry of the call waits for the lock until then.
    pub async fn change<T, W>(
        &self,
        id: &VolumeId,
        secret: Option<&MountOptions>,
        change: impl Fn(Arc<Export<C::Fs>>, Guard<C::Fs>) -> W,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let change = &change;
        let work = |export: Arc<Export<C::Fs>>| async move {
            if export.layout().await?.is_none() {
                // The lock needs the private directory, which a call for a volume that does not exist must not leave.
                find::get(&export, id).await?;
            }
            let lock = lock(&export, id).await?;
            run_to_completion(change(export, lock)).await
        };
        self.on_volume(id, secret, work).await
    }

    /// The options to reach a volume's export with: those of the secrets, otherwise those in the volume's record,
    /// otherwise those of [`Self::reach`].
    pub async fn volume_options(&self, id: &VolumeId, secret: Option<&MountOptions>) -> Result<MountOptions> {
        let recorded = |export: Arc<Export<C::Fs>>| async move {
            Ok(read_own(&export, id).await?.map(|record| record.mount_options))
        };
        self.recorded_options(&id.export(), secret, recorded).await
    }

    /// The options to reach an export with: those of the secrets, otherwise those that `recorded` reads from the export
    /// itself, otherwise those of [`Self::reach`].
    pub async fn recorded_options<W>(
        &self,
        share: &Source,
        secret: Option<&MountOptions>,
        recorded: impl Fn(Arc<Export<C::Fs>>) -> W,
    ) -> Result<MountOptions>
    where
        W: Future<Output = Result<Option<Vec<String>>>>,
    {
        if let Some(options) = secret {
            return Ok(options.clone());
        }
        let options = self.reach(share).await?;
        match self.on(share, &options, recorded).await? {
            Some(recorded) if !recorded.is_empty() => MountOptions::parse("mountOptions", recorded),
            _ => Ok(options),
        }
    }

    /// Finds options with which the export can be mounted, so that the right options can be read from a record on that
    /// export. These are its own, if the configuration has any. Otherwise this tries the options that last worked, then
    /// those for all exports, then these with TLS, which a server may require.
    pub async fn reach(&self, share: &Source) -> Result<MountOptions> {
        if let Some(own) = self.configured.exports.get(share) {
            return self.pool.get(share, own).await.map(|_| own.clone());
        }
        let configured = self.configured(share);
        let tls = configured.to_vec().into_iter().chain(["xprtsec=tls".into()]);
        let tls = MountOptions::parse("mountOptions", tls).ok();
        let mut refused = None;
        for options in self.pool.options(share).into_iter().chain([configured.clone()]).chain(tls) {
            match self.pool.get(share, &options).await {
                Ok(_) => return Ok(options),
                // Report the first refusal: it is about the options that should have worked.
                Err(error @ Error::Mount { .. }) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Internal(format!("there are no mount options to try for {share}"))))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::crash_harness::connect;
    use crate::testing::memory::MemoryServer;
    use crate::testing::memory_servers::{Process, Servers, export_of};

    #[tokio::test]
    async fn an_export_is_reached_with_the_secrets_options_or_else_the_recorded_ones_or_else_those_that_work() {
        let on = connect(&MemoryServer::new());
        let options = |text: &str| MountOptions::parse("", [text]).unwrap();
        let chosen = async |secret: Option<&MountOptions>, recorded: Option<&[&str]>| {
            let recorded = recorded.map(|texts| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
            let read = |_| std::future::ready(Ok(recorded.clone()));
            on.exports.recorded_options(on.source(), secret, read).await.unwrap()
        };
        let secret = options("vers=4.0");
        assert_eq!(chosen(Some(&secret), Some(&["vers=4.1"])).await, secret);
        assert_eq!(chosen(None, Some(&["vers=4.1"])).await, options("vers=4.1"));
        assert_eq!(chosen(None, Some(&[])).await, MountOptions::default());
        assert_eq!(chosen(None, None).await, MountOptions::default());
    }
    #[tokio::test]
    async fn work_that_finds_other_options_in_the_record_is_done_again_with_these_and_not_if_a_secret_gives_some() {
        let share = export_of("nfs");
        let servers = Servers::new([(share.clone(), MemoryServer::new())].into(), ";vers=4.0;vers=4.1;vers=4.2");
        let pool = Arc::new(Pool::new(Process::new(&servers), []));
        let exports = Exports::new(pool, Configured::default());
        let id = VolumeId::parse("nfs#export#v##").unwrap();
        let options = |text: &str| MountOptions::parse("", [text]).unwrap();
        let done_with = async |secret: Option<&MountOptions>, recorded: Option<&[&str]>| {
            let record = recorded.map(|texts| Record {
                mount_options: texts.iter().map(|&text| text.to_owned()).collect(),
                ..Record::unrecorded(&id)
            });
            let times = Cell::new(0);
            let work = |_, reached: Reached| {
                times.set(times.get() + 1);
                let (others, times) = (reached.others(record.as_ref()), times.get());
                async move { Ok(others?.map_or(ControlFlow::Break(times), ControlFlow::Continue)) }
            };
            exports.on_volume_or_again(&id, secret, work).await.unwrap()
        };
        assert_eq!(done_with(None, None).await, 1);
        assert_eq!(done_with(None, Some(&[])).await, 1);
        assert_eq!(done_with(None, Some(&["vers=4.1"])).await, 2);
        assert_eq!(done_with(None, Some(&["vers=4.1"])).await, 1, "they are known to work by now");
        assert_eq!(done_with(None, Some(&["vers=4.0"])).await, 2);
        assert_eq!(done_with(Some(&options("vers=4.2")), Some(&["vers=4.0"])).await, 1);
    }
}
