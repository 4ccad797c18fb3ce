//! The health of volumes (CSI 1.13, "Volume Health").

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::{Controller, existing_volume, secret_options};
use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::nfs::source::Source;
use crate::service::controller::list::{Page, Token};
use crate::service::health_response::volume_health;
use crate::service::proto::csi;
use crate::volume::find::{self, Found};
use crate::volume::health::{self, Condition};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::whole_export::WholeExport;

impl<C: Connect> Controller<C> {
    pub(super) async fn volume_health(
        &self,
        request: csi::ControllerGetVolumeHealthRequest,
    ) -> Result<csi::VolumeHealth> {
        let secret = secret_options(&request.secrets)?;
        if let Some(whole) = WholeExport::parse(&request.volume_id) {
            let conditions = self.whole_export_health(&whole, secret.as_ref()).await;
            let conditions = conditions.or_else(|error| health::from_error(error).map(|condition| vec![condition]))?;
            return Ok(volume_health(request.volume_id, conditions));
        }
        let id = existing_volume(&request.volume_id)?;
        let conditions = self
            .exports
            .on_volume(&id, secret.as_ref(), |export| {
                let id = id.clone();
                async move {
                    let found = find::get(&export, &id).await?;
                    let mut conditions: Vec<_> = health::of_volume(&id, &found).into_iter().collect();
                    if let (Some(name), Some(record)) = (id.name(), &found.record) {
                        conditions.extend(health::of_limits(&export, &name, record).await?);
                    }
                    conditions.extend(health::of_export(&export).await?);
                    Ok(conditions)
                }
            })
            .await
            .or_else(|error| health::from_error(error).map(|condition| vec![condition]))?;
        Ok(volume_health(request.volume_id, conditions))
    }

    pub(super) async fn list_health(
        &self,
        request: csi::ControllerListVolumeHealthRequest,
    ) -> Result<csi::ControllerListVolumeHealthResponse> {
        let (start, mut page) = (Token::parse(&request.starting_token)?, Page::new(request.max_entries)?);
        for (share, options) in self.exports.pool().known() {
            if start.is_after(&share) {
                continue;
            }
            let after = start.last_of(&share).cloned();
            let survey = |export: Arc<Export<C::Fs>>| {
                let (after, room) = (after.clone(), page.room());
                async move { survey(&export, after.as_ref(), room).await }
            };
            let unhealthy = match self.exports.on(&share, &options, survey).await {
                Ok(Survey { seen, unhealthy }) => {
                    self.surveyed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entry(share.clone())
                        .or_default()
                        .extend(seen);
                    unhealthy
                }
                Err(error) => self.inaccessible(&share, after.as_ref(), health::from_error(error)?),
            };
            if !page.take(&share, unhealthy) {
                break;
            }
        }
        Ok(csi::ControllerListVolumeHealthResponse {
            next_token: page.next_token(),
            entries: page
                .entries
                .into_iter()
                .map(|(_, _, (id, conditions))| volume_health(id.to_string(), conditions))
                .collect(),
        })
    }

    /// The volumes of an export that cannot be reached, from earlier surveys.
    fn inaccessible(&self, share: &Source, after: Option<&VolumeName>, why: Condition) -> Vec<(VolumeName, Unhealthy)> {
        let surveyed = self.surveyed.lock().unwrap_or_else(PoisonError::into_inner);
        let volumes =
            surveyed.get(share).into_iter().flatten().filter(|(name, _)| after.is_none_or(|after| *name > after));
        volumes.map(|(name, id)| (name.clone(), (id.clone(), vec![why.clone()]))).collect()
    }
}

type Unhealthy = (VolumeId, Vec<Condition>);

/// The result of a survey of an export.
struct Survey {
    /// All volumes that were checked.
    seen: BTreeMap<VolumeName, VolumeId>,
    unhealthy: Vec<(VolumeName, Unhealthy)>,
}

/// Checks the volumes of an export in order, those after `after`, until more than `room` are unhealthy.
async fn survey<F: Fs>(export: &Export<F>, after: Option<&VolumeName>, room: usize) -> Result<Survey> {
    let mut survey = Survey { seen: BTreeMap::new(), unhealthy: Vec::new() };
    let of_export = health::of_export(export).await?;
    for name in Record::names(export).await?.into_iter().filter(|name| after.is_none_or(|after| name > after)) {
        // A volume that was deleted meanwhile is skipped.
        let Some(record) = Record::read_or_skip(export, &name).await? else { continue };
        if record.pending {
            continue;
        }
        let directory = export.find_dir(&export.fs().root(), record.path()?).await?.is_some();
        let id = record.id.clone();
        let of_limits = health::of_limits(export, &name, &record).await?;
        let mut conditions: Vec<_> =
            health::of_volume(&id, &Found { record: Some(record), directory }).into_iter().collect();
        conditions.extend(of_limits.into_iter().chain(of_export.iter().cloned()));
        survey.seen.insert(name.clone(), id.clone());
        if !conditions.is_empty() {
            survey.unhealthy.push((name, (id, conditions)));
        }
        if survey.unhealthy.len() > room {
            break;
        }
    }
    Ok(survey)
}
