//! The exports that volumes are on, reached by the options that serve.

use std::future::Future;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::locks::Guard;
use crate::export::pool::{Connect, Pool};
use crate::export::run_to_completion::run_to_completion;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::volume::find::read_own;
use crate::volume::id::VolumeId;
use crate::volume::lock::lock;

/// The exports, and what to reach them by. Where a method takes options from a call's secrets, those count before all others.
pub struct Exports<C: Connect> {
    pool: Arc<Pool<C>>,
    /// `--mount-options`: where nothing else names any.
    configured: MountOptions,
}

impl<C: Connect> Exports<C> {
    /// The exports of `pool`, which are mounted with the options `configured` where nothing else names any.
    pub fn new(pool: Arc<Pool<C>>, configured: MountOptions) -> Self {
        Self { pool, configured }
    }

    /// The connections to them.
    pub fn pool(&self) -> &Pool<C> {
        &self.pool
    }

    /// The options where nothing else names any.
    pub fn configured(&self) -> &MountOptions {
        &self.configured
    }

    /// Does `work` on an export, once more on a fresh connection where the one at hand turns out to be stale. (A connection that
    /// times out has taken the call's time: the next call gets a fresh one.)
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

    /// Does `work` on the export of a volume.
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

    /// Makes a change to a volume under its lock. Who waits for the lock may give up; once the change has begun it is made
    /// to its end, whatever becomes of the caller, and a retry of the call waits for it at the lock.
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
            let lock = lock(&export, id).await?;
            run_to_completion(change(export, lock)).await
        };
        self.on_volume(id, secret, work).await
    }

    /// The options to reach a volume's export by: the secrets', else those of the volume's record.
    pub async fn volume_options(&self, id: &VolumeId, secret: Option<&MountOptions>) -> Result<MountOptions> {
        let recorded = |export: Arc<Export<C::Fs>>| async move {
            Ok(read_own(&export, id).await?.map(|record| record.mount_options))
        };
        self.recorded_options(&id.export(), secret, recorded).await
    }

    /// The options to reach an export by: the secrets', else those that are `recorded` on that export itself.
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

    /// Options that an export can be reached by, where only a record on that very export knows the right ones: those of
    /// the last time, the driver's, or the driver's with TLS, which a server may insist on.
    pub async fn reach(&self, share: &Source) -> Result<MountOptions> {
        let tls = self.configured.to_vec().into_iter().chain(["xprtsec=tls".into()]);
        let tls = MountOptions::parse("mountOptions", tls).ok();
        let mut refused = None;
        for options in self.pool.options(share).into_iter().chain([self.configured.clone()]).chain(tls) {
            match self.pool.get(share, &options).await {
                Ok(_) => return Ok(options),
                // The first refusal is the one to tell of: it is about the options that should have worked.
                Err(error @ Error::Mount { .. }) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Internal(format!("no options to reach {share} by"))))
    }
}
