//! The calls for volumes that are an export itself.

use std::sync::Arc;

use super::Controller;
use crate::error::Result;
use crate::export::Export;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::service::int64;
use crate::service::proto::csi;
use crate::volume::create::Create;
use crate::volume::health;
use crate::volume::whole_export::{self, WholeExport};

impl<C: Connect> Controller<C> {
    pub(super) async fn create_whole_export(
        &self,
        volume: &WholeExport,
        create: &Create,
        options: &MountOptions,
    ) -> Result<csi::Volume> {
        self.check_whole_export(volume, options).await?;
        Ok(csi::Volume { capacity_bytes: int64(create.capacity.choose()), ..answer(volume) })
    }

    /// Reads a volume that is an export itself, which exists as long as its export answers.
    pub(super) async fn get_whole_export(
        &self,
        volume: &WholeExport,
        secret: Option<&MountOptions>,
    ) -> Result<csi::Volume> {
        self.check_whole_export(volume, &self.options_of(volume, secret).await?).await?;
        Ok(answer(volume))
    }

    pub(super) async fn whole_export_health(
        &self,
        volume: &WholeExport,
        secret: Option<&MountOptions>,
    ) -> Result<Vec<health::Condition>> {
        let options = self.options_of(volume, secret).await?;
        let ask = |export: Arc<Export<C::Fs>>| async move { health::of_export(&export).await };
        self.exports.on(&volume.export, &options, ask).await
    }

    async fn check_whole_export(&self, volume: &WholeExport, options: &MountOptions) -> Result<()> {
        let check = |export: Arc<Export<C::Fs>>| async move { whole_export::check(&export).await };
        self.exports.on(&volume.export, options, check).await
    }

    async fn options_of(&self, volume: &WholeExport, secret: Option<&MountOptions>) -> Result<MountOptions> {
        match secret {
            Some(options) => Ok(options.clone()),
            None => self.exports.reach(&volume.export).await,
        }
    }
}

/// The response for the volume. A node then mounts the share, and leaves the mode of its root as it is.
fn answer(volume: &WholeExport) -> csi::Volume {
    let WholeExport { export, .. } = volume;
    let context = [
        ("server", export.server.to_string()),
        ("share", export.share.to_string()),
        ("mountPermissions", "0".to_owned()),
    ];
    csi::Volume {
        volume_id: volume.to_string(),
        volume_context: context.map(|(key, value)| (key.to_owned(), value)).into(),
        ..csi::Volume::default()
    }
}
